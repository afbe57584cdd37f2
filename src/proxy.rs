//! Between the front door and the engine: a clean request is answered by the engine, or passed
//! through to its origin.
//!
//! Owns: the pass-through. Never touches: raw heads (`front`), the store.

mod alone;
mod browser;
mod copied;
mod cors;
mod drip;
mod exchange;
mod failed;
mod handler;
mod hit;
mod message;
mod relay;
mod sign_in;
mod silence;
mod switched;
mod tries;
mod upload;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::watch;

use crate::account::Account;
use crate::config::BodyLimits;
use crate::engine::Engine;
use crate::front::session::Session;
use crate::front::stage::Stage;
use crate::front::{Ready, Service, Serving};
use crate::policy::HoldRule;
use crate::proxy::handler::Handler;
use crate::route::table::Table;
use crate::semantics::asked::Asked;
use crate::upstream::fetch::Network;

/// What the proxy works with.
pub struct Parts {
    /// Answers what routes cache.
    pub engine: Arc<Engine>,
    /// Which requests those are.
    pub routes: Table,
    /// The way out for everything else.
    pub network: Arc<Network>,
    /// Where exchanges are recorded.
    pub account: Arc<Account>,
    /// How long an origin that failed is left alone where no route says it.
    pub hold: HoldRule,
    /// What larder adds to `Via`.
    pub via: HeaderValue,
    /// Once larder is closing, answers end with `Connection: close`.
    pub stage: watch::Receiver<Stage>,
    /// How long no byte may move on an upgraded connection until it ends.
    pub tunnel_idle: Duration,
    /// How slowly a request's body may come.
    pub body: BodyLimits,
}

/// The proxy.
pub struct Proxy {
    handler: Arc<Handler>,
}

impl Proxy {
    /// Joins the parts.
    pub fn new(parts: Parts) -> Self {
        Self { handler: Arc::new(Handler::new(parts)) }
    }
}

impl Service for Proxy {
    fn at_hand(&self, asked: &mut Asked) -> Option<Ready> {
        self.handler.at_hand(asked)
    }

    fn written(&self, asked: &Asked, ready: &Ready, bytes: u64, since: Instant) {
        self.handler.written(asked, ready, bytes, since);
    }

    fn names(&self, host: &str, port: u16) -> bool {
        self.handler.routes.names(host, port)
    }

    fn serve(&self, asked: Asked, session: Session) -> Serving<'_> {
        Box::pin(self.handler.serve(asked, session))
    }
}
