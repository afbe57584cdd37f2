//! Serves one exchange, from its request to its telemetry record: the engine responds, or the request passes
//! through.
//!
//! Owns: the choice between the two. Never touches: the creation of responses (`engine`, `relay`).

use crate::decide::ForwardReason;
use crate::engine::lookup::MemoryLookup;
use crate::engine::response::EngineResult;
use crate::frontend::ServeOutcome;
use crate::proxy::context::ExchangeFailure;
use crate::proxy::exchange::Exchange;
use crate::proxy::{ExchangeEnd, cors, mount_headers};
use crate::upstream::interim::Interims;

impl Exchange {
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

    async fn respond(&mut self, looked_up: Option<MemoryLookup>) -> Result<ExchangeEnd, ExchangeFailure> {
        if cors::is_preflight(self.request()) {
            return self.reply_preflight().await;
        }
        if let Some(reason) = self.handler.engine.passes_through(&self.routed) {
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
    async fn pass_through(&mut self, reason: ForwardReason) -> Result<ExchangeEnd, ExchangeFailure> {
        self.ctx.forward_reason = reason;
        match self.handler.engine.offline_response(&self.routed) {
            Some(reply) => self.reply(reply).await,
            None => self.relay().await,
        }
    }
}
