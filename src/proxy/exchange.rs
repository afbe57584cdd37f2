//! One exchange: a routed request, its client and its state, from the request to its telemetry record. The
//! engine responds, or the request passes through.
//!
//! Owns: the choice between the two. Never touches: the creation of responses (`engine`, `relay`).

use std::sync::Arc;

use http::HeaderMap;
use http::header::VIA;

use crate::decide::ForwardReason;
use crate::engine::lookup::MemoryLookup;
use crate::engine::response::{ClientResponse, EngineResult};
use crate::frontend::ServeOutcome;
use crate::frontend::session::ClientSession;
use crate::proxy::context::{ExchangeFailure, RequestContext};
use crate::proxy::{ExchangeEnd, ProxyHandler, cors, error_response, mount_headers};
use crate::proxy::{connection_auth, response_writer};
use crate::semantics::date;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::ResultKind;
use crate::upstream::interim::Interims;
use crate::upstream::routed_request::RoutedRequest;

/// An exchange.
pub(super) struct Exchange {
    pub(super) handler: Arc<ProxyHandler>,
    pub(super) routed: Arc<RoutedRequest>,
    pub(super) client: ClientSession,
    pub(super) ctx: RequestContext,
}

impl Exchange {
    /// An exchange that begins now.
    pub(super) fn new(
        handler: &Arc<ProxyHandler>,
        routed: RoutedRequest,
        client: ClientSession,
    ) -> Self {
        let ctx = RequestContext::new(handler.clock.instant());
        Self { handler: Arc::clone(handler), routed: Arc::new(routed), client, ctx }
    }

    /// Serves the request. `looked_up`: the result of the fast path's lookup, if it made one.
    pub(super) async fn serve(mut self, looked_up: Option<MemoryLookup>) -> ServeOutcome {
        let result = self.respond(looked_up).await;
        if let Err(failure) = result {
            self.ctx.set_failure(failure);
        }
        let client_aborted = matches!(result, Err(ExchangeFailure::Client(_)));
        let switched = matches!(result, Ok(ExchangeEnd::Switched));
        let Self { handler, routed, client, ctx } = self;
        let client = (!switched).then_some(client);
        ctx.record(&routed, client.as_ref(), &handler);
        ServeOutcome { session: client, client_aborted }
    }

    /// The request.
    pub(super) fn request(&self) -> &ProxyRequest {
        &self.routed.request
    }

    async fn respond(
        &mut self,
        looked_up: Option<MemoryLookup>,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if cors::is_preflight(self.request()) {
            return self.reply_preflight().await;
        }
        let passes = self.handler.engine.passes_through(&self.routed);
        if let Some(reason) = passes.or_else(|| self.pinned_connection()) {
            return self.pass_through(reason).await;
        }
        let interims = Interims::new();
        let result = {
            let engine = &self.handler.engine;
            let response = engine.respond(&self.routed, looked_up, &interims);
            tokio::pin!(response);
            loop {
                tokio::select! {
                    biased;
                    result = &mut response => break result,
                    mut interim = interims.next() => {
                        mount_headers::confine(self.routed.request.in_browser, &mut interim.headers);
                        self.client.write_interim(interim.status, interim.headers).await?;
                    }
                    gone = self.client.until_gone() => return Err(gone.into()),
                }
            }
        };
        while let Some(mut interim) = interims.pop() {
            mount_headers::confine(self.routed.request.in_browser, &mut interim.headers);
            self.client.write_interim(interim.status, interim.headers).await?;
        }
        match result {
            EngineResult::Pass(reason) => self.pass_through(reason).await,
            EngineResult::Reply(reply) => self.reply(*reply).await,
        }
    }

    /// Passes the request through for this reason, unless calls to the origin are not allowed.
    async fn pass_through(
        &mut self,
        reason: ForwardReason,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        self.ctx.forward_reason = reason;
        match self.handler.engine.offline_response(&self.routed) {
            Some(reply) => self.reply(reply).await,
            None => self.relay().await,
        }
    }

    /// Writes a response of the engine.
    pub(super) async fn reply(
        &mut self,
        reply: ClientResponse,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let mut reply = error_response::replace_origin_407(self.request(), reply);
        let ctx = &mut self.ctx;
        ctx.result = reply.result;
        ctx.miss_reason = reply.forward_reason;
        ctx.error = reply.error;
        ctx.is_own_error = reply.result == ResultKind::Error;
        self.client.skip_body();
        if self.needs_http1(reply.status, &reply.headers) {
            return Ok(ExchangeEnd::Completed);
        }
        self.finish_head(&mut reply.headers);
        let is_miss = reply.result == ResultKind::Miss;
        let filled_bytes = is_miss.then_some(&mut self.ctx.filled_bytes);
        response_writer::write_response(&mut self.client, reply, filled_bytes).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Adds larder's part to the head of every response: `Via`, a missing `Date` (RFC 9110 §6.6.1), and
    /// `Connection: close` once larder is closing.
    pub(super) fn finish_head(&mut self, headers: &mut HeaderMap) {
        headers.append(VIA, self.handler.via.clone());
        connection_auth::add_proxy_support(headers, &self.client);
        mount_headers::confine(self.request().in_browser, headers);
        cors::add_response_fields(self.request(), headers);
        date::add_if_missing(headers, self.handler.clock.now());
        self.ctx.cache_status = headers.get_all("cache-status").iter().next_back().cloned();
        if self.handler.drain.borrow().is_closing() {
            self.client.close_after();
        }
    }
}
