//! The client's side of one exchange: its request's body is read, its answer is written.
//!
//! Owns: what both versions of HTTP have in common, and that a cut answer never looks whole.
//! Never touches: which answer is given.

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
use crate::upstream::pinned_connections::ClientPins;

/// Why a client's side of an exchange cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The client has closed, or reset its stream.
    #[error("the client is gone")]
    Gone,
    /// The client neither sent nor took anything for too long.
    #[error("the client has stalled")]
    Stalled,
    /// The request's body is not framed as its head says.
    #[error("the request's body is malformed")]
    Malformed,
}

/// What comes of waiting for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// What was queued is written: there is room for more.
    Room,
    /// A piece of the request's body; `None` at its end.
    Body(Option<Bytes>),
}

/// How long the body of an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none; `Content-BodyLength`, if it is among the fields, tells of another body.
    None,
    /// So many bytes.
    Known(u64),
    /// Its end is marked when it has come.
    Unknown,
}

/// One exchange with a client.
pub enum ClientSession {
    /// On a connection of HTTP/1.
    Http1(Box<Http1Session>),
    /// On a stream of HTTP/2.
    Http2(Box<Http2Session>),
}

impl ClientSession {
    /// What comes next: room for more of the answer, if there was none, and with `reads` the next piece
    /// of the request's body; else only that the client is gone. What was queued is written
    /// meanwhile. May be dropped while it waits.
    pub async fn news(&mut self, reads: bool) -> Result<ClientEvent, ClientError> {
        match self {
            Self::Http1(session) => session.news(reads).await,
            Self::Http2(session) => session.news(reads).await,
        }
    }

    /// Whether all of the request's body has been read.
    pub fn has_read_body(&self) -> bool {
        match self {
            Self::Http1(session) => session.has_read_body(),
            Self::Http2(session) => session.has_read_body(),
        }
    }

    /// Resolves when the client is gone, whatever of the request's body has been read. May be dropped
    /// while it waits. A half-close counts as gone.
    pub async fn gone(&mut self) -> ClientError {
        match self {
            Self::Http1(session) => session.gone().await,
            Self::Http2(session) => session.gone().await,
        }
    }

    /// Nobody wants the rest of the request's body. What has not come yet is not waited for: the
    /// connection then ends with the answer.
    pub fn skip_body(&mut self) {
        if let Self::Http1(session) = self {
            session.skip_body();
        }
    }

    /// The answer that begins next is the last of its connection.
    pub fn close_after(&mut self) {
        if let Self::Http1(session) = self {
            session.close_after();
        }
    }

    /// Writes an interim answer (RFC 9110 §15.2), where the client's version knows such.
    pub async fn write_interim(
        &mut self,
        status: StatusCode,
        mut headers: HeaderMap,
    ) -> Result<(), ClientError> {
        // RFC 9110 §8.6: it has no body of any length.
        headers.remove(http::header::CONTENT_LENGTH);
        match self {
            Self::Http1(session) => session.write_interim(status, &headers).await,
            Self::Http2(session) => session.write_interim(status, headers),
        }
    }

    /// Writes the head of the answer. `spelling`: how names are written where that can be seen.
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

    /// The other exchanges on the client's connection, where there may be any at the same time.
    pub fn siblings(&self) -> Option<&SharedConnection> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(session) => Some(session.siblings()),
        }
    }

    /// A connection of HTTP/2 takes no further requests once this one has been answered.
    pub fn leave_after(&mut self) {
        if let Self::Http2(session) = self {
            session.leave_after();
        }
    }

    /// Ends an exchange of HTTP/2 that has no answer yet: its request is to be made again over HTTP/1
    /// (RFC 9113 §7, `HTTP_1_1_REQUIRED`).
    pub fn require_http1(&mut self) {
        if let Self::Http2(session) = self {
            session.require_http1();
        }
    }

    /// Whether [`ClientSession::queue`] may be called.
    pub fn has_room(&self) -> bool {
        match self {
            Self::Http1(session) => session.has_room(),
            Self::Http2(session) => session.has_room(),
        }
    }

    /// While the client is waited for, an origin may send so many bytes ahead of it.
    pub fn is_ahead(&mut self, bytes: usize) {
        match self {
            Self::Http1(session) => session.is_ahead(bytes),
            Self::Http2(session) => session.is_ahead(bytes),
        }
    }

    /// Takes a piece of the answer's body, which is written while [`ClientSession::news`] is awaited.
    pub fn queue(&mut self, piece: Bytes) -> Result<(), ClientError> {
        match self {
            Self::Http1(session) => session.queue(piece),
            Self::Http2(session) => {
                session.queue(piece);
                Ok(())
            }
        }
    }

    /// Writes a piece of the answer's body, and waits until the client has taken it.
    pub async fn write_body(&mut self, piece: Bytes) -> Result<(), ClientError> {
        self.queue(piece)?;
        self.drained().await
    }

    async fn drained(&mut self) -> Result<(), ClientError> {
        match self {
            Self::Http1(session) => session.drained().await,
            Self::Http2(session) => session.drained().await,
        }
    }

    /// Ends the answer, which is whole. Without this the client sees that it is not.
    pub async fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), ClientError> {
        self.drained().await?;
        match self {
            Self::Http1(session) => session.end().await,
            Self::Http2(session) => session.end(trailers),
        }
    }

    /// Sends what has been written so far.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        match self {
            Self::Http1(session) => session.flush().await,
            Self::Http2(_) => Ok(()),
        }
    }

    /// The status of the answer, once its head has been written.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Http1(session) => session.status(),
            Self::Http2(session) => session.status(),
        }
    }

    /// Bytes of the answer's body that have been written.
    pub fn body_bytes(&self) -> u64 {
        match self {
            Self::Http1(session) => session.body_bytes(),
            Self::Http2(session) => session.body_bytes(),
        }
    }

    /// The connections to origins on which the client has signed in, if it ever has.
    pub fn pins(&self) -> Option<&ClientPins> {
        match self {
            Self::Http1(session) => session.pins(),
            Self::Http2(_) => None,
        }
    }

    /// A place for them; `None` where many exchanges share the client's connection, which can be no one
    /// user's then.
    pub fn pins_to_be(&mut self) -> Option<&ClientPins> {
        match self {
            Self::Http1(session) => Some(session.pins_to_be()),
            Self::Http2(_) => None,
        }
    }

    /// How the request's field names were spelled.
    pub fn spelling(&self) -> FieldCase {
        match self {
            Self::Http1(session) => session.spelling(),
            Self::Http2(_) => FieldCase::default(),
        }
    }
}
