//! Sends a request to the origin: collapsed with equal requests, or separately.
//!
//! Owns: the steps from a miss to the response of its client. Never touches: lookup before a miss, how a
//! fill fetches.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::decide::ForwardReason;
use crate::engine::collapse::JoinOutcome;
use crate::engine::deps::EngineDeps;
use crate::engine::fill_start;
use crate::engine::fills::Fills;
use crate::engine::fragmentation::FragmentationLog;
use crate::engine::inflight::InFlightFetch;
use crate::engine::lookup::StoreLookup;
use crate::engine::miss::Miss;
use crate::engine::responder::Responder;
use crate::engine::response::ClientResponse;
use crate::engine::waiter::{FillWaiter, WaitOutcome};
use crate::key::KeyBuilder;
use crate::store::Lookup;

/// Sends requests to the origin.
pub(crate) struct Forwarder {
    fills: Arc<Fills>,
    lookup: Arc<StoreLookup>,
    responder: Arc<Responder>,
    key_builder: Arc<KeyBuilder>,
    fragmentation_log: FragmentationLog,
    /// The routes for which a refresh that a client forced was logged.
    forced_refreshes: Mutex<HashSet<usize>>,
}

impl Forwarder {
    pub(super) fn new(
        deps: &EngineDeps,
        fills: &Arc<Fills>,
        lookup: &Arc<StoreLookup>,
        responder: &Arc<Responder>,
    ) -> Self {
        Self {
            fills: Arc::clone(fills),
            lookup: Arc::clone(lookup),
            responder: Arc::clone(responder),
            key_builder: Arc::clone(&deps.key_builder),
            fragmentation_log: FragmentationLog::default(),
            forced_refreshes: Mutex::default(),
        }
    }

    /// Sends `miss` to the origin, or lets it wait for an equal request.
    pub(super) async fn forward(&self, mut miss: Miss<'_>) -> ClientResponse {
        if miss.reason == ForwardReason::UriMiss {
            self.log_fragmentation(&miss);
        }
        if miss.stored.is_some() && miss.insists_on_origin() {
            self.log_forced_refresh(&miss);
        }
        if self.fills.is_separate(&miss) {
            return self.fetch_separately(&miss, None).await;
        }
        loop {
            match self.fills.join(&miss, || self.stored_meanwhile(&miss)) {
                JoinOutcome::Stored(reply) => return *reply,
                JoinOutcome::Full => return self.responder.too_many_waiters(&miss),
                JoinOutcome::Lead(fetch, reader) => {
                    fill_start::lead(&self.fills, &miss, &fetch);
                    return self.waiter(&miss, &fetch).lead(reader).await;
                }
                JoinOutcome::Wait(fetch, reader) => match self.waiter(&miss, &fetch).wait(reader).await {
                    WaitOutcome::Reply(reply) => return *reply,
                    WaitOutcome::OtherVariant(variant) => miss.switch_variant(variant),
                    WaitOutcome::FetchSeparately(permit) => {
                        return self.fetch_separately(&miss, permit).await;
                    }
                },
            }
        }
    }

    /// Makes a fetch that no other request joins.
    pub(super) async fn fetch_separately(
        &self,
        miss: &Miss<'_>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> ClientResponse {
        let (fetch, reader) = fill_start::lead_separately(&self.fills, miss, permit);
        self.waiter(miss, &fetch).lead(reader).await
    }

    fn waiter<'a>(&'a self, miss: &'a Miss<'a>, fetch: &'a Arc<InFlightFetch>) -> FillWaiter<'a> {
        FillWaiter { responder: &self.responder, lookup: &self.lookup, miss, fetch }
    }

    /// The response, if it was stored since the lookup of `miss`.
    fn stored_meanwhile(&self, miss: &Miss<'_>) -> Option<Box<ClientResponse>> {
        let Lookup::Found(stored) = self.lookup.memory(miss.routed, miss.key) else { return None };
        self.responder.fresh_hit(miss, &stored).map(Box::new)
    }

    /// Logs, once per route, that a client does not accept the stored response.
    fn log_forced_refresh(&self, miss: &Miss<'_>) {
        let Some(matched) = &miss.routed.route else { return };
        if self.forced_refreshes.lock().insert(matched.index) {
            let (route, directives) = (&*matched.name, miss.routed.directives.restrictions().join(", "));
            tracing::info!(
                route,
                directives,
                "A client forces calls with its Cache-Control or Pragma: `client_cache_control: ignore` on the \
                 route prevents that"
            );
        }
    }

    /// Logs the field that kept this request from sharing the response of an otherwise equal one.
    fn log_fragmentation(&self, miss: &Miss<'_>) {
        let Some(matched) = &miss.routed.route else { return };
        let fields = self.key_builder.separating_fields(miss.request(), &matched.policy);
        let rest = miss.key.target_and_scope_id();
        let Some(separating_field) = self.fragmentation_log.record_miss(matched.index, rest, &fields) else {
            return;
        };
        let (route, field) = (&*matched.name, separating_field.name.as_str());
        tracing::debug!(route, field, "Request not collapsed with an equal one because of a field");
        if separating_field.should_warn {
            tracing::warn!(
                route,
                field,
                "A field prevents sharing between requests that are otherwise equal: if responses do not \
                 depend on it, add it to the route's key.ignore_headers"
            );
        }
    }
}
