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
        if miss.why == ForwardReason::UriMiss {
            self.log_fragmentation(&miss);
        }
        let is_disabled = self.flights.is_collapsing_disabled(&miss.key, self.clock.now());
        let conditional =
            miss.stored.is_none() && validation::has_conditionals(&miss.asked.headers);
        // A request that insists on an end-to-end response is fetched separately. So is a conditional
        // request for a response that is not stored.
        let insists = miss.why == ForwardReason::Request || miss.asked.cache_control().insists();
        if insists || conditional || is_disabled || self.in_flight.is_spent() {
            return EngineResult::Reply(Box::new(self.fetch_uncollapsed(&miss, None).await));
        }
        loop {
            match self.join(&miss) {
                JoinOutcome::Answered(reply) => return EngineResult::Reply(reply),
                JoinOutcome::Full => return EngineResult::Reply(Box::new(self.too_many(&miss))),
                JoinOutcome::Lead(fetch, reader) => {
                    let in_flight_key = Some(miss.place());
                    self.fill(&miss, &fetch, in_flight_key, None).spawn();
                    let reply = self.follow_as_leader(&miss, &fetch, reader).await;
                    return EngineResult::Reply(Box::new(reply));
                }
                JoinOutcome::Wait(fetch, reader) => {
                    match self.follow_as_waiter(&miss, &fetch, reader).await {
                        WaitOutcome::Reply(reply) => return EngineResult::Reply(reply),
                        WaitOutcome::OtherVariant(variant) => miss.move_to(variant),
                        WaitOutcome::Alone(permit) => {
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
        let fields = self.keyring.separators(miss.asked, miss.policy);
        let rest = miss.key.without_separators();
        let Some(separator) = self.apart.missed(miss.route.index, rest, &fields) else { return };
        let (route, field) = (&*miss.route.name, separator.name.as_str());
        tracing::debug!(route, field, "Request not collapsed with an equal one because of a field");
        if separator.is_news {
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
            let found = self.lookup_memory(miss.asked, &miss.key, miss.policy);
            let Lookup::Found(stored) = found else { return None };
            let now = self.clock.now();
            match self.decide(
                miss.asked,
                miss.policy,
                miss.cache,
                CacheLookup::Stored(&stored),
                now,
            ) {
                Decision::Serve { ttl, stale: None, refresh: false } => Some(Box::new(
                    self.respond_stored(miss.asked, miss.route, &stored, ttl, None, now),
                )),
                Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse => None,
            }
        };
        self.flights.join(
            &miss.place(),
            self.bounds.waiters_per_key,
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
        !fetch.order().is_overtaken(variant) && self.store.is_current(key.target_id(), fetch.mark())
    }

    fn new_fetch(&self, key: &CacheKey, variant: Option<VariantId>) -> Arc<InFlightFetch> {
        let kept = !self.in_flight.is_spent();
        let body = SharedBody::new(kept, self.bounds.max_object, Arc::clone(&self.in_flight));
        let watch = self.store.watch(key.target_id());
        let order = Arc::new(RequestOrder::new(watch.asked));
        InFlightFetch::new(watch, self.underway.begun(key, variant, order), body)
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
            flight: Arc::clone(fetch),
            place: in_flight_key,
            asked: miss.asked.clone(),
            route: miss.route.index,
            policy: Arc::clone(&miss.route.policy),
            key: miss.key.clone(),
            confirm: miss.stored.clone().filter(|_| miss.validate),
            ranged: miss.ranged,
            permit,
            interims: Some(Arc::clone(miss.interims)),
            yields: miss.fallback,
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
        let mut call = self.knock(request, route.index, &route.policy, Some(&key));
        call.yields = true;
        if self.in_flight.is_spent()
            || self.origin.check_admission(&request.target, &call).is_some()
        {
            return;
        }
        let in_flight_key = InFlightKey { key: key.clone(), variant };
        let joined = self.flights.join(
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
                flight: fetch,
                place: Some(in_flight_key),
                // A HEAD may trigger it, but stored responses belong to GET.
                asked: ProxyRequest { method: Method::GET, ..request.clone() },
                route: route.index,
                policy: Arc::clone(&route.policy),
                key,
                confirm: Some(stored).filter(|stored| stored.said.has_validator()),
                ranged: false,
                permit: None,
                interims: None,
                yields: true,
                trigger: Some(StaleReason::WhileRevalidate.token()),
            };
            fill.spawn();
        }
    }
}
