//! The proxy: connects the frontend to the engine. The engine responds to a valid request, or the
//! request passes through to its origin.
//!
//! Owns: the pass-through. Never touches: unparsed heads (`frontend`), the store.

mod body_capture;
mod connection_auth;
mod context;
mod cors;
mod detached_call;
mod exchange;
mod fast_path;
mod forwarded_message;
mod inactivity;
mod mount_headers;
mod own_response;
mod relay;
mod response_writer;
mod retry;
mod serve;
mod upgrade;
mod upload;
mod upload_rate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::BodyLimits;
use crate::engine::Engine;
use crate::engine::lookup::MemoryLookup;
use crate::engine::router::Router;
use crate::frontend::drain::DrainState;
use crate::frontend::session::ClientSession;
use crate::frontend::{Prepared, PreparedResponse, RequestHandler, ServeFuture};
use crate::proxy::exchange::Exchange;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::Telemetry;
use crate::upstream::client::HttpClient;
use crate::upstream::connect::pinned::ClientPins;
use crate::upstream::routed_request::RoutedRequest;

/// The objects that all exchanges share.
pub struct ProxyHandler {
    /// Responds to the requests that routes cache.
    pub engine: Arc<Engine>,
    /// Resolves each request once.
    pub router: Router,
    /// The HTTP client for all other requests.
    pub network: Arc<HttpClient>,
    /// Records the requests.
    pub telemetry: Arc<Telemetry>,
    /// The member that larder adds to `Via`.
    pub via: HeaderValue,
    /// The drain state; while larder is closing, responses have `Connection: close`.
    pub drain: watch::Receiver<DrainState>,
    /// Idle timeout of an upgraded connection.
    pub tunnel_idle: Duration,
    /// Idle timeout and minimum rate of request bodies.
    pub body: BodyLimits,
    /// The clock.
    pub clock: Clock,
}

/// The regular end of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExchangeEnd {
    /// With a complete response.
    Completed,
    /// With a switch to another protocol, which has ended as well.
    Switched,
}

/// The proxy.
pub struct Proxy {
    handler: Arc<ProxyHandler>,
}

impl Proxy {
    /// A proxy whose exchanges share `handler`.
    pub fn new(handler: ProxyHandler) -> Self {
        Self { handler: Arc::new(handler) }
    }
}

impl RequestHandler for Proxy {
    fn route(&self, request: ProxyRequest, pins: Option<&ClientPins>) -> RoutedRequest {
        // larder itself responds to a preflight, whatever the route.
        if cors::is_preflight(&request) {
            return self.handler.router.without_route(request);
        }
        self.handler.router.route(request, pins)
    }

    fn prepare(&self, routed: &RoutedRequest) -> Prepared {
        self.handler.prepare(routed)
    }

    fn record_prepared(
        &self,
        routed: &RoutedRequest,
        response: &PreparedResponse,
        bytes: u64,
        since: Instant,
    ) {
        self.handler.record_prepared(routed, response, bytes, since);
    }

    fn has_route_for(&self, host: &str, port: u16) -> bool {
        self.handler.router.routes.has_route_for(host, port)
    }

    fn serve(
        &self,
        routed: RoutedRequest,
        looked_up: Option<MemoryLookup>,
        session: ClientSession,
    ) -> ServeFuture<'_> {
        Box::pin(Exchange::new(&self.handler, routed, session).serve(looked_up))
    }
}
