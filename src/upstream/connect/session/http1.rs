//! One call on an HTTP/1 connection (RFC 9112).
//!
//! Owns: strict framing of both messages: a response that two parsers could read differently is an error.
//! Never touches: establishing the connection, reusing it (`pool`).

mod head;

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};

use crate::semantics::chunked::{ChunkEvent, Decoder, Strictness};
use crate::semantics::request::RequestFraming;
use crate::semantics::status;
use crate::upstream::BodyFraming;
use crate::upstream::connect::session::http1::head::{
    find_head_end, framing, is_misframed, parse_response_head, persists, request_head,
};
use crate::upstream::connect::session::{
    InterimCounter, OutgoingRequest, RequestPart, SessionError, SessionEvent, length, merge_content_length,
};
use crate::upstream::connect::tls_error::TlsError;

/// Bytes per read while waiting for a head, and inside a body.
const READ_HEAD: usize = 8 * 1024;
const READ_BODY: usize = 32 * 1024;

/// One call.
pub struct Http1Call {
    stream: Stream,
    method: Method,
    upgrades: bool,
    /// Bytes to be written.
    out: VecDeque<Bytes>,
    body: RequestFraming,
    upload: UploadState,
    input: BytesMut,
    /// Bytes of `input` already searched for the end of the head.
    scanned: usize,
    incoming: ResponseBodyState,
    interims: InterimCounter,
    /// Whether the connection may be reused after this call.
    persists: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadState {
    /// More body may follow.
    Open,
    /// Queued or written, but not yet flushed.
    Unflushed {
        ended: bool,
    },
    Ended,
    /// The origin accepts no more.
    Refused,
}

#[derive(Debug)]
enum ResponseBodyState {
    Head,
    Length(u64),
    Chunked(Decoder),
    Close,
    Ended,
}

/// The connection once both sides have switched to another protocol.
pub struct UpgradedConnection {
    /// The connection.
    pub stream: Stream,
    /// Bytes that were already read from it.
    pub buffered: BytesMut,
}

impl Http1Call {
    /// Begins a call.
    pub(in crate::upstream) fn new(stream: Stream, request: &OutgoingRequest) -> Self {
        let ends = request.body == RequestFraming::None;
        Self {
            stream,
            method: request.method.clone(),
            upgrades: request.upgrade.is_some(),
            out: VecDeque::from([request_head(request)]),
            body: request.body,
            upload: UploadState::Unflushed { ended: ends },
            input: BytesMut::new(),
            scanned: 0,
            incoming: ResponseBodyState::Head,
            interims: InterimCounter::default(),
            persists: true,
        }
    }

    pub(super) fn can_send(&self) -> bool {
        self.out.is_empty() && self.upload == UploadState::Open
    }

    pub(super) fn send(&mut self, part: RequestPart) {
        let ended = part == RequestPart::End;
        // An empty chunk would end the body.
        if matches!(&part, RequestPart::Data(data) if data.is_empty()) {
            return;
        }
        match (self.body, part) {
            (RequestFraming::Chunked, RequestPart::Data(data)) => {
                self.out.push_back(Bytes::from(format!("{:x}\r\n", data.len())));
                self.out.push_back(data);
                self.out.push_back(Bytes::from_static(b"\r\n"));
            }
            (RequestFraming::Chunked, RequestPart::End) => {
                self.out.push_back(Bytes::from_static(b"0\r\n\r\n"));
            }
            (RequestFraming::None | RequestFraming::Length(_), RequestPart::Data(data)) => {
                self.out.push_back(data);
            }
            (RequestFraming::None | RequestFraming::Length(_), RequestPart::End) => {}
        }
        if self.upload == UploadState::Open {
            self.upload = UploadState::Unflushed { ended };
        }
    }

    pub(super) async fn next(&mut self, read_response: bool) -> Result<SessionEvent, SessionError> {
        poll_fn(|cx| self.poll_next(cx, read_response)).await
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        read_response: bool,
    ) -> Poll<Result<SessionEvent, SessionError>> {
        let had_room = self.can_send();
        if self.poll_send(cx).is_err() {
            // The origin may have responded before it closed its side, so the response is still read.
            self.out.clear();
            self.upload = UploadState::Refused;
            self.persists = false;
        }
        if !had_room && self.can_send() {
            return Poll::Ready(Ok(SessionEvent::SendReady));
        }
        if !read_response {
            return Poll::Pending;
        }
        loop {
            if let Some(event) = self.parse_next()? {
                return Poll::Ready(Ok(event));
            }
            let read = ready!(self.poll_read(cx));
            match read {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(self.on_eof()),
                Err(error) => {
                    let tls_error = TlsError::from_io_error(&error).filter(|_| self.awaits_head());
                    return Poll::Ready(Err(
                        tls_error.map_or_else(|| self.truncation_error(), SessionError::Tls)
                    ));
                }
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Some(front) = self.out.front_mut() {
            match Pin::new(&mut self.stream).poll_write(cx, front) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => front.advance(written),
                Poll::Ready(Err(error)) => return Err(error),
            }
            if front.is_empty() {
                self.out.pop_front();
            }
        }
        if let UploadState::Unflushed { ended } = self.upload {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(error),
            }
            self.upload = if ended { UploadState::Ended } else { UploadState::Open };
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wanted = if self.awaits_head() { READ_HEAD } else { READ_BODY };
        // Small reads share a buffer, otherwise each small piece of a body would keep a whole buffer alive.
        if self.input.capacity() - self.input.len() < wanted / 4 {
            self.input.reserve(wanted);
        }
        let read = self.stream.read_buf(&mut self.input);
        std::pin::pin!(read).poll(cx)
    }

    /// Parses the next event from the buffered bytes; `None`: more bytes are needed.
    fn parse_next(&mut self) -> Result<Option<SessionEvent>, SessionError> {
        match &mut self.incoming {
            ResponseBodyState::Head => self.parse_head(),
            ResponseBodyState::Length(0) => {
                self.incoming = ResponseBodyState::Ended;
                Ok(Some(SessionEvent::End(None)))
            }
            ResponseBodyState::Length(left) => {
                let available = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                *left -= available as u64;
                Ok((available > 0).then(|| SessionEvent::Data(self.input.split_to(available).freeze())))
            }
            ResponseBodyState::Chunked(decoder) => {
                match decoder.decode(&mut self.input).map_err(|_malformed| SessionError::Cut)? {
                    None => Ok(None),
                    Some(ChunkEvent::Data(data)) => Ok(Some(SessionEvent::Data(data))),
                    Some(ChunkEvent::End(trailers)) => {
                        self.incoming = ResponseBodyState::Ended;
                        Ok(Some(SessionEvent::End((!trailers.is_empty()).then_some(trailers))))
                    }
                }
            }
            ResponseBodyState::Close if self.input.is_empty() => Ok(None),
            ResponseBodyState::Close => Ok(Some(SessionEvent::Data(self.input.split().freeze()))),
            ResponseBodyState::Ended => Ok(Some(SessionEvent::End(None))),
        }
    }

    fn parse_head(&mut self) -> Result<Option<SessionEvent>, SessionError> {
        let Some(end) = find_head_end(&self.input, &mut self.scanned)? else { return Ok(None) };
        self.scanned = 0;
        let raw = self.input.split_to(end).freeze();
        let mut head = parse_response_head(&raw)?;
        if status::is_interim(head.status) {
            self.interims.add()?;
            return Ok(Some(SessionEvent::Head(Box::new(head))));
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 9110 §15.2.2: a switch is allowed only if the request contained `Upgrade`.
            if !self.upgrades {
                return Err(SessionError::Switched);
            }
            self.persists = false;
        }
        self.persists &= persists(&head) && !is_misframed(&head);
        let content_length = length(&head.headers)?;
        merge_content_length(&mut head.headers, content_length);
        head.framing = framing(&head, &self.method)?;
        self.incoming = match head.framing {
            BodyFraming::Length(length) => ResponseBodyState::Length(length),
            BodyFraming::Delimited => ResponseBodyState::Chunked(Decoder::new(Strictness::Response)),
            BodyFraming::Close => ResponseBodyState::Close,
        };
        head.ended = head.framing == BodyFraming::Length(0);
        Ok(Some(SessionEvent::Head(Box::new(head))))
    }

    /// Handles the end of the origin's side of the connection.
    fn on_eof(&mut self) -> Result<SessionEvent, SessionError> {
        self.persists = false;
        if matches!(self.incoming, ResponseBodyState::Close) {
            self.incoming = ResponseBodyState::Ended;
            return Ok(SessionEvent::End(None));
        }
        Err(self.truncation_error())
    }

    fn truncation_error(&self) -> SessionError {
        let nothing_received = self.awaits_head() && self.input.is_empty() && self.interims.is_empty();
        if nothing_received { SessionError::Closed } else { SessionError::Cut }
    }

    pub(super) fn persists(&self) -> bool {
        self.persists && !matches!(self.incoming, ResponseBodyState::Close)
    }

    fn awaits_head(&self) -> bool {
        matches!(self.incoming, ResponseBodyState::Head)
    }

    /// The connection, if it may be reused for another call.
    pub(in crate::upstream) fn into_reusable(self) -> Option<Stream> {
        // Bytes behind the response belong to no request (response queue poisoning).
        let clean = self.input.is_empty() && matches!(self.incoming, ResponseBodyState::Ended);
        (self.persists && clean && self.upload == UploadState::Ended).then_some(self.stream)
    }

    /// The connection itself, after a switch to another protocol.
    pub fn into_upgraded(self) -> UpgradedConnection {
        UpgradedConnection { stream: self.stream, buffered: self.input }
    }
}
