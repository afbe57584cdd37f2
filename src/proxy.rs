//! Between the front door and the engine: a clean request is answered by the engine, or passed
//! through to its origin.
//!
//! Owns: the pass-through. Never touches: raw heads (`front`), the store.

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
use crate::policy::CooldownPolicy;
use crate::proxy::handler::PingoraHandler;
use crate::route::table::Table;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::Telemetry;
use crate::upstream::client::HttpClient;

/// What the proxy works with.
pub struct ProxyDeps {
    /// Answers what routes cache.
    pub engine: Arc<Engine>,
    /// Which requests those are.
    pub routes: Table,
    /// The way out for everything else.
    pub network: Arc<HttpClient>,
    /// Where exchanges are recorded.
    pub account: Arc<Telemetry>,
    /// How long an origin that failed is left alone where no route says it.
    pub hold: CooldownPolicy,
    /// What larder adds to `Via`.
    pub via: HeaderValue,
    /// Once larder is closing, answers end with `Connection: close`.
    pub stage: watch::Receiver<DrainState>,
    /// How long no byte may move on an upgraded connection until it ends.
    pub tunnel_idle: Duration,
    /// How slowly a request's body may come.
    pub body: BodyLimits,
}

/// The proxy.
pub struct Proxy {
    handler: Arc<PingoraHandler>,
}

impl Proxy {
    /// Joins the parts.
    pub fn new(parts: ProxyDeps) -> Self {
        Self { handler: Arc::new(PingoraHandler::new(parts)) }
    }
}

impl RequestHandler for Proxy {
    fn at_hand(&self, asked: &mut ProxyRequest) -> Option<PreparedResponse> {
        self.handler.at_hand(asked)
    }

    fn written(&self, asked: &ProxyRequest, ready: &PreparedResponse, bytes: u64, since: Instant) {
        self.handler.written(asked, ready, bytes, since);
    }

    fn names(&self, host: &str, port: u16) -> bool {
        self.handler.routes.names(host, port)
    }

    fn serve(&self, asked: ProxyRequest, session: ClientSession) -> ServeFuture<'_> {
        Box::pin(self.handler.serve(asked, session))
    }
}
