//! Handles one request: look up, decide, act.
//!
//! Owns: the order of these steps. Never touches: how a fill fetches, how a response is written.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::RANGE;
use http::{Method, StatusCode};

use crate::decide::{
    CacheLookup, Decision, ForwardReason, StaleReason, decide, decide_offline, useful_until,
};
use crate::engine::Engine;
use crate::engine::miss::Miss;
use crate::engine::mode::OFFLINE_PROBLEM;
use crate::engine::partial;
use crate::engine::response::{ClientResponse, EngineResult};
use crate::key::CacheKey;
use crate::policy::{Mode, Policy};
use crate::route::table::Route;
use crate::semantics::accept_encoding;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::connection_auth;
use crate::semantics::request::{ProxyRequest, RequestFraming};
use crate::semantics::storability::CacheKind;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::generations::Epoch;
use crate::store::{Lookup, StoreQuery};
use crate::stored::StoredResponse;
use crate::telemetry::ResultKind;
use crate::telemetry::problem::Problem;
use crate::upstream::interim::Interims;

/// The result of lookup and decision, before anything is awaited.
enum LookupOutcome<'a> {
    Done(EngineResult),
    Forward(Miss<'a>),
    /// A request for one range of a resource that is not stored whole; only another variant may be
    /// stored.
    Ranged(CacheKey, Option<VariantId>),
    /// Memory has no result; the disk must be checked first.
    CheckDisk(CacheKey),
}

impl Engine {
    /// Handles `request`, which `route` caches. Reduces `Accept-Encoding` in place first, so that
    /// clients share variants.
    /// `interims` yields interim responses while this is awaited.
    pub async fn respond(
        self: &Arc<Self>,
        request: &mut ProxyRequest,
        route: &Route,
        interims: &Arc<Interims>,
    ) -> EngineResult {
        if self.switch.mode() == Mode::Bypass {
            return EngineResult::Pass(ForwardReason::Bypass);
        }
        match self.respond_cached(request, route, interims).await {
            EngineResult::Pass(reason) => match self.offline_response(request) {
                Some(reply) => EngineResult::Reply(Box::new(reply)),
                None => EngineResult::Pass(reason),
            },
            reply @ EngineResult::Reply(_) => reply,
        }
    }

    /// While larder is offline: the response to a request that would have to pass through.
    pub fn offline_response(&self, request: &ProxyRequest) -> Option<ClientResponse> {
        (self.switch.mode() == Mode::Offline).then(|| offline(request))
    }

    /// The response to a request for which no upstream call may be made.
    pub(crate) fn offline_or_504(&self, request: &ProxyRequest) -> ClientResponse {
        self.offline_response(request).unwrap_or_else(|| only_if_cached(request))
    }

    async fn respond_cached(
        self: &Arc<Self>,
        request: &mut ProxyRequest,
        route: &Route,
        interims: &Arc<Interims>,
    ) -> EngineResult {
        if let Some(reason) = not_cached(request) {
            return EngineResult::Pass(reason);
        }
        accept_encoding::reduce(&mut request.headers);
        let request = &*request;
        let key = self.key_builder.key(request, &route.policy);
        let found = self.lookup_memory(request, &key, &route.policy);
        let outcome = match self.evaluate(request, route, key, found, interims) {
            LookupOutcome::CheckDisk(key) => {
                let variant = |fields: &VaryFields| self.variant(request, fields);
                let found = self.store.load(StoreQuery { key: &key, variant: &variant }).await;
                let found = filter_reusable(found, &key, &route.policy);
                self.evaluate(request, route, key, found, interims)
            }
            outcome @ (LookupOutcome::Done(_)
            | LookupOutcome::Forward(_)
            | LookupOutcome::Ranged(..)) => outcome,
        };
        match outcome {
            LookupOutcome::Done(result) => result,
            LookupOutcome::Forward(miss) => self.forward(miss).await,
            LookupOutcome::Ranged(key, other) => {
                self.respond_range(request, route, key, other, interims).await
            }
            // A load never returns `Deeper`; if it did, the request would go to the origin.
            LookupOutcome::CheckDisk(_) => EngineResult::Pass(ForwardReason::Bypass),
        }
    }

    pub(crate) fn variant(&self, request: &ProxyRequest, fields: &VaryFields) -> VariantId {
        self.key_builder.variant(fields, &request.headers)
    }

    /// Looks up in memory only.
    pub(crate) fn lookup_memory(
        &self,
        request: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
    ) -> Lookup {
        let variant = |fields: &VaryFields| self.variant(request, fields);
        filter_reusable(self.store.get(StoreQuery { key, variant: &variant }), key, policy)
    }

    /// Looks up in all tiers.
    pub(crate) async fn lookup(
        &self,
        request: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
    ) -> Lookup {
        match self.lookup_memory(request, key, policy) {
            Lookup::CheckDisk => {
                let variant = |fields: &VaryFields| self.variant(request, fields);
                let found = self.store.load(StoreQuery { key, variant: &variant }).await;
                filter_reusable(found, key, policy)
            }
            found @ (Lookup::Found(_) | Lookup::OtherVariants(_) | Lookup::Nothing) => found,
        }
    }

    /// Stores a complete response for as long as `policy` can use it, unless the mode is bypass.
    pub(crate) fn store_response(
        &self,
        key: &CacheKey,
        policy: &Policy,
        stored: Arc<StoredResponse>,
        epoch: Epoch,
    ) -> bool {
        if self.switch.mode() == Mode::Bypass {
            return false;
        }
        let until = useful_until(policy, key.scope().cache_kind(), &stored);
        self.store.put(key, stored, epoch, until)
    }

    pub(crate) fn decide(
        &self,
        request: &ProxyRequest,
        policy: &Policy,
        cache: CacheKind,
        found: CacheLookup<'_>,
        now: SystemTime,
    ) -> Decision {
        match self.switch.mode() {
            Mode::Offline => decide_offline(request, policy, cache, found, now),
            // In bypass mode requests do not come here; a mode change in between applies to the next
            // request.
            Mode::Cache | Mode::Bypass => decide(request, policy, cache, found, now),
        }
    }

    fn evaluate<'a>(
        self: &Arc<Self>,
        request: &'a ProxyRequest,
        route: &'a Route,
        key: CacheKey,
        found: Lookup,
        interims: &'a Arc<Interims>,
    ) -> LookupOutcome<'a> {
        let policy = &*route.policy;
        let cache = key.scope().cache_kind();
        let (stored, variant) = match found {
            Lookup::CheckDisk => return LookupOutcome::CheckDisk(key),
            Lookup::Found(stored) => {
                let variant = stored.variant;
                (Some(stored), Some(variant))
            }
            Lookup::OtherVariants(variant) => (None, Some(variant)),
            Lookup::Nothing => (None, None),
        };
        if stored.is_none() && partial::may_be_served_from_a_part(request) {
            return LookupOutcome::Ranged(key, variant);
        }
        let found = match (&stored, variant) {
            (Some(stored), _) => CacheLookup::Stored(stored),
            (None, _) if self.has_part(request, &key, policy) => CacheLookup::OtherPartial,
            (None, Some(_)) => CacheLookup::OtherVariants,
            (None, None) => CacheLookup::Nothing,
        };
        let now = self.clock.now();
        match self.decide(request, policy, cache, found, now) {
            Decision::Serve { ttl, stale, refresh } => {
                let Some(stored) = stored else {
                    return LookupOutcome::Done(EngineResult::Pass(ForwardReason::Bypass));
                };
                let reply = self.respond_stored(request, route, &stored, ttl, stale, now);
                if refresh {
                    self.refresh(request, route, key, stored, variant);
                }
                LookupOutcome::Done(EngineResult::Reply(Box::new(reply)))
            }
            Decision::Refuse => {
                LookupOutcome::Done(EngineResult::Reply(Box::new(self.offline_or_504(request))))
            }
            Decision::Forward { reason, store: false, .. } => {
                LookupOutcome::Done(EngineResult::Pass(reason))
            }
            Decision::Forward { reason, validate, fallback, store: true } => {
                let fallback = fallback && self.has_usable_fallback(&key, stored.as_deref());
                let miss = Miss {
                    request,
                    route,
                    policy,
                    key,
                    cache,
                    reason,
                    stored,
                    variant,
                    validate,
                    fallback,
                    ranged: false,
                    interims,
                };
                self.forward_or_pass(miss)
            }
        }
    }

    fn forward_or_pass<'a>(&self, miss: Miss<'a>) -> LookupOutcome<'a> {
        if let Some(reply) = self.stale_if_blocked(&miss) {
            return LookupOutcome::Done(EngineResult::Reply(Box::new(reply)));
        }
        // HEAD passes through; the origin serves several ranges on a miss.
        let is_range_miss = miss.stored.is_none() && miss.request.headers.contains_key(RANGE);
        if miss.request.method == Method::HEAD || is_range_miss {
            return LookupOutcome::Done(EngineResult::Pass(miss.reason));
        }
        LookupOutcome::Forward(miss)
    }

    pub(super) fn respond_stored(
        &self,
        request: &ProxyRequest,
        route: &Route,
        stored: &StoredResponse,
        ttl: i64,
        stale: Option<StaleReason>,
        now: SystemTime,
    ) -> ClientResponse {
        let status = match stale {
            None => CacheStatus::hit(ttl),
            Some(reason) => {
                self.telemetry.stale_served(route.index, reason.token());
                CacheStatus::hit(ttl).detail(reason.token(), "")
            }
        };
        let result = if stale.is_some() { ResultKind::Stale } else { ResultKind::Hit };
        ClientResponse::from_stored(request, stored, now, &status, result)
    }
}

/// Filters out stored responses that may not be reused. A reload can change the policy, under which a
/// response may no longer be shared. A part is only valid under a key of parts, and a whole only under a
/// key of wholes.
fn filter_reusable(found: Lookup, key: &CacheKey, policy: &Policy) -> Lookup {
    match found {
        Lookup::Found(stored)
            if stored.is_part() != key.is_for_partial()
                || !policy.is_still_reusable(
                    &stored.metadata,
                    stored.authorized,
                    key.scope().cache_kind(),
                ) =>
        {
            Lookup::Nothing
        }
        found @ (Lookup::Found(_)
        | Lookup::OtherVariants(_)
        | Lookup::Nothing
        | Lookup::CheckDisk) => found,
    }
}

/// Why a request is never served from the store under any route; `None`: it may be.
pub(super) fn not_cached(request: &ProxyRequest) -> Option<ForwardReason> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Some(ForwardReason::Method);
    }
    // The request overrides its method, or an origin may interpret its path differently from the matched
    // route.
    if request.is_overridden() || request.target.is_ambiguous() {
        return Some(ForwardReason::Bypass);
    }
    // The response belongs to an authenticated connection.
    if connection_auth::is_in_request(&request.headers) {
        return Some(ForwardReason::Bypass);
    }
    // A body may change the meaning of a GET (search APIs); an event stream never ends.
    (request.body != RequestFraming::None || request.expects_stream())
        .then_some(ForwardReason::Bypass)
}

fn offline(request: &ProxyRequest) -> ClientResponse {
    let status = CacheStatus::refused().detail(Mode::Offline.token(), "");
    ClientResponse::from_problem(request, &OFFLINE_PROBLEM, &status)
}

/// RFC 9111 §5.2.1.7.
fn only_if_cached(request: &ProxyRequest) -> ClientResponse {
    let problem = Problem::new(
        StatusCode::GATEWAY_TIMEOUT,
        "only_if_cached",
        "nothing usable is stored and the request contains only-if-cached",
        "http_request_denied",
    );
    ClientResponse::from_problem(
        request,
        &problem,
        &CacheStatus::forwarded(ForwardReason::Request.token()),
    )
}
