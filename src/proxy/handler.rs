//! One request, from the front door to its record: answered by the engine, or passed through.
//!
//! Owns: which of the two it is. Never touches: how answers are made (`engine`, `relay`).

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;

use crate::config::BodyLimits;
use crate::engine::Engine;
use crate::engine::response::{ClientResponse, EngineResult};
use crate::engine::stale_if_error_end::OWN_CREDENTIAL;
use crate::frontend::ServeOutcome;
use crate::frontend::drain::DrainState;
use crate::frontend::session::ClientSession;
use crate::policy::{Policy, ScopeRule};
use crate::proxy::context::{ExchangeFailure, RequestContext};
use crate::proxy::{
    ProxyDeps, connection_auth, cors, error_response, mount_headers, response_writer,
};
use crate::route::table::{Route, Table};
use crate::semantics::date;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::{ResultKind, Telemetry};
use crate::upstream::client::HttpClient;
use crate::upstream::interim::Interims;

/// What answers requests.
pub(super) struct PingoraHandler {
    pub(super) engine: Arc<Engine>,
    pub(super) routes: Table,
    pub(super) network: Arc<HttpClient>,
    pub(super) account: Arc<Telemetry>,
    /// What holds for requests that no route matches.
    pub(super) unrouted: Policy,
    pub(super) via: HeaderValue,
    pub(super) stage: watch::Receiver<DrainState>,
    /// How long no byte may move on an upgraded connection until it ends.
    pub(super) tunnel_idle: Duration,
    pub(super) body: BodyLimits,
}

impl PingoraHandler {
    pub(super) fn new(parts: ProxyDeps) -> Self {
        let ProxyDeps { engine, routes, network, account, hold, via, stage, tunnel_idle, body } =
            parts;
        let unrouted = Policy { hold, ..Policy::origin() };
        Self { engine, routes, network, account, unrouted, via, stage, tunnel_idle, body }
    }

    /// Answers `asked`.
    pub(super) async fn serve(
        self: &Arc<Self>,
        mut asked: ProxyRequest,
        mut client: ClientSession,
    ) -> ServeOutcome {
        let mut ctx = RequestContext::new(self.routes.routes().len());
        let answered = self.answer(&mut asked, &mut client, &mut ctx).await;
        if let Err(why) = answered {
            ctx.broken(why);
        }
        let given_up = matches!(answered, Err(ExchangeFailure::Client(_)));
        let switched = matches!(answered, Ok(ExchangeEnd::Switched));
        ctx.record(&asked, (!switched).then_some(&client), &self.account);
        ServeOutcome { session: (!switched).then_some(client), given_up }
    }

    async fn answer(
        self: &Arc<Self>,
        asked: &mut ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if cors::is_preflight(asked) {
            return self.preflight(asked, client, ctx).await;
        }
        let Some(route) = self.prepare(asked) else { return self.pass(asked, client, ctx).await };
        ctx.route = route.index;
        if self.has_signed_in(asked, client) {
            return self.pass(asked, client, ctx).await;
        }
        let (interims, in_browser) = (Interims::new(), asked.in_browser);
        let answered = {
            let answer = self.engine.answer(asked, route, &interims);
            tokio::pin!(answer);
            loop {
                tokio::select! {
                    biased;
                    answered = &mut answer => break answered,
                    mut interim = interims.next() => {
                        mount_headers::confine(in_browser, &mut interim.headers);
                        client.write_interim(interim.status, interim.headers).await?;
                    }
                    gone = client.gone() => return Err(gone.into()),
                }
            }
        };
        while let Some(mut interim) = interims.pop() {
            mount_headers::confine(in_browser, &mut interim.headers);
            client.write_interim(interim.status, interim.headers).await?;
        }
        match answered {
            EngineResult::Pass(why) => {
                ctx.why = why;
                self.relay(asked, client, ctx).await
            }
            EngineResult::Reply(reply) => self.reply(asked, client, ctx, *reply).await,
        }
    }

    /// Passes `asked` through, unless the origin may not be asked.
    async fn pass(
        self: &Arc<Self>,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        match self.engine.refusal(asked) {
            Some(reply) => self.reply(asked, client, ctx, reply).await,
            None => self.relay(asked, client, ctx).await,
        }
    }

    /// Writes a reply of the engine's.
    pub(super) async fn reply(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        reply: ClientResponse,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let mut reply = error_response::unless_as_a_proxy(asked, reply);
        ctx.result = reply.result;
        ctx.miss = reply.why;
        ctx.error = reply.error;
        ctx.is_larders = reply.result == ResultKind::Error;
        client.skip_body();
        let said = (reply.status, &reply.headers);
        if connection_auth::is_left_to_http1(asked, client, ctx, said) {
            return Ok(ExchangeEnd::Answered);
        }
        self.finish_head(asked, client, ctx, &mut reply.headers);
        let begun = (reply.result == ResultKind::Miss).then_some(&mut ctx.filled_bytes);
        response_writer::reply(client, reply, begun).await?;
        Ok(ExchangeEnd::Answered)
    }

    /// What every answer gets from larder: its name, a date where there is none (RFC 9110 §6.6.1), and
    /// an end of the connection once larder is closing.
    pub(super) fn finish_head(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        headers: &mut http::HeaderMap,
    ) {
        headers.append(http::header::VIA, self.via.clone());
        connection_auth::tell(headers, client);
        mount_headers::confine(asked.in_browser, headers);
        cors::tell(asked, headers);
        date::add_where_missing(headers, self.engine.now());
        ctx.cache_status = headers.get_all("cache-status").iter().next_back().cloned();
        if self.stage.borrow().is_closing() {
            client.close_after();
        }
    }

    /// The route that caches `asked`, whose target is then the one by which larder knows the resource,
    /// and which is free of the names that apps give their users on other routes; larder's own credential
    /// takes the place of its client's.
    pub(super) fn prepare(&self, asked: &mut ProxyRequest) -> Option<&Route> {
        if let Some(moved) = self.network.upstreams.moved(&asked.target) {
            asked.target = moved;
        }
        let route = self.routes.find(asked)?;
        for name in self.routes.scope_headers(&asked.target) {
            if route.policy.scope != ScopeRule::Header(name.clone()) {
                asked.headers.remove(name);
            }
        }
        if let Some(shown) = self.network.upstreams.credential(&asked.target) {
            // The same for all: they share what it brings, and larder is its private cache.
            asked.headers.insert(shown.header.clone(), OWN_CREDENTIAL);
        }
        Some(route)
    }

    pub(super) fn route(&self, ctx: &RequestContext) -> Option<&Route> {
        self.routes.routes().get(ctx.route)
    }
}

/// How an exchange ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExchangeEnd {
    /// With a whole answer.
    Answered,
    /// In another protocol, which has ended too.
    Switched,
}
