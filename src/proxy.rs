//! The proxy: connects the frontend to the engine. The engine responds to a valid request, or the
//! request passes through to its origin.
//!
//! Owns: the pass-through. Never touches: unparsed heads (`frontend`), the store.

mod body_capture;
mod connection_auth;
mod context;
mod cors;
mod detached_call;
mod error_response;
mod fast_path;
mod forwarded_message;
mod handler;
mod inactivity;
mod mount_headers;
mod relay;
mod response_writer;
mod retry;
mod upgrade;
mod upload;
mod upload_rate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::watch;

use crate::config::BodyLimits;
use crate::engine::Engine;
use crate::frontend::drain::DrainState;
use crate::frontend::session::ClientSession;
use crate::frontend::{PreparedResponse, RequestHandler, ServeFuture};
use crate::policy::{CooldownPolicy, Policy};
use crate::route::table::Table;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::Telemetry;
use crate::upstream::client::HttpClient;

/// The dependencies of the proxy.
pub struct ProxyDeps {
    /// Responds to the requests that routes cache.
    pub engine: Arc<Engine>,
    /// The routes, which determine those requests.
    pub routes: Table,
    /// The HTTP client for all other requests.
    pub network: Arc<HttpClient>,
    /// Records the requests.
    pub telemetry: Arc<Telemetry>,
    /// Cooldown after failed calls that match no route.
    pub cooldown: CooldownPolicy,
    /// The member that larder adds to `Via`.
    pub via: HeaderValue,
    /// The drain state; while larder is closing, responses have `Connection: close`.
    pub drain: watch::Receiver<DrainState>,
    /// Idle timeout of an upgraded connection.
    pub tunnel_idle: Duration,
    /// Idle timeout and minimum rate of request bodies.
    pub body: BodyLimits,
}

/// Handles requests.
struct ProxyHandler {
    engine: Arc<Engine>,
    routes: Table,
    network: Arc<HttpClient>,
    telemetry: Arc<Telemetry>,
    /// The policy for requests that match no route.
    unrouted: Policy,
    via: HeaderValue,
    drain: watch::Receiver<DrainState>,
    /// Idle timeout of an upgraded connection.
    tunnel_idle: Duration,
    body: BodyLimits,
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
    /// A proxy with these dependencies.
    pub fn new(deps: ProxyDeps) -> Self {
        Self { handler: Arc::new(ProxyHandler::new(deps)) }
    }
}

impl RequestHandler for Proxy {
    fn prepared_response(&self, request: &mut ProxyRequest) -> Option<PreparedResponse> {
        self.handler.prepared_response(request)
    }

    fn record_prepared(
        &self,
        request: &ProxyRequest,
        response: &PreparedResponse,
        bytes: u64,
        since: Instant,
    ) {
        self.handler.record_prepared(request, response, bytes, since);
    }

    fn has_route_for(&self, host: &str, port: u16) -> bool {
        self.handler.routes.has_route_for(host, port)
    }

    fn serve(&self, request: ProxyRequest, session: ClientSession) -> ServeFuture<'_> {
        Box::pin(self.handler.serve(request, session))
    }
}
