//! The client-facing side: from accepted connections to valid requests.
//!
//! Owns: listeners, reading requests from a connection, `CONNECT`, tunnels, interception, access
//! control. Never touches: routes, the store; it passes requests to a [`RequestHandler`].

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

use crate::engine::lookup::MemoryLookup;
use crate::frontend::http1::Frontend;
use crate::frontend::session::ClientSession;
use crate::semantics::request::ProxyRequest;
use crate::upstream::connect::pinned::ClientPins;
use crate::upstream::routed_request::RoutedRequest;

/// A response that is available without waiting. It is written as it is, and the connection stays open.
pub struct PreparedResponse {
    /// The head, including the blank line.
    pub head: BytesMut,
    /// The body, with the length that the head announces.
    pub body: Bytes,
    /// The response status.
    pub status: StatusCode,
    /// The value of its `Cache-Status` field.
    pub cache_status: HeaderValue,
}

/// The attempt to respond without waiting.
pub enum Prepared {
    /// A response.
    Response(PreparedResponse),
    /// None; [`RequestHandler::serve`] takes the result of the lookup in memory, if there was one.
    NotPrepared(Option<MemoryLookup>),
}

/// Serves valid requests on their connections.
pub trait RequestHandler: Send + Sync + 'static {
    /// Resolves the route and the cache key of `request`, once. `pins`: the connections to origins on which its
    /// client has authenticated.
    fn route(&self, request: ProxyRequest, pins: Option<&ClientPins>) -> RoutedRequest;

    /// The response to `routed`, if it is available without waiting. `routed` is an HTTP/1.1 request without a
    /// body on a persistent connection.
    fn prepare(&self, routed: &RoutedRequest) -> Prepared;

    /// Records a prepared response that was written, or whose client has disconnected. `since`: the
    /// time when the request's head was complete.
    fn record_prepared(
        &self,
        routed: &RoutedRequest,
        response: &PreparedResponse,
        bytes: u64,
        since: Instant,
    );

    /// Whether a route matches this origin. Plaintext requests to such an origin inside a tunnel are
    /// then served like all others.
    fn has_route_for(&self, host: &str, port: u16) -> bool;

    /// Responds to `routed` on `session`. `looked_up`: the result of [`RequestHandler::prepare`]. Returns the
    /// session, unless its connection has switched to another protocol, and whether the client disconnected
    /// before the end.
    fn serve(
        &self,
        routed: RoutedRequest,
        looked_up: Option<MemoryLookup>,
        session: ClientSession,
    ) -> ServeFuture<'_>;
}

/// The future of an exchange. It is boxed, so that an idle connection does not carry the memory that a
/// request needs.
pub type ServeFuture<'a> = Pin<Box<dyn Future<Output = ServeOutcome> + Send + 'a>>;

/// The result of an exchange.
pub struct ServeOutcome {
    /// The client session; `None`: its connection switched to another protocol and has ended.
    pub session: Option<ClientSession>,
    /// Whether the client aborted the exchange.
    pub client_aborted: bool,
}

/// Provides the current [`Frontend`]: a reload replaces it.
pub trait CurrentFrontend: Send + Sync + 'static {
    /// The frontend for a request that begins now. A request keeps its frontend until it ends.
    fn current(&self) -> Arc<Frontend>;
}
