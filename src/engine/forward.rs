//! Sends a request to the origin: collapsed with equal requests, or separately.
//!
//! Owns: leading a fill, joining one, background fills. Never touches: lookup, how a fill fetches.

use std::sync::Arc;

use http::Method;
use tokio::sync::OwnedSemaphorePermit;

use crate::decide::{CacheLookup, Decision, ForwardReason, StaleReason};
use crate::engine::Engine;
use crate::engine::body::SharedBody;
use crate::engine::collapse::{InFlightKey, JoinOutcome};
use crate::engine::fill::Fill;
use crate::engine::inflight::InFlightFetch;
use crate::engine::miss::Miss;
use crate::engine::pending_calls::RequestOrder;
use crate::engine::response::{ClientResponse, EngineResult};
use crate::engine::waiter::WaitOutcome;
use crate::key::CacheKey;
use crate::route::table::Route;
use crate::semantics::request::ProxyRequest;
use crate::semantics::validation;
use crate::semantics::vary::VariantId;
use crate::store::Lookup;
use crate::stored::StoredResponse;

impl Engine {
    pub(super) async fn forward(self: &Arc<Self>, mut miss: Miss<'_>) -> EngineResult {
        if miss.reason == ForwardReason::UriMiss {
            self.log_fragmentation(&miss);
        }
        let is_disabled =
            self.in_flight_fetches.is_collapsing_disabled(&miss.key, self.clock.now());
        let conditional =
            miss.stored.is_none() && validation::has_conditionals(&miss.request.headers);
        // A request that insists on an end-to-end response is fetched separately. So is a conditional
        // request for a response that is not stored.
        let insists = miss.reason == ForwardReason::Request
            || miss.request.cache_control().demands_revalidation();
        if insists || conditional || is_disabled || self.in_flight.is_full() {
            return EngineResult::Reply(Box::new(self.fetch_uncollapsed(&miss, None).await));
        }
        loop {
            match self.join(&miss) {
                JoinOutcome::Stored(reply) => return EngineResult::Reply(reply),
                JoinOutcome::Full => {
                    return EngineResult::Reply(Box::new(self.too_many_waiters(&miss)));
                }
                JoinOutcome::Lead(fetch, reader) => {
                    let in_flight_key = Some(miss.in_flight_key());
                    self.fill(&miss, &fetch, in_flight_key, None).spawn();
                    let reply = self.follow_as_leader(&miss, &fetch, reader).await;
                    return EngineResult::Reply(Box::new(reply));
                }
                JoinOutcome::Wait(fetch, reader) => {
                    match self.follow_as_waiter(&miss, &fetch, reader).await {
                        WaitOutcome::Reply(reply) => return EngineResult::Reply(reply),
                        WaitOutcome::OtherVariant(variant) => miss.switch_variant(variant),
                        WaitOutcome::FetchSeparately(permit) => {
                            let reply = self.fetch_uncollapsed(&miss, permit).await;
                            return EngineResult::Reply(Box::new(reply));
                        }
                    }
                }
            }
        }
    }

    /// Logs the field that kept this request from sharing the response of an otherwise equal one.
    fn log_fragmentation(&self, miss: &Miss<'_>) {
        let fields = self.key_builder.separators(miss.request, miss.policy);
        let rest = miss.key.without_separators();
        let Some(separator) = self.fragmentation_log.record_miss(miss.route.index, rest, &fields)
        else {
            return;
        };
        let (route, field) = (&*miss.route.name, separator.name.as_str());
        tracing::debug!(route, field, "Request not collapsed with an equal one because of a field");
        if separator.should_warn {
            tracing::warn!(
                route,
                field,
                "A field prevents sharing between requests that are otherwise equal: if responses do not \
                 depend on it, add it to the route's key.ignore_headers"
            );
        }
    }

    fn join(self: &Arc<Self>, miss: &Miss<'_>) -> JoinOutcome<Box<ClientResponse>> {
        // Runs under the lock of the in-flight fetches: only looks up, starts nothing.
        let recheck = || {
            let found = self.lookup_memory(miss.request, &miss.key, miss.policy);
            let Lookup::Found(stored) = found else { return None };
            let now = self.clock.now();
            match self.decide(
                miss.request,
                miss.policy,
                miss.cache,
                CacheLookup::Stored(&stored),
                now,
            ) {
                Decision::Serve { ttl, stale: None, refresh: false } => Some(Box::new(
                    self.respond_stored(miss.request, miss.route, &stored, ttl, None, now),
                )),
                Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse => None,
            }
        };
        self.in_flight_fetches.join(
            &miss.in_flight_key(),
            self.limits.waiters_per_key,
            |fetch| self.is_joinable(&miss.key, miss.variant, fetch),
            recheck,
            || self.new_fetch(&miss.key, miss.variant),
        )
    }

    /// Whether a new request may join `fetch`: no newer response and no invalidation came after it.
    fn is_joinable(
        &self,
        key: &CacheKey,
        variant: Option<VariantId>,
        fetch: &InFlightFetch,
    ) -> bool {
        !fetch.order().is_overtaken(variant)
            && self.store.is_current(key.target_id(), fetch.epoch())
    }

    fn new_fetch(&self, key: &CacheKey, variant: Option<VariantId>) -> Arc<InFlightFetch> {
        let kept = !self.in_flight.is_full();
        let body = SharedBody::new(kept, self.limits.max_object, Arc::clone(&self.in_flight));
        let watch = self.store.watch(key.target_id());
        let order = Arc::new(RequestOrder::new(watch.order));
        InFlightFetch::new(watch, self.pending_calls.begin(key, variant, order), body)
    }

    /// Makes a fetch that no other request joins.
    pub(crate) async fn fetch_uncollapsed(
        self: &Arc<Self>,
        miss: &Miss<'_>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> ClientResponse {
        let fetch = self.new_fetch(&miss.key, None);
        let reader = fetch.body.first_reader();
        self.fill(miss, &fetch, None, permit).spawn();
        self.follow_as_leader(miss, &fetch, reader).await
    }

    fn fill(
        self: &Arc<Self>,
        miss: &Miss<'_>,
        fetch: &Arc<InFlightFetch>,
        in_flight_key: Option<InFlightKey>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Fill {
        Fill {
            engine: Arc::clone(self),
            fetch: Arc::clone(fetch),
            in_flight_key,
            request: miss.request.clone(),
            route: miss.route.index,
            policy: Arc::clone(&miss.route.policy),
            key: miss.key.clone(),
            revalidate: miss.stored.clone().filter(|_| miss.validate),
            ranged: miss.ranged,
            permit,
            interims: Some(Arc::clone(miss.interims)),
            has_fallback: miss.fallback,
            trigger: None,
        }
    }

    /// Starts a background fill for a stored response that was served stale (RFC 5861 §3): one at a
    /// time, and none while there is no capacity to store its response.
    pub(super) fn refresh(
        self: &Arc<Self>,
        request: &ProxyRequest,
        route: &Route,
        key: CacheKey,
        stored: Arc<StoredResponse>,
        variant: Option<VariantId>,
    ) {
        let mut call = self.call_context(request, route.index, &route.policy, Some(&key));
        call.has_stale = true;
        if self.in_flight.is_full() || self.origin.check_admission(&request.target, &call).is_some()
        {
            return;
        }
        let in_flight_key = InFlightKey { key: key.clone(), variant };
        let joined = self.in_flight_fetches.join(
            &in_flight_key,
            usize::MAX,
            |fetch| self.is_joinable(&key, variant, fetch),
            || None::<()>,
            || self.new_fetch(&key, variant),
        );
        if let JoinOutcome::Lead(fetch, reader) = joined {
            drop(reader);
            let fill = Fill {
                engine: Arc::clone(self),
                fetch,
                in_flight_key: Some(in_flight_key),
                // A HEAD may trigger it, but stored responses belong to GET.
                request: ProxyRequest { method: Method::GET, ..request.clone() },
                route: route.index,
                policy: Arc::clone(&route.policy),
                key,
                revalidate: Some(stored).filter(|stored| stored.metadata.has_validator()),
                ranged: false,
                permit: None,
                interims: None,
                has_fallback: true,
                trigger: Some(StaleReason::WhileRevalidate),
            };
            fill.spawn();
        }
    }
}
