//! pingora's callbacks, each a line or two: what they do is in the modules beside this one.
//!
//! Owns: what is known about one exchange while it lasts. Never touches: how answers are made.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use tokio::sync::watch;

use crate::account::{Account, Exchange, ResultKind};
use crate::clock;
use crate::engine::Engine;
use crate::engine::reply::{Answered, Reply};
use crate::front::stage::Stage;
use crate::policy::{Policy, ScopeRule};
use crate::proxy::exchange::Ctx;
use crate::proxy::stream::Slip;
use crate::proxy::{Parts, failed, write};
use crate::route::table::{Route, Table};
use crate::semantics::asked::Asked;
use crate::upstream::fetch::Network;
use crate::upstream::interim::Interims;

/// What stands for larder's own credential until a request leaves.
const OWN_CREDENTIAL: HeaderValue = HeaderValue::from_static("larder");

/// The implementation of pingora's proxy.
#[derive(Clone)]
pub(super) struct Handler {
    pub(super) engine: Arc<Engine>,
    pub(super) routes: Arc<Table>,
    pub(super) network: Arc<Network>,
    pub(super) account: Arc<Account>,
    /// What holds for requests that no route matches.
    pub(super) unrouted: Arc<Policy>,
    pub(super) via: HeaderValue,
    pub(super) stage: watch::Receiver<Stage>,
}

impl Handler {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { engine, routes, network, account, hold, via, stage } = parts;
        let unrouted = Arc::new(Policy { hold, ..Policy::origin() });
        Self { engine, routes: Arc::new(routes), network, account, unrouted, via, stage }
    }

    /// An answer begins: once larder is closing, it is the last of its connection.
    fn last_words(&self, session: &mut Session) {
        if self.stage.borrow().is_closing() {
            session.set_keepalive(None);
        }
    }

    async fn reply(&self, session: &mut Session, ctx: &mut Ctx, reply: Reply) -> Result<bool> {
        ctx.result = reply.result;
        ctx.miss = reply.why;
        ctx.error = reply.error;
        self.last_words(session);
        write::reply(session, reply, &self.via).await?;
        Ok(true)
    }

    /// The route that caches `asked`, which is then free of the names that apps give their users on
    /// other routes; larder's own credential takes the place of its client's.
    pub(super) fn prepare(&self, asked: &mut Asked) -> Option<&Route> {
        let route = self.routes.find(asked)?;
        for name in self.routes.scope_headers(&asked.target) {
            if route.policy.scope != ScopeRule::Header(name.clone()) {
                asked.headers.remove(name);
            }
        }
        if let Some(shown) = self.network.upstreams.shown(&asked.target) {
            // The same for all: they share what it brings, and larder is its private cache.
            asked.headers.insert(shown.clone(), OWN_CREDENTIAL);
        }
        Some(route)
    }

    pub(super) fn route<'a>(&'a self, ctx: &Ctx) -> Option<&'a Route> {
        self.routes.routes().get(ctx.route)
    }
}

#[async_trait]
impl ProxyHttp for Handler {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new(self.routes.routes().len())
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {
        // None: bodies pass as they are.
    }

    /// The front door's reading of the head arrives here.
    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        ctx: &mut Ctx,
        asked: Box<dyn Any + Send + Sync>,
    ) {
        ctx.asked = asked.downcast::<Asked>().ok().map(|asked| *asked);
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        ctx.asked = ctx.asked.take().or_else(|| Slip::take(session.req_header()));
        let Some(asked) = ctx.asked.as_mut() else {
            return Error::e_explain(ErrorType::InternalError, "the head was not handed over");
        };
        let Some(route) = self.prepare(asked) else {
            let Some(reply) = self.engine.refusal(asked) else { return Ok(false) };
            return self.reply(session, ctx, reply).await;
        };
        ctx.route = route.index;
        let interims = Interims::new();
        let answered = {
            let answer = self.engine.answer(asked, route, &interims);
            tokio::pin!(answer);
            loop {
                tokio::select! {
                    biased;
                    answered = &mut answer => break answered,
                    interim = interims.next() => write::interim(session, interim).await?,
                    gone = write::client_gone(session) => return Err(gone),
                }
            }
        };
        while let Some(interim) = interims.pop() {
            write::interim(session, interim).await?;
        }
        match answered {
            Answered::Pass(why) => {
                ctx.why = why;
                Ok(false)
            }
            Answered::Reply(reply) => self.reply(session, ctx, *reply).await,
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        self.peer(session, ctx).await
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        self.outgoing(request, ctx)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        self.last_words(session);
        self.incoming(session, response, ctx).await
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        // First: what the body says may be that it is not to be kept.
        ctx.read(body.as_ref(), end);
        self.copied(body.as_ref(), end, ctx);
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        error: Box<Error>,
    ) -> Box<Error> {
        self.broken(session, ctx, error, false)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Ctx,
        reused: bool,
    ) -> Box<Error> {
        self.broken(session, ctx, error, reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Ctx,
    ) -> FailToProxy {
        failed::answer(session, error, ctx, &self.account).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        // An origin that fails is not its client's doing.
        if error.is_none_or(|error| *error.esource() != ErrorSource::Downstream) {
            Slip::finish(session.req_header());
        }
        let Some(asked) = &ctx.asked else { return };
        let written = session.as_downstream().response_written();
        let cache_status = written
            .and_then(|head| head.headers.get_all("cache-status").iter().next_back())
            .and_then(|value| value.to_str().ok());
        let passed = ctx.result == ResultKind::Bypass;
        self.account.record(&Exchange {
            route: ctx.route,
            result: ctx.result,
            why: ctx.miss,
            method: &asked.method,
            host: asked.target.host(),
            port: asked.target.port(),
            path: asked.target.path(),
            status: written.map(|head| head.status),
            cache_status,
            error: ctx.error,
            duration: clock::monotonic().saturating_duration_since(ctx.since),
            client_bytes: session.as_downstream().body_bytes_sent() as u64,
            upstream_bytes: if passed { session.upstream_body_bytes_received() as u64 } else { 0 },
        });
    }

    /// pingora's own lines hold request targets; the exchange's record says what larder says.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Ctx,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, session: &Session, _ctx: &Ctx) -> String {
        let method: &Method = &session.req_header().method;
        format!("{method} (target not logged)")
    }
}
