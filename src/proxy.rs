//! Between the front door and the engine: a clean request is answered by the engine, or passed
//! through to its origin by pingora.
//!
//! Owns: pingora's sessions and its pass-through. Never touches: raw heads (`front`), the store.

mod copied;
mod exchange;
mod failed;
mod handler;
mod hit;
mod passing;
mod stream;
mod tries;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use http::{HeaderValue, Version};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use tokio::sync::watch;

use crate::account::Account;
use crate::engine::Engine;
use crate::front::io::ClientIo;
use crate::front::stage::Stage;
use crate::front::{Ready, Service, Stream};
use crate::policy::{HoldRule, MOST_RETRIES};
use crate::proxy::handler::Handler;
use crate::route::table::Table;
use crate::semantics::asked::Asked;
use crate::upstream::fetch::Network;

/// A client that sends or takes nothing for this long inside a message is let go.
const CLIENT_STALLED: Duration = Duration::from_secs(60);

/// How long what is left of a request's body may take once its answer is written.
const DRAIN: Duration = Duration::from_secs(5);

/// How often pingora may begin a pass-through call: the first try, as many retries as a route may ask
/// for, and one more on a connection that had died in the pool. How often it does is decided in `tries`.
const ATTEMPTS: usize = 1 + MOST_RETRIES + 1;

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
}

/// The proxy.
pub struct Proxy {
    /// The same as pingora has, for what needs no session.
    handler: Handler,
    http: Arc<HttpProxy<Handler>>,
    /// pingora looks when a request begins; the handler does when its answer begins, which is later.
    never: watch::Receiver<bool>,
}

impl Proxy {
    /// Joins the parts.
    pub fn new(parts: Parts) -> Self {
        let conf = ServerConf { max_retries: ATTEMPTS, ..ServerConf::default() };
        let handler = Handler::new(parts);
        let mut http = HttpProxy::new(handler.clone(), Arc::new(conf));
        http.handle_init_modules();
        Self { handler, http: Arc::new(http), never: watch::Sender::new(false).subscribe() }
    }
}

#[async_trait]
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

    async fn serve(&self, asked: Asked, bytes: BytesMut, io: ClientIo) -> Option<ClientIo> {
        if asked.version == Version::HTTP_10 {
            io.answering();
        }
        let mut session = ServerSession::new_http1(Box::new(io));
        session.set_pipelined_prefix(bytes);
        session.set_read_timeout(Some(CLIENT_STALLED));
        session.set_write_timeout(Some(CLIENT_STALLED));
        session.set_total_drain_timeout(Some(DRAIN));
        session.set_connection_user_context(Some(Box::new(asked)));
        let next = self.http.process_new_http(session, &self.never).await?;
        let (stream, _settings) = next.consume();
        let io = stream.into_any().downcast::<ClientIo>().ok()?;
        io.answered();
        Some(*io)
    }

    async fn serve_stream(&self, asked: Asked, mut stream: Stream) -> bool {
        let Some(slip) = stream::hand_over(asked, &mut stream) else { return false };
        let mut session = ServerSession::new_http2(stream);
        session.set_write_timeout(Some(CLIENT_STALLED));
        session.set_total_drain_timeout(Some(DRAIN));
        self.http.process_new_http(session, &self.never).await;
        slip.is_finished()
    }
}
