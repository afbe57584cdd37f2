//! Requests for one range of a resource that is not stored as a whole: served from a stored part, or
//! forwarded with the range and stored as a part (RFC 9111 §3.3, §3.4).
//!
//! Owns: the keys of parts, joining parts, detecting when they form the whole. Never touches: ranges of
//! whole stored responses (`response`); the validity of a part (`stored`).

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

/// Whether a stored part may serve this request.
pub(crate) fn may_be_served_from_a_part(request: &ProxyRequest) -> bool {
    request.method == Method::GET && ranges::is_single(&request.headers)
}

impl Engine {
    /// Serves a request for one range of a resource that is not stored whole. `other`: a stored variant
    /// that is not the request's.
    pub(crate) async fn respond_range(
        self: &Arc<Self>,
        request: &ProxyRequest,
        route: &Route,
        key: CacheKey,
        other: Option<VariantId>,
        interims: &Arc<Interims>,
    ) -> EngineResult {
        let (policy, cache) = (&*route.policy, key.scope().cache_kind());
        let part = self.lookup_part(request, &key, policy).await;
        let wanted = part.as_ref().and_then(|part| part.available_range(&request.headers));
        // A condition applies to the whole; only `If-Range` applies to ranges.
        let wanted = wanted.filter(|_| !validation::has_conditions_on_the_whole(&request.headers));
        let found = match (&part, wanted, other) {
            (Some(part), Some(_), _) => CacheLookup::Partial(part),
            (Some(_), None, _) => CacheLookup::OtherPartial,
            (None, _, Some(_)) => CacheLookup::OtherVariants,
            (None, _, None) => CacheLookup::Nothing,
        };
        let now = self.clock.now();
        let reason = match self.decide(request, policy, cache, found, now) {
            Decision::Serve { ttl, .. } => {
                let status = CacheStatus::hit(ttl);
                let response = part.zip(wanted).and_then(|(part, wanted)| {
                    ClientResponse::from_part(&part, wanted, now, &status, ResultKind::Hit)
                });
                return response.map_or(EngineResult::Pass(ForwardReason::Bypass), |response| {
                    EngineResult::Reply(Box::new(response))
                });
            }
            Decision::Refuse => return EngineResult::Reply(Box::new(self.offline_or_504(request))),
            Decision::Forward { reason, store: false, .. } => {
                return EngineResult::Pass(reason);
            }
            Decision::Forward { reason, store: true, .. } => reason,
        };
        let miss = Miss {
            request,
            route,
            policy,
            key,
            cache,
            reason,
            stored: None,
            variant: other,
            validate: false,
            fallback: false,
            ranged: true,
            interims,
        };
        EngineResult::Reply(Box::new(self.fetch_uncollapsed(&miss, None).await))
    }

    /// Whether a part of the response is in memory. This is only for `Cache-Status`, so the disk is not
    /// read.
    pub(crate) fn has_part(&self, request: &ProxyRequest, key: &CacheKey, policy: &Policy) -> bool {
        as_part(self.lookup_memory(request, &key.for_partial(), policy)).is_some()
    }

    /// Stores a part of the response to `request`, joined with the stored part. False if it is not a
    /// valid part: the length of its body differs from its `Content-Range`.
    pub(crate) fn store_part(
        &self,
        request: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
        stored: StoredResponse,
        epoch: Epoch,
    ) -> bool {
        let Some(part) = PartialResponse::from_stored(Arc::new(stored)) else { return false };
        let parts = key.for_partial();
        // The lookup before the fetch has brought a part on disk into memory.
        let stored_part = as_part(self.lookup_memory(request, &parts, policy));
        let joined =
            stored_part.and_then(|stored_part| part.joined(&stored_part, self.limits.max_object));
        let part = joined.unwrap_or(part);
        match part.whole() {
            Some(whole) => self.store_response(key, policy, Arc::new(whole), epoch),
            None => self.store_response(&parts, policy, part.stored(), epoch),
        };
        true
    }

    /// The stored part of the response, from any tier.
    async fn lookup_part(
        &self,
        request: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
    ) -> Option<PartialResponse> {
        as_part(self.lookup(request, &key.for_partial(), policy).await)
    }
}

fn as_part(found: Lookup) -> Option<PartialResponse> {
    match found {
        Lookup::Found(stored) => PartialResponse::from_stored(stored),
        Lookup::OtherVariants(_) | Lookup::Nothing | Lookup::CheckDisk => None,
    }
}
