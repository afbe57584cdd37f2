//! One exchange on a connection of HTTP/1 (RFC 9112).
//!
//! Owns: the framing of both bodies, whether the connection goes on. Never touches: request heads,
//! which the door has read.

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
use crate::frontend::stream::stall::{Look, Stall};
use crate::semantics::chunked::{ChunkEvent, Decoder, Strictness};
use crate::semantics::field_case::FieldCase;
use crate::semantics::request::RequestFraming;
use crate::upstream::pinned_connections::ClientPins;

/// What is read at once.
const READ: usize = 16 * 1024;

/// Less room than this is worth a new buffer: smaller reads share the one there is, or many small
/// pieces of a body would each hold a whole buffer.
const ROOM: usize = READ / 4;

/// What is read ahead of what is wanted, to notice that the client is gone.
const AHEAD: usize = 64 * 1024;

/// How long what is left of a request's body may take once its answer is written.
const DRAIN: Duration = Duration::from_secs(5);

/// How much of it is read.
const DRAIN_BYTES: u64 = 64 * 1024 * 1024;

/// How long a client that sends more than that has for reading its answer.
const LAST_LOOK: Duration = Duration::from_millis(500);

/// One exchange.
pub struct Http1Session {
    io: ClientStream,
    /// What has been read and not used.
    rest: BytesMut,
    incoming: RequestBodyState,
    spelling: FieldCase,
    version: Version,
    /// Whether another request may follow.
    persists: bool,
    status: Option<StatusCode>,
    outgoing: ResponseFraming,
    /// What is to be written.
    queue: VecDeque<Bytes>,
    stall: Stall,
    look: Look,
    sent: u64,
}

/// What of the request's body is still to come.
enum RequestBodyState {
    Length(u64),
    Chunked(Decoder),
    Ended,
}

/// What of a body has been read and not used.
enum ReadBuffer {
    Data(Bytes),
    /// The body has ended.
    End,
    Nothing,
}

/// How the answer's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseFraming {
    /// Its head has not been written.
    Unwritten,
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
    Ended,
}

impl Http1Session {
    /// The exchange whose request had this head; `rest` was read behind it.
    pub fn new(
        io: ClientStream,
        rest: BytesMut,
        framing: RequestFraming,
        version: Version,
        persists: bool,
        head: Bytes,
    ) -> Self {
        let incoming = match framing {
            RequestFraming::None => RequestBodyState::Ended,
            RequestFraming::Length(length) => RequestBodyState::Length(length),
            RequestFraming::Chunked => RequestBodyState::Chunked(Decoder::new(Strictness::Request)),
        };
        // A second request that came with the first is not answered: the first answer says so.
        let pipelined = framing == RequestFraming::None && !rest.is_empty();
        let stall = Stall::new(io.in_flight());
        Self {
            io,
            rest,
            incoming,
            spelling: FieldCase::of(head),
            version,
            persists: persists && !pipelined,
            status: None,
            outgoing: ResponseFraming::Unwritten,
            queue: VecDeque::new(),
            stall,
            look: Look::default(),
            sent: 0,
        }
    }

    pub(super) async fn news(&mut self, reads: bool) -> Result<ClientEvent, ClientError> {
        poll_fn(|cx| self.poll_news(cx, reads)).await
    }

    fn poll_news(
        &mut self,
        cx: &mut Context<'_>,
        reads: bool,
    ) -> Poll<Result<ClientEvent, ClientError>> {
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

    /// What of the body has been read already.
    fn buffered_body(&mut self) -> Result<ReadBuffer, ClientError> {
        match &mut self.incoming {
            RequestBodyState::Ended => Ok(ReadBuffer::End),
            RequestBodyState::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(self.rest.len());
                if here == 0 {
                    return Ok(ReadBuffer::Nothing);
                }
                *left -= here as u64;
                if *left == 0 {
                    self.incoming = RequestBodyState::Ended;
                }
                Ok(ReadBuffer::Data(self.rest.split_to(here).freeze()))
            }
            RequestBodyState::Chunked(decoder) => match decoder.decode(&mut self.rest) {
                Ok(Some(ChunkEvent::Data(data))) => Ok(ReadBuffer::Data(data)),
                // Trailers of requests end here: nothing behind larder expects them.
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
        if self.rest.capacity() - self.rest.len() < ROOM {
            self.rest.reserve(READ);
        }
        let read = ready!(pin!(self.io.read_buf(&mut self.rest)).poll(cx));
        Poll::Ready(if matches!(read, Ok(1..)) { Ok(()) } else { Err(ClientError::Gone) })
    }

    pub(super) fn has_read_body(&self) -> bool {
        matches!(self.incoming, RequestBodyState::Ended)
    }

    pub(super) async fn gone(&mut self) -> ClientError {
        poll_fn(|cx| self.poll_gone(cx)).await;
        ClientError::Gone
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.rest.len() < AHEAD {
            if ready!(self.poll_read(cx)).is_err() {
                return Poll::Ready(());
            }
            // A next request: it waits if this answer has promised to take it.
            if self.has_read_body() && self.status.is_none() {
                self.persists = false;
            }
        }
        if let Poll::Ready(Err(_broken)) = Pin::new(&mut self.io).poll_flush(cx) {
            return Poll::Ready(());
        }
        self.look.poll(cx, || self.io.has_closed())
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

    pub(super) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    pub(super) fn is_ahead(&mut self, bytes: usize) {
        self.stall.is_ahead(bytes);
    }

    pub(super) fn body_bytes(&self) -> u64 {
        self.sent
    }

    pub(super) fn spelling(&self) -> FieldCase {
        self.spelling.clone()
    }

    pub(super) fn pins(&self) -> Option<&ClientPins> {
        self.io.pins()
    }

    pub(super) fn pins_to_be(&mut self) -> &ClientPins {
        self.io.pins_to_be()
    }

    /// The connection as it is, and what was read from it already: the protocol is another now.
    pub fn raw(&mut self) -> (&mut ClientStream, &[u8]) {
        (&mut self.io, &self.rest)
    }

    /// The connection, with what came of a next request, if another may follow. A connection that
    /// ends after a whole answer is closed in order; one with a cut answer is just let go.
    pub async fn finish(mut self) -> Option<(ClientStream, BytesMut)> {
        if self.outgoing != ResponseFraming::Ended {
            return None;
        }
        if self.persists {
            return Some((self.io, self.rest));
        }
        // The client may still be sending: a reset would take its answer away.
        let closed = async {
            let shut = self.io.shutdown().await.is_ok();
            let mut left = DRAIN_BYTES;
            let mut sink = vec![0; READ];
            while let (true, Ok(read @ 1..)) = (shut, self.io.read(&mut sink).await) {
                left = left.saturating_sub(read as u64);
                if left == 0 {
                    // It gets no more room, and still a moment to read its answer.
                    return tokio::time::sleep(LAST_LOOK).await;
                }
            }
        };
        // Past the time the client has had its chance to read it.
        let _late = timeout(DRAIN, closed).await;
        None
    }
}
