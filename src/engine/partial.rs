//! Requests for one range of what is not stored as a whole: answered from a stored part, or fetched as
//! they are, and what comes is kept as a part (RFC 9111 §3.3, §3.4).
//!
//! Owns: which key parts live under, when they are joined, when they have become the whole.
//! Never touches: ranges of what is stored whole (`reply`); what is sound as a part (`stored`).

use std::sync::Arc;

use http::Method;

use crate::decide::{CacheLookup, Decision, ForwardReason};
use crate::engine::Engine;
use crate::engine::miss::Miss;
use crate::engine::response::{ClientResponse, EngineResult};
use crate::key::CacheKey;
use crate::policy::Policy;
use crate::route::table::Route;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::ranges;
use crate::semantics::request::ProxyRequest;
use crate::semantics::validation;
use crate::semantics::vary::VariantId;
use crate::store::Lookup;
use crate::store::generations::Epoch;
use crate::stored::StoredResponse;
use crate::stored::partial::PartialResponse;
use crate::telemetry::ResultKind;
use crate::upstream::interim::Interims;

/// Whether a stored part might answer this request.
pub(crate) fn may_be_answered_by_a_part(asked: &ProxyRequest) -> bool {
    asked.method == Method::GET && ranges::is_single(&asked.headers)
}

impl Engine {
    /// Answers a request for one range of what is not stored whole, where nothing else is stored but
    /// `other`, a variant that is not the request's.
    pub(crate) async fn ranged(
        self: &Arc<Self>,
        asked: &ProxyRequest,
        route: &Route,
        key: CacheKey,
        other: Option<VariantId>,
        interims: &Arc<Interims>,
    ) -> EngineResult {
        let (policy, cache) = (&*route.policy, key.scope().cache_kind());
        let part = self.part(asked, &key, policy).await;
        let wanted = part.as_ref().and_then(|part| part.holding(&asked.headers));
        // A condition is about the whole; only `If-Range` is about ranges.
        let wanted = wanted.filter(|_| !validation::has_conditions_on_the_whole(&asked.headers));
        let found = match (&part, wanted, other) {
            (Some(part), Some(_), _) => CacheLookup::Part(part),
            (Some(_), None, _) => CacheLookup::OtherPart,
            (None, _, Some(_)) => CacheLookup::OtherVariants,
            (None, _, None) => CacheLookup::Nothing,
        };
        let now = self.clock.now();
        let why = match self.decide(asked, policy, cache, found, now) {
            Decision::Serve { ttl, .. } => {
                let status = CacheStatus::hit(ttl);
                let reply = part.zip(wanted).and_then(|(part, wanted)| {
                    ClientResponse::from_part(&part, wanted, now, &status, ResultKind::Hit)
                });
                return reply.map_or(EngineResult::Pass(ForwardReason::Bypass), |reply| {
                    EngineResult::Reply(Box::new(reply))
                });
            }
            Decision::Refuse => return EngineResult::Reply(Box::new(self.offline_or_504(asked))),
            Decision::Forward { why, store: false, .. } => return EngineResult::Pass(why),
            Decision::Forward { why, store: true, .. } => why,
        };
        let plan = Miss {
            asked,
            route,
            policy,
            key,
            cache,
            why,
            stored: None,
            variant: other,
            validate: false,
            fallback: false,
            ranged: true,
            interims,
        };
        EngineResult::Reply(Box::new(self.fetch_uncollapsed(&plan, None).await))
    }

    /// Whether a part of the request's answer is in memory: a look for `Cache-Status` alone, not
    /// worth a disk's time.
    pub(crate) fn has_part(&self, asked: &ProxyRequest, key: &CacheKey, policy: &Policy) -> bool {
        as_part(self.lookup_memory(asked, &key.of_parts(), policy)).is_some()
    }

    /// Keeps a part of the answer to `asked`, together with what is known of it already. False where
    /// it turns out to be none: the body is not as long as its `Content-Range` says.
    pub(crate) fn keep_part(
        &self,
        asked: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
        stored: StoredResponse,
        mark: Epoch,
    ) -> bool {
        let Some(part) = PartialResponse::of(Arc::new(stored)) else { return false };
        let parts = key.of_parts();
        // What the disk alone knows was brought into memory by the look before this was fetched.
        let known = as_part(self.lookup_memory(asked, &parts, policy));
        let joined = known.and_then(|known| part.joined(&known, self.bounds.max_object));
        let part = joined.unwrap_or(part);
        match part.whole() {
            Some(whole) => self.store_response(key, policy, Arc::new(whole), mark),
            None => self.store_response(&parts, policy, part.stored(), mark),
        };
        true
    }

    /// The stored part of the request's answer, from whichever tier.
    async fn part(
        &self,
        asked: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
    ) -> Option<PartialResponse> {
        as_part(self.lookup(asked, &key.of_parts(), policy).await)
    }
}

fn as_part(found: Lookup) -> Option<PartialResponse> {
    match found {
        Lookup::Found(stored) => PartialResponse::of(stored),
        Lookup::OtherVariants(_) | Lookup::Nothing | Lookup::Deeper => None,
    }
}
