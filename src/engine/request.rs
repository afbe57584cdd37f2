//! One request: look up, decide, act.
//!
//! Owns: the order of the acts. Never touches: how a fill fetches, how a reply is written.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{ACCEPT, RANGE};
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

/// What looking and deciding came to, before anything is awaited.
enum LookupOutcome<'a> {
    Done(EngineResult),
    Forward(Miss<'a>),
    /// One range of what is not stored whole; only another variant may be.
    Ranged(CacheKey, Option<VariantId>),
    /// A deeper tier has to be asked first.
    Deeper(CacheKey),
}

impl Engine {
    /// Answers `asked`, which `route` caches. `Accept-Encoding` is reduced in place first, so that
    /// clients share variants.
    /// Interim answers come out of `interims` while this is awaited.
    pub async fn answer(
        self: &Arc<Self>,
        asked: &mut ProxyRequest,
        route: &Route,
        interims: &Arc<Interims>,
    ) -> EngineResult {
        if self.switch.mode() == Mode::Bypass {
            return EngineResult::Pass(ForwardReason::Bypass);
        }
        match self.answer_cached(asked, route, interims).await {
            EngineResult::Pass(why) => match self.refusal(asked) {
                Some(reply) => EngineResult::Reply(Box::new(reply)),
                None => EngineResult::Pass(why),
            },
            reply @ EngineResult::Reply(_) => reply,
        }
    }

    /// While larder is offline: the answer to a request that would have to pass through.
    pub fn refusal(&self, asked: &ProxyRequest) -> Option<ClientResponse> {
        (self.switch.mode() == Mode::Offline).then(|| offline(asked))
    }

    /// The answer to a request for which the origin may not be asked.
    pub(crate) fn offline_or_504(&self, asked: &ProxyRequest) -> ClientResponse {
        self.refusal(asked).unwrap_or_else(|| only_if_cached(asked))
    }

    async fn answer_cached(
        self: &Arc<Self>,
        asked: &mut ProxyRequest,
        route: &Route,
        interims: &Arc<Interims>,
    ) -> EngineResult {
        if let Some(why) = not_cached(asked) {
            return EngineResult::Pass(why);
        }
        accept_encoding::reduce(&mut asked.headers);
        let asked = &*asked;
        let key = self.keyring.key(asked, &route.policy);
        let found = self.lookup_memory(asked, &key, &route.policy);
        let step = match self.step(asked, route, key, found, interims) {
            LookupOutcome::Deeper(key) => {
                let variant = |fields: &VaryFields| self.variant(asked, fields);
                let found = self.store.load(StoreQuery { key: &key, variant: &variant }).await;
                let found = admitted(found, &key, &route.policy);
                self.step(asked, route, key, found, interims)
            }
            step @ (LookupOutcome::Done(_)
            | LookupOutcome::Forward(_)
            | LookupOutcome::Ranged(..)) => step,
        };
        match step {
            LookupOutcome::Done(answered) => answered,
            LookupOutcome::Forward(plan) => self.forward(plan).await,
            LookupOutcome::Ranged(key, other) => {
                self.ranged(asked, route, key, other, interims).await
            }
            // A load never says `Deeper`; were it to, the origin knows.
            LookupOutcome::Deeper(_) => EngineResult::Pass(ForwardReason::Bypass),
        }
    }

    pub(crate) fn variant(&self, asked: &ProxyRequest, fields: &VaryFields) -> VariantId {
        self.keyring.variant(fields, &asked.headers)
    }

    /// What memory holds.
    pub(crate) fn lookup_memory(
        &self,
        asked: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
    ) -> Lookup {
        let variant = |fields: &VaryFields| self.variant(asked, fields);
        admitted(self.store.get(StoreQuery { key, variant: &variant }), key, policy)
    }

    /// What any tier holds.
    pub(crate) async fn lookup(
        &self,
        asked: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
    ) -> Lookup {
        match self.lookup_memory(asked, key, policy) {
            Lookup::Deeper => {
                let variant = |fields: &VaryFields| self.variant(asked, fields);
                let found = self.store.load(StoreQuery { key, variant: &variant }).await;
                admitted(found, key, policy)
            }
            found @ (Lookup::Found(_) | Lookup::OtherVariants(_) | Lookup::Nothing) => found,
        }
    }

    /// Keeps a complete response for as long as `policy` can make use of it, unless larder has been
    /// told to keep out.
    pub(crate) fn store_response(
        &self,
        key: &CacheKey,
        policy: &Policy,
        stored: Arc<StoredResponse>,
        mark: Epoch,
    ) -> bool {
        if self.switch.mode() == Mode::Bypass {
            return false;
        }
        let until = useful_until(policy, key.scope().cache_kind(), &stored);
        self.store.put(key, stored, mark, until)
    }

    pub(crate) fn decide(
        &self,
        asked: &ProxyRequest,
        policy: &Policy,
        cache: CacheKind,
        found: CacheLookup<'_>,
        now: SystemTime,
    ) -> Decision {
        match self.switch.mode() {
            Mode::Offline => decide_offline(asked, policy, cache, found, now),
            // Who bypasses does not come here; a switch that turns meanwhile is for the next one.
            Mode::Cache | Mode::Bypass => decide(asked, policy, cache, found, now),
        }
    }

    fn step<'a>(
        self: &Arc<Self>,
        asked: &'a ProxyRequest,
        route: &'a Route,
        key: CacheKey,
        found: Lookup,
        interims: &'a Arc<Interims>,
    ) -> LookupOutcome<'a> {
        let policy = &*route.policy;
        let cache = key.scope().cache_kind();
        let (stored, variant) = match found {
            Lookup::Deeper => return LookupOutcome::Deeper(key),
            Lookup::Found(stored) => {
                let variant = stored.variant;
                (Some(stored), Some(variant))
            }
            Lookup::OtherVariants(variant) => (None, Some(variant)),
            Lookup::Nothing => (None, None),
        };
        if stored.is_none() && partial::may_be_answered_by_a_part(asked) {
            return LookupOutcome::Ranged(key, variant);
        }
        let seen = match (&stored, variant) {
            (Some(stored), _) => CacheLookup::Stored(stored),
            (None, _) if self.has_part(asked, &key, policy) => CacheLookup::OtherPart,
            (None, Some(_)) => CacheLookup::OtherVariants,
            (None, None) => CacheLookup::Nothing,
        };
        let now = self.clock.now();
        match self.decide(asked, policy, cache, seen, now) {
            Decision::Serve { ttl, stale, refresh } => {
                let Some(stored) = stored else {
                    return LookupOutcome::Done(EngineResult::Pass(ForwardReason::Bypass));
                };
                let reply = self.respond_stored(asked, route, &stored, ttl, stale, now);
                if refresh {
                    self.refresh(asked, route, key, stored, variant);
                }
                LookupOutcome::Done(EngineResult::Reply(Box::new(reply)))
            }
            Decision::Refuse => {
                LookupOutcome::Done(EngineResult::Reply(Box::new(self.offline_or_504(asked))))
            }
            Decision::Forward { why, store: false, .. } => {
                LookupOutcome::Done(EngineResult::Pass(why))
            }
            Decision::Forward { why, validate, fallback, store: true } => {
                let fallback = fallback && self.falls_back(&key, stored.as_deref());
                let plan = Miss {
                    asked,
                    route,
                    policy,
                    key,
                    cache,
                    why,
                    stored,
                    variant,
                    validate,
                    fallback,
                    ranged: false,
                    interims,
                };
                if let Some(reply) = self.stale_if_blocked(&plan) {
                    return LookupOutcome::Done(EngineResult::Reply(Box::new(reply)));
                }
                // HEAD is written through; several ranges on a miss are the origin's to cut.
                let bare = plan.stored.is_none() && asked.headers.contains_key(RANGE);
                if asked.method == Method::HEAD || bare {
                    return LookupOutcome::Done(EngineResult::Pass(why));
                }
                LookupOutcome::Forward(plan)
            }
        }
    }

    pub(super) fn respond_stored(
        &self,
        asked: &ProxyRequest,
        route: &Route,
        stored: &StoredResponse,
        ttl: i64,
        stale: Option<StaleReason>,
        now: SystemTime,
    ) -> ClientResponse {
        let status = match stale {
            None => CacheStatus::hit(ttl),
            Some(why) => {
                self.account.stale_served(route.index, why.token());
                CacheStatus::hit(ttl).detail(why.token(), "")
            }
        };
        let result = if stale.is_some() { ResultKind::Stale } else { ResultKind::Hit };
        ClientResponse::from_stored(asked, stored, now, &status, result)
    }
}

/// What was stored under another policy, before a reload, may be nobody's under this one. Parts are
/// found under keys of parts alone; should one lie elsewhere all the same, it is not there.
fn admitted(found: Lookup, key: &CacheKey, policy: &Policy) -> Lookup {
    match found {
        Lookup::Found(stored)
            if stored.is_part() != key.is_of_parts()
                || !policy.is_still_reusable(
                    &stored.said,
                    stored.authorized,
                    key.scope().cache_kind(),
                ) =>
        {
            Lookup::Nothing
        }
        found
        @ (Lookup::Found(_) | Lookup::OtherVariants(_) | Lookup::Nothing | Lookup::Deeper) => found,
    }
}

/// Requests that are never answered from the store, whatever their route says.
pub(super) fn not_cached(asked: &ProxyRequest) -> Option<ForwardReason> {
    if !matches!(asked.method, Method::GET | Method::HEAD) {
        return Some(ForwardReason::Method);
    }
    // Another method, or a path that an origin may read as another than the one a route matched.
    if asked.is_overridden() || asked.target.is_ambiguous() {
        return Some(ForwardReason::Bypass);
    }
    // The answer is that of a connection, whatever else the request says.
    if connection_auth::is_sent(&asked.headers) {
        return Some(ForwardReason::Bypass);
    }
    // A body may change what a GET means (search APIs), an event stream never ends.
    let streams = asked
        .headers
        .get_all(ACCEPT)
        .iter()
        .any(|accept| contains_ignore_case(accept.as_bytes(), b"text/event-stream"));
    (asked.body != RequestFraming::None || asked.upgrade.is_some() || streams)
        .then_some(ForwardReason::Bypass)
}

fn contains_ignore_case(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle))
}

fn offline(asked: &ProxyRequest) -> ClientResponse {
    let status = CacheStatus::refused().detail(Mode::Offline.token(), "");
    ClientResponse::from_problem(asked, &OFFLINE_PROBLEM, &status)
}

/// RFC 9111 §5.2.1.7.
fn only_if_cached(asked: &ProxyRequest) -> ClientResponse {
    let problem = Problem::new(
        StatusCode::GATEWAY_TIMEOUT,
        "only_if_cached",
        "nothing usable is stored and the request said only-if-cached",
        "http_request_denied",
    );
    ClientResponse::from_problem(
        asked,
        &problem,
        &CacheStatus::forwarded(ForwardReason::Request.token()),
    )
}
