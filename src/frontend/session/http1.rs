//! An exchange on an HTTP/1 connection (RFC 9112).
//!
//! Owns: the framing of both bodies, the persistence of the connection. Never touches: request heads
//! (`frontend::http1`).

mod response;

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::frontend::session::{ClientError, ClientEvent};
use crate::frontend::stream::ClientStream;
use crate::frontend::stream::stall::{PeriodicCheck, Stall};
use crate::semantics::chunked::{ChunkEvent, Decoder, Strictness};
use crate::semantics::field_case::FieldCase;
use crate::semantics::request::{ProxyRequest, RequestFraming};

/// The number of bytes read at once.
const READ_SIZE: usize = 16 * 1024;

/// A buffer with less free space than this is replaced. Smaller reads share a buffer: otherwise many
/// small pieces of a body would each hold a whole buffer.
const MIN_FREE: usize = READ_SIZE / 4;

/// The number of bytes read ahead to notice that the client has disconnected.
const READ_AHEAD: usize = 64 * 1024;

/// How long larder reads the rest of a request body after it has written the response.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum size of that rest.
const DRAIN_BYTES: u64 = 64 * 1024 * 1024;

/// How long a client that sends more than that has to read its response.
const LINGER: Duration = Duration::from_millis(500);

/// An exchange on HTTP/1.
pub struct Http1Session {
    pub(super) io: ClientStream,
    /// Bytes that have been read and not used.
    rest: BytesMut,
    incoming: RequestBodyState,
    pub(super) spelling: FieldCase,
    version: Version,
    /// Whether another request may follow.
    persists: bool,
    pub(super) status: Option<StatusCode>,
    outgoing: ResponseFraming,
    /// The data to be written.
    queue: VecDeque<Bytes>,
    pub(super) stall: Stall,
    close_check: PeriodicCheck,
    /// The body bytes of the response that have been written.
    pub(super) sent: u64,
}

/// The part of the request body that has not been read.
enum RequestBodyState {
    Length(u64),
    Chunked(Decoder),
    Ended,
}

/// Body data from the read buffer.
enum ReadBuffer {
    Data(Bytes),
    /// The body has ended.
    End,
    Nothing,
}

/// How the end of the response is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseFraming {
    /// The head has not been written.
    Unwritten,
    /// The number of bytes that remain.
    Length(u64),
    Chunked,
    /// The connection closes at the end.
    Close,
    Ended,
}

impl Http1Session {
    /// Creates the exchange of a request with this `head`; `rest` was read after it.
    pub fn new(
        io: ClientStream,
        rest: BytesMut,
        request: &ProxyRequest,
        persists: bool,
        head: Bytes,
    ) -> Self {
        let incoming = match request.body {
            RequestFraming::None => RequestBodyState::Ended,
            RequestFraming::Length(length) => RequestBodyState::Length(length),
            RequestFraming::Chunked => RequestBodyState::Chunked(Decoder::new(Strictness::Request)),
        };
        // A pipelined request is not served: the first response announces that the connection closes.
        let pipelined = request.body == RequestFraming::None && !rest.is_empty();
        let stall = Stall::new(io.in_flight());
        Self {
            io,
            rest,
            incoming,
            spelling: FieldCase::from_head(head),
            version: request.version,
            persists: persists && !pipelined,
            status: None,
            outgoing: ResponseFraming::Unwritten,
            queue: VecDeque::new(),
            stall,
            close_check: PeriodicCheck::default(),
            sent: 0,
        }
    }

    pub(super) async fn next_event(&mut self, reads: bool) -> Result<ClientEvent, ClientError> {
        poll_fn(|cx| self.poll_event(cx, reads)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, reads: bool) -> Poll<Result<ClientEvent, ClientError>> {
        if !self.queue.is_empty() && self.poll_queue(cx)?.is_ready() {
            return Poll::Ready(Ok(ClientEvent::Room));
        }
        if !reads {
            return self.poll_gone(cx).map(|()| Err(ClientError::Gone));
        }
        loop {
            match self.buffered_body()? {
                ReadBuffer::Data(data) => return Poll::Ready(Ok(ClientEvent::Body(Some(data)))),
                ReadBuffer::End => return Poll::Ready(Ok(ClientEvent::Body(None))),
                ReadBuffer::Nothing => ready!(self.poll_read(cx))?,
            }
        }
    }

    /// Takes body data that has already been read.
    fn buffered_body(&mut self) -> Result<ReadBuffer, ClientError> {
        match &mut self.incoming {
            RequestBodyState::Ended => Ok(ReadBuffer::End),
            RequestBodyState::Length(left) => {
                let available = usize::try_from(*left).unwrap_or(usize::MAX).min(self.rest.len());
                if available == 0 {
                    return Ok(ReadBuffer::Nothing);
                }
                *left -= available as u64;
                if *left == 0 {
                    self.incoming = RequestBodyState::Ended;
                }
                Ok(ReadBuffer::Data(self.rest.split_to(available).freeze()))
            }
            RequestBodyState::Chunked(decoder) => match decoder.decode(&mut self.rest) {
                Ok(Some(ChunkEvent::Data(data))) => Ok(ReadBuffer::Data(data)),
                // Request trailers are dropped here: no later component uses them.
                Ok(Some(ChunkEvent::End(_trailers))) => {
                    self.incoming = RequestBodyState::Ended;
                    Ok(ReadBuffer::End)
                }
                Ok(None) => Ok(ReadBuffer::Nothing),
                Err(_malformed) => {
                    self.persists = false;
                    Err(ClientError::Malformed)
                }
            },
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        if self.rest.capacity() - self.rest.len() < MIN_FREE {
            self.rest.reserve(READ_SIZE);
        }
        let read = ready!(pin!(self.io.read_buf(&mut self.rest)).poll(cx));
        Poll::Ready(if matches!(read, Ok(1..)) { Ok(()) } else { Err(ClientError::Gone) })
    }

    pub(super) fn has_read_body(&self) -> bool {
        matches!(self.incoming, RequestBodyState::Ended)
    }

    pub(super) async fn until_gone(&mut self) -> ClientError {
        poll_fn(|cx| self.poll_gone(cx)).await;
        ClientError::Gone
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.rest.len() < READ_AHEAD {
            if ready!(self.poll_read(cx)).is_err() {
                return Poll::Ready(());
            }
            // The bytes belong to a next request. It waits if this response has already announced a
            // persistent connection.
            if self.has_read_body() && self.status.is_none() {
                self.persists = false;
            }
        }
        if let Poll::Ready(Err(_broken)) = Pin::new(&mut self.io).poll_flush(cx) {
            return Poll::Ready(());
        }
        self.close_check.poll(cx, || self.io.has_closed())
    }

    pub(super) fn skip_body(&mut self) {
        while matches!(self.buffered_body(), Ok(ReadBuffer::Data(_))) {}
        self.persists &= self.has_read_body();
    }

    pub(super) fn close_after(&mut self) {
        if self.status.is_none() {
            self.persists = false;
        }
    }

    /// The connection and the bytes already read from it, after a switch to another protocol.
    pub fn raw(&mut self) -> (&mut ClientStream, &[u8]) {
        (&mut self.io, &self.rest)
    }

    /// Ends the exchange. Returns the connection with the bytes of a next request, if another may
    /// follow. A connection that ends after a complete response is closed in order; after a truncated
    /// response it is dropped.
    pub async fn finish(mut self) -> Option<(ClientStream, BytesMut)> {
        if self.outgoing != ResponseFraming::Ended {
            return None;
        }
        if self.persists {
            return Some((self.io, self.rest));
        }
        // The client may still be sending: a reset would discard its response.
        let closed = async {
            let shut = self.io.shutdown().await.is_ok();
            let mut left = DRAIN_BYTES;
            let mut sink = vec![0; READ_SIZE];
            while let (true, Ok(read @ 1..)) = (shut, self.io.read(&mut sink).await) {
                left = left.saturating_sub(read as u64);
                if left == 0 {
                    // Nothing more is read, but the client gets a moment to read its response.
                    return tokio::time::sleep(LINGER).await;
                }
            }
        };
        // After the timeout the client has had its chance to read the response.
        let _late = timeout(DRAIN_TIMEOUT, closed).await;
        None
    }
}
