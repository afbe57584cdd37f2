//! The front door: from accepted connections to clean requests.
//!
//! Owns: listeners, the bytes of a connection until they are a clean request, `CONNECT`, tunnels,
//! interception, who may use larder. Never touches: routes, the store; it hands requests to a [`RequestHandler`].

pub mod access;
pub mod ca;
pub mod connection;
pub mod drain;
mod error_response;
pub mod head;
pub mod http1;
pub mod http1_only;
mod http2;
pub mod interception;
pub mod listener;
pub mod mount;
pub mod session;
pub mod shared_connection;
pub mod socket_owner;
pub mod splice;
pub mod stream;
pub mod target;
pub mod tunnel;
pub mod web_page;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode};

use crate::frontend::http1::Frontend;
use crate::frontend::session::ClientSession;
use crate::semantics::request::ProxyRequest;

/// An answer that is at hand: it is written as it is, and the connection goes on.
pub struct PreparedResponse {
    /// The head, blank line included.
    pub head: BytesMut,
    /// The body, of the length that the head says.
    pub body: Bytes,
    /// The route that it belongs to.
    pub route: usize,
    /// Its status.
    pub status: StatusCode,
    /// The value of its `Cache-Status`.
    pub cache_status: HeaderValue,
}

/// Who takes a clean request and answers it on its connection.
pub trait RequestHandler: Send + Sync + 'static {
    /// The answer to `asked`, an HTTP/1.1 request without a body on a connection that goes on, if it
    /// is at hand. `asked` may be normalised further in place; the answer that [`RequestHandler::serve`]
    /// gives to it stays the same.
    fn at_hand(&self, asked: &mut ProxyRequest) -> Option<PreparedResponse>;

    /// An answer that was at hand has been written, or the client was gone. `since`: when the
    /// request's head was there.
    fn written(&self, asked: &ProxyRequest, ready: &PreparedResponse, bytes: u64, since: Instant);

    /// Whether a route is about this origin: then what is sent to it in the clear inside a tunnel is
    /// answered like the rest.
    fn names(&self, host: &str, port: u16) -> bool;

    /// Answers `asked` on `session`. Returns it back, unless it has become something else, and whether
    /// its client stayed to the end.
    fn serve(&self, asked: ProxyRequest, session: ClientSession) -> ServeFuture<'_>;
}

/// An exchange under way. In a box: an idle connection must not carry the room that a request needs.
pub type ServeFuture<'a> = Pin<Box<dyn Future<Output = ServeOutcome> + Send + 'a>>;

/// What has come of an exchange.
pub struct ServeOutcome {
    /// The client's side; `None`: its connection speaks another protocol now, and has ended.
    pub session: Option<ClientSession>,
    /// The client gave the exchange up.
    pub given_up: bool,
}

/// Which door is in force: a reload puts another in its place.
pub trait CurrentFrontend: Send + Sync + 'static {
    /// The door for a request that begins now. Whoever holds it finishes with it.
    fn current(&self) -> Arc<Frontend>;
}
