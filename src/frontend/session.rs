//! The client's side of an exchange: reads the request body and writes the response.
//!
//! Owns: the behaviour that both HTTP versions share; a truncated response never looks complete. Never
//! touches: the choice of the response.

mod http1;
mod http2;
mod unsent_bytes;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

pub use crate::frontend::session::http1::Http1Session;
pub use crate::frontend::session::http2::Http2Session;
pub use crate::frontend::session::unsent_bytes::UnsentBytes;
use crate::frontend::shared_connection::SharedConnection;
use crate::semantics::field_case::FieldCase;
use crate::upstream::connect::pinned::ClientPins;

/// The reason why the client's side of an exchange cannot continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The client has closed the connection, or reset its stream.
    #[error("the client has disconnected")]
    Gone,
    /// The client neither sent nor read anything for too long.
    #[error("the client has stalled")]
    Stalled,
    /// The request body violates its framing.
    #[error("the request body is malformed")]
    Malformed,
}

/// An event on the client's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The queued data is written: there is capacity for more.
    Room,
    /// A piece of the request body; `None` at its end.
    Body(Option<Bytes>),
}

/// The length of a response body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body; `Content-Length`, if present, refers to another body.
    None,
    /// The number of bytes is known.
    Known(u64),
    /// The length is unknown; the framing marks the end.
    Unknown,
}

/// One exchange with a client.
pub enum ClientSession {
    /// On an HTTP/1 connection.
    Http1(Box<Http1Session>),
    /// On an HTTP/2 stream.
    Http2(Box<Http2Session>),
}

/// The value of an expression with the session of either HTTP version.
macro_rules! for_either {
    ($client:expr, $session:ident => $value:expr) => {
        match $client {
            Self::Http1($session) => $value,
            Self::Http2($session) => $value,
        }
    };
}

impl ClientSession {
    /// Waits for the next event: capacity for more of the response, if there was none, and with `reads`
    /// the next piece of the request body; without `reads` it only detects that the client has
    /// disconnected. Queued data is written meanwhile. Cancel-safe.
    pub async fn next_event(&mut self, reads: bool) -> Result<ClientEvent, ClientError> {
        for_either!(self, session => session.next_event(reads).await)
    }

    /// Whether the whole request body has been read.
    pub fn has_read_body(&self) -> bool {
        for_either!(self, session => session.has_read_body())
    }

    /// Resolves when the client has disconnected, however much of the request body has been read.
    /// Cancel-safe. A half-close counts as a disconnect.
    pub async fn until_gone(&mut self) -> ClientError {
        for_either!(self, session => session.until_gone().await)
    }

    /// Discards the rest of the request body. Bytes that have not arrived are not waited for: the
    /// connection then closes after the response.
    pub fn skip_body(&mut self) {
        if let Self::Http1(session) = self {
            session.skip_body();
        }
    }

    /// Makes the next response the last of its connection.
    pub fn close_after(&mut self) {
        if let Self::Http1(session) = self {
            session.close_after();
        }
    }

    /// Writes an interim response (RFC 9110 §15.2), if the client's HTTP version supports it.
    pub async fn write_interim(
        &mut self,
        status: StatusCode,
        mut headers: HeaderMap,
    ) -> Result<(), ClientError> {
        // RFC 9110 §8.6: an interim response has no body length.
        headers.remove(http::header::CONTENT_LENGTH);
        match self {
            Self::Http1(session) => session.write_interim(status, &headers).await,
            Self::Http2(session) => session.write_interim(status, headers),
        }
    }

    /// Writes the response head. `spelling`: the spelling of field names, where the protocol preserves it.
    pub async fn write_head(
        &mut self,
        status: StatusCode,
        headers: HeaderMap,
        length: BodyLength,
        spelling: &FieldCase,
    ) -> Result<(), ClientError> {
        match self {
            Self::Http1(session) => session.write_head(status, headers, length, spelling).await,
            Self::Http2(session) => session.write_head(status, headers, length),
        }
    }

    /// The state that exchanges on the client's connection share; `None` on HTTP/1, which has one
    /// exchange at a time.
    pub fn shared_connection(&self) -> Option<&SharedConnection> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(session) => Some(&session.shared),
        }
    }

    /// Lets an HTTP/2 connection accept no further requests once this one has its response.
    pub fn goaway_after(&mut self) {
        if let Self::Http2(session) = self {
            session.is_last = true;
        }
    }

    /// Ends an HTTP/2 exchange that has no response yet: the client must repeat the request over HTTP/1
    /// (RFC 9113 §7, `HTTP_1_1_REQUIRED`).
    pub fn require_http1(&mut self) {
        if let Self::Http2(session) = self {
            session.require_http1();
        }
    }

    /// Whether [`ClientSession::queue`] may be called.
    pub fn has_room(&self) -> bool {
        for_either!(self, session => session.has_room())
    }

    /// Sets the number of bytes that an origin may send ahead while larder waits for the client.
    pub fn set_read_ahead(&mut self, bytes: usize) {
        for_either!(self, session => session.stall.set_read_ahead(bytes));
    }

    /// Queues a piece of the response body. It is written while [`ClientSession::next_event`] is awaited.
    pub fn queue(&mut self, piece: Bytes) -> Result<(), ClientError> {
        match self {
            Self::Http1(session) => session.queue(piece),
            Self::Http2(session) => {
                session.queue(piece);
                Ok(())
            }
        }
    }

    /// Writes a piece of the response body and waits until the client has accepted it.
    pub async fn write_body(&mut self, piece: Bytes) -> Result<(), ClientError> {
        self.queue(piece)?;
        self.drained().await
    }

    async fn drained(&mut self) -> Result<(), ClientError> {
        for_either!(self, session => session.drained().await)
    }

    /// Ends a complete response. Without this call the client sees that the response is incomplete.
    pub async fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), ClientError> {
        self.drained().await?;
        match self {
            Self::Http1(session) => session.end().await,
            Self::Http2(session) => session.end(trailers),
        }
    }

    /// Sends the data that has been written so far.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        match self {
            Self::Http1(session) => session.flush().await,
            Self::Http2(_) => Ok(()),
        }
    }

    /// The response status, once the head has been written.
    pub fn status(&self) -> Option<StatusCode> {
        for_either!(self, session => session.status)
    }

    /// The number of response body bytes that have been written.
    pub fn body_bytes(&self) -> u64 {
        for_either!(self, session => session.sent)
    }

    /// The origin connections on which the client has authenticated, if any.
    pub fn pins(&self) -> Option<&ClientPins> {
        match self {
            Self::Http1(session) => session.io.pins(),
            Self::Http2(_) => None,
        }
    }

    /// Like [`ClientSession::pins`], but creates an empty set if there is none. `None` on HTTP/2: many
    /// exchanges share the client's connection, so it cannot belong to one user.
    pub fn ensure_pins(&mut self) -> Option<&ClientPins> {
        match self {
            Self::Http1(session) => Some(session.io.ensure_pins()),
            Self::Http2(_) => None,
        }
    }

    /// The spelling of the request's field names.
    pub fn spelling(&self) -> FieldCase {
        match self {
            Self::Http1(session) => session.spelling.clone(),
            Self::Http2(_) => FieldCase::default(),
        }
    }
}
