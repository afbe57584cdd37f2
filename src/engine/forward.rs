//! A request goes to the origin: alone, or together with all who want the same.
//!
//! Owns: who leads a fill, who joins one, and fills in the background. Never touches: looking up,
//! how a fill fetches.

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
    pub(super) async fn forward(self: &Arc<Self>, mut plan: Miss<'_>) -> EngineResult {
        if plan.why == ForwardReason::UriMiss {
            self.tell_what_kept_apart(&plan);
        }
        let apart = self.flights.is_collapsing_disabled(&plan.key, self.clock.now());
        let conditional =
            plan.stored.is_none() && validation::has_conditionals(&plan.asked.headers);
        // Who insists on the origin's word gets its own; so does who asks "has it changed?" about
        // something larder does not have.
        let insists = plan.why == ForwardReason::Request || plan.asked.cache_control().insists();
        if insists || conditional || apart || self.in_flight.is_spent() {
            return EngineResult::Reply(Box::new(self.fetch_uncollapsed(&plan, None).await));
        }
        loop {
            match self.join(&plan) {
                JoinOutcome::Answered(reply) => return EngineResult::Reply(reply),
                JoinOutcome::Full => return EngineResult::Reply(Box::new(self.too_many(&plan))),
                JoinOutcome::Lead(flight, reader) => {
                    let place = Some(plan.place());
                    self.fill(&plan, &flight, place, None).spawn();
                    let reply = self.follow_as_leader(&plan, &flight, reader).await;
                    return EngineResult::Reply(Box::new(reply));
                }
                JoinOutcome::Wait(flight, reader) => {
                    match self.follow_as_waiter(&plan, &flight, reader).await {
                        WaitOutcome::Reply(reply) => return EngineResult::Reply(reply),
                        WaitOutcome::OtherVariant(variant) => plan.move_to(variant),
                        WaitOutcome::Alone(permit) => {
                            let reply = self.fetch_uncollapsed(&plan, permit).await;
                            return EngineResult::Reply(Box::new(reply));
                        }
                    }
                }
            }
        }
    }

    /// A request that is equal to another but for one field may have been meant to share its answer.
    fn tell_what_kept_apart(&self, plan: &Miss<'_>) {
        let fields = self.keyring.separators(plan.asked, plan.policy);
        let rest = plan.key.without_separators();
        let Some(separator) = self.apart.missed(plan.route.index, rest, &fields) else { return };
        let (route, field) = (&*plan.route.name, separator.name.as_str());
        tracing::debug!(route, field, "Kept apart from an equal request by a field");
        if separator.is_news {
            tracing::warn!(
                route,
                field,
                "A field keeps apart requests that are otherwise equal: where answers do not depend on it, \
                 name it in the route's key.ignore_headers"
            );
        }
    }

    fn join(self: &Arc<Self>, plan: &Miss<'_>) -> JoinOutcome<Box<ClientResponse>> {
        // Under the lock of the flights: it only looks, it starts nothing.
        let recheck = || {
            let found = self.lookup_memory(plan.asked, &plan.key, plan.policy);
            let Lookup::Found(stored) = found else { return None };
            let now = self.clock.now();
            match self.decide(
                plan.asked,
                plan.policy,
                plan.cache,
                CacheLookup::Stored(&stored),
                now,
            ) {
                Decision::Serve { ttl, stale: None, refresh: false } => Some(Box::new(
                    self.respond_stored(plan.asked, plan.route, &stored, ttl, None, now),
                )),
                Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse => None,
            }
        };
        self.flights.join(
            &plan.place(),
            self.bounds.waiters_per_key,
            |flight| self.is_news(&plan.key, plan.variant, flight),
            recheck,
            || self.flight(&plan.key, plan.variant),
        )
    }

    /// Whether what `flight` brings is news to who asks now.
    fn is_news(&self, key: &CacheKey, variant: Option<VariantId>, flight: &InFlightFetch) -> bool {
        !flight.order().is_overtaken(variant)
            && self.store.is_current(key.target_id(), flight.mark())
    }

    fn flight(&self, key: &CacheKey, variant: Option<VariantId>) -> Arc<InFlightFetch> {
        let kept = !self.in_flight.is_spent();
        let body = SharedBody::new(kept, self.bounds.max_object, Arc::clone(&self.in_flight));
        let watch = self.store.watch(key.target_id());
        let order = Arc::new(RequestOrder::new(watch.asked));
        InFlightFetch::new(watch, self.underway.begun(key, variant, order), body)
    }

    /// A fetch that nobody else joins.
    pub(crate) async fn fetch_uncollapsed(
        self: &Arc<Self>,
        plan: &Miss<'_>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> ClientResponse {
        let flight = self.flight(&plan.key, None);
        let reader = flight.body.first_reader();
        self.fill(plan, &flight, None, permit).spawn();
        self.follow_as_leader(plan, &flight, reader).await
    }

    fn fill(
        self: &Arc<Self>,
        plan: &Miss<'_>,
        flight: &Arc<InFlightFetch>,
        place: Option<InFlightKey>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Fill {
        Fill {
            engine: Arc::clone(self),
            flight: Arc::clone(flight),
            place,
            asked: plan.asked.clone(),
            route: plan.route.index,
            policy: Arc::clone(&plan.route.policy),
            key: plan.key.clone(),
            confirm: plan.stored.clone().filter(|_| plan.validate),
            ranged: plan.ranged,
            permit,
            interims: Some(Arc::clone(plan.interims)),
            yields: plan.fallback,
            trigger: None,
        }
    }

    /// A background fill for a stored response that was served stale (RFC 5861 §3): one at a time,
    /// and none while there is no room to keep what it brings.
    pub(super) fn refresh(
        self: &Arc<Self>,
        asked: &ProxyRequest,
        route: &Route,
        key: CacheKey,
        stored: Arc<StoredResponse>,
        variant: Option<VariantId>,
    ) {
        let mut knock = self.knock(asked, route.index, &route.policy, Some(&key));
        knock.yields = true;
        if self.in_flight.is_spent() || self.origin.check_admission(&asked.target, &knock).is_some()
        {
            return;
        }
        let place = InFlightKey { key: key.clone(), variant };
        let turn = self.flights.join(
            &place,
            usize::MAX,
            |flight| self.is_news(&key, variant, flight),
            || None::<()>,
            || self.flight(&key, variant),
        );
        if let JoinOutcome::Lead(flight, reader) = turn {
            drop(reader);
            let fill = Fill {
                engine: Arc::clone(self),
                flight,
                place: Some(place),
                // Whatever method it stands in for, what is stored answers a GET.
                asked: ProxyRequest { method: Method::GET, ..asked.clone() },
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
