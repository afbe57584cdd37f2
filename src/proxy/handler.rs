//! Handles one request from the frontend to its telemetry record: the engine responds, or the request
//! passes through.
//!
//! Owns: the choice between the two. Never touches: the creation of responses (`engine`, `relay`).

use std::sync::Arc;

use crate::engine::response::{ClientResponse, EngineResult};
use crate::engine::stale_if_error_end::OWN_CREDENTIAL;
use crate::frontend::ServeOutcome;
use crate::frontend::session::ClientSession;
use crate::policy::{Policy, ScopeRule};
use crate::proxy::context::{ExchangeFailure, RequestContext};
use crate::proxy::{
    ExchangeEnd, ProxyDeps, ProxyHandler, connection_auth, cors, error_response, mount_headers,
    response_writer,
};
use crate::route::table::Route;
use crate::semantics::date;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::ResultKind;
use crate::upstream::interim::Interims;

impl ProxyHandler {
    pub(super) fn new(deps: ProxyDeps) -> Self {
        let ProxyDeps {
            engine,
            routes,
            network,
            telemetry,
            cooldown,
            via,
            drain,
            tunnel_idle,
            body,
        } = deps;
        let unrouted = Policy { cooldown, ..Policy::origin() };
        Self { engine, routes, network, telemetry, unrouted, via, drain, tunnel_idle, body }
    }

    /// Serves `request`.
    pub(super) async fn serve(
        self: &Arc<Self>,
        mut request: ProxyRequest,
        mut client: ClientSession,
    ) -> ServeOutcome {
        let mut ctx = RequestContext::new(self.routes.routes().len());
        let result = self.respond(&mut request, &mut client, &mut ctx).await;
        if let Err(failure) = result {
            ctx.set_failure(failure);
        }
        let client_aborted = matches!(result, Err(ExchangeFailure::Client(_)));
        let switched = matches!(result, Ok(ExchangeEnd::Switched));
        ctx.record(&request, (!switched).then_some(&client), &self.telemetry);
        ServeOutcome { session: (!switched).then_some(client), client_aborted }
    }

    async fn respond(
        self: &Arc<Self>,
        request: &mut ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if cors::is_preflight(request) {
            return self.reply_preflight(request, client, ctx).await;
        }
        let Some(route) = self.match_route(request) else {
            return self.pass_through(request, client, ctx).await;
        };
        ctx.route = route.index;
        if self.has_pinned_connection(request, client) {
            return self.pass_through(request, client, ctx).await;
        }
        let (interims, in_browser) = (Interims::new(), request.in_browser);
        let result = {
            let response = self.engine.respond(request, route, &interims);
            tokio::pin!(response);
            loop {
                tokio::select! {
                    biased;
                    result = &mut response => break result,
                    mut interim = interims.next() => {
                        mount_headers::confine(in_browser, &mut interim.headers);
                        client.write_interim(interim.status, interim.headers).await?;
                    }
                    gone = client.until_gone() => return Err(gone.into()),
                }
            }
        };
        while let Some(mut interim) = interims.pop() {
            mount_headers::confine(in_browser, &mut interim.headers);
            client.write_interim(interim.status, interim.headers).await?;
        }
        match result {
            EngineResult::Pass(reason) => {
                ctx.forward_reason = reason;
                self.relay(request, client, ctx).await
            }
            EngineResult::Reply(reply) => self.reply(request, client, ctx, *reply).await,
        }
    }

    /// Passes `request` through, unless calls to the origin are not allowed.
    async fn pass_through(
        self: &Arc<Self>,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        match self.engine.offline_response(request) {
            Some(reply) => self.reply(request, client, ctx, reply).await,
            None => self.relay(request, client, ctx).await,
        }
    }

    /// Writes a response of the engine.
    pub(super) async fn reply(
        &self,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        reply: ClientResponse,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let mut reply = error_response::replace_origin_407(request, reply);
        ctx.result = reply.result;
        ctx.miss_reason = reply.forward_reason;
        ctx.error = reply.error;
        ctx.is_own_error = reply.result == ResultKind::Error;
        client.skip_body();
        let head = (reply.status, &reply.headers);
        if connection_auth::needs_http1(request, client, ctx, head) {
            return Ok(ExchangeEnd::Completed);
        }
        self.finish_head(request, client, ctx, &mut reply.headers);
        let filled_bytes = (reply.result == ResultKind::Miss).then_some(&mut ctx.filled_bytes);
        response_writer::write_response(client, reply, filled_bytes).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Adds larder's part to the head of every response: `Via`, a missing `Date` (RFC 9110 §6.6.1), and
    /// `Connection: close` once larder is closing.
    pub(super) fn finish_head(
        &self,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        headers: &mut http::HeaderMap,
    ) {
        headers.append(http::header::VIA, self.via.clone());
        connection_auth::add_proxy_support(headers, client);
        mount_headers::confine(request.in_browser, headers);
        cors::add_response_fields(request, headers);
        date::add_if_missing(headers, self.engine.now());
        ctx.cache_status = headers.get_all("cache-status").iter().next_back().cloned();
        if self.drain.borrow().is_closing() {
            client.close_after();
        }
    }

    /// The route that caches `request`. The method replaces the target by its canonical form, removes the
    /// fields in which apps name their users for other routes, and replaces the client's credential by
    /// larder's own if one is configured.
    pub(super) fn match_route(&self, request: &mut ProxyRequest) -> Option<&Route> {
        if let Some(canonical) = self.network.upstreams.canonical_target(&request.target) {
            request.target = canonical;
        }
        let route = self.routes.find(request)?;
        for name in self.routes.scope_headers(&request.target) {
            if route.policy.scope != ScopeRule::Header(name.clone()) {
                request.headers.remove(name);
            }
        }
        if let Some(credential) = self.network.upstreams.credential(&request.target) {
            // All clients use this credential and share its responses; larder is its private cache.
            request.headers.insert(credential.header.clone(), OWN_CREDENTIAL);
        }
        Some(route)
    }

    pub(super) fn route(&self, ctx: &RequestContext) -> Option<&Route> {
        self.routes.routes().get(ctx.route)
    }
}
