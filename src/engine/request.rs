//! Handles one request: look up, decide, act.
//!
//! Owns: the order of these steps. Never touches: how a fill fetches, how a response is written.

use std::sync::Arc;

use http::Method;
use http::header::RANGE;

use crate::decide::{CacheLookup, Decision, ForwardReason};
use crate::engine::Engine;
use crate::engine::fill_start;
use crate::engine::lookup::MemoryLookup;
use crate::engine::miss::Miss;
use crate::engine::response::{ClientResponse, EngineResult};
use crate::key::CacheKey;
use crate::policy::Mode;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::ranges;
use crate::semantics::validation;
use crate::semantics::vary::VariantId;
use crate::store::Lookup;
use crate::stored::StoredResponse;
use crate::telemetry::ResultKind;
use crate::upstream::interim::Interims;
use crate::upstream::routed_request::RoutedRequest;

/// The next step for a request, after a decision.
enum NextStep<'a> {
    Done(EngineResult),
    Forward(Miss<'a>),
}

/// A request that the engine handles.
#[derive(Clone, Copy)]
struct KeyedRequest<'a> {
    routed: &'a Arc<RoutedRequest>,
    key: &'a CacheKey,
    /// Receives the interim responses of a call that this request leads.
    interims: &'a Arc<Interims>,
    /// [`crate::store::Store::puts`] before the lookup in memory.
    puts: u64,
}

impl<'a> KeyedRequest<'a> {
    /// The request as one that goes to the origin. `variant`: the stored variant of the request, or another
    /// one.
    fn miss(&self, reason: ForwardReason, variant: Option<VariantId>) -> Miss<'a> {
        let Self { routed, key, interims, puts } = *self;
        Miss {
            routed,
            key,
            reason,
            stored: None,
            variant,
            validate: false,
            fallback: false,
            ranged: false,
            interims,
            puts,
        }
    }
}

impl Engine {
    /// Handles `routed`. `looked_up`: the result of the fast path's lookup, if it made one. `interims` yields
    /// interim responses while this is awaited.
    pub async fn respond(
        &self,
        routed: &Arc<RoutedRequest>,
        looked_up: Option<MemoryLookup>,
        interims: &Arc<Interims>,
    ) -> EngineResult {
        let key = match &routed.key {
            Ok(key) => key,
            Err(reason) => return EngineResult::Pass(*reason),
        };
        let MemoryLookup { found, puts } = looked_up.unwrap_or_else(|| self.lookup.first(routed, key));
        let keyed = KeyedRequest { routed, key, interims, puts };
        self.respond_keyed(keyed, found).await
    }

    /// Why `routed` passes through without a lookup; `None`: [`Engine::respond`] handles it.
    pub fn passes_through(&self, routed: &RoutedRequest) -> Option<ForwardReason> {
        let is_bypass = self.switch.mode() == Mode::Bypass;
        is_bypass.then_some(ForwardReason::Bypass).or(routed.key.as_ref().err().copied())
    }

    /// While larder is offline: the response to a request that would have to pass through.
    pub fn offline_response(&self, routed: &RoutedRequest) -> Option<ClientResponse> {
        self.responder.offline(&routed.request)
    }

    async fn respond_keyed(&self, keyed: KeyedRequest<'_>, found: Lookup) -> EngineResult {
        let KeyedRequest { routed, key, .. } = keyed;
        let (stored, variant) = match self.lookup.disk(routed, key, found).await {
            Lookup::Found(stored) => {
                let variant = stored.variant;
                (Some(stored), Some(variant))
            }
            Lookup::OtherVariants(variant) => (None, Some(variant)),
            Lookup::Nothing | Lookup::CheckDisk(_) => (None, None),
        };
        let is_single_range =
            routed.request.method == Method::GET && ranges::is_single(&routed.request.headers);
        if stored.is_none() && is_single_range {
            return self.respond_range(keyed, variant).await;
        }
        if routed.request.method == Method::HEAD {
            return self.respond_head(keyed, stored, variant).await;
        }
        match self.evaluate(keyed, stored, variant) {
            NextStep::Done(result) => result,
            NextStep::Forward(miss) => EngineResult::reply(self.forwarder.forward(miss).await),
        }
    }

    fn evaluate<'a>(
        &self,
        keyed: KeyedRequest<'a>,
        stored: Option<Arc<StoredResponse>>,
        variant: Option<VariantId>,
    ) -> NextStep<'a> {
        let KeyedRequest { routed, key, .. } = keyed;
        let found = match (&stored, variant) {
            (Some(stored), _) => CacheLookup::Stored(stored),
            // Only for `Cache-Status`, so the disk is not read.
            (None, _) if self.lookup.part_in_memory(routed, key).is_some() => CacheLookup::OtherPartial,
            (None, Some(_)) => CacheLookup::OtherVariants,
            (None, None) => CacheLookup::Nothing,
        };
        let now = self.clock.now();
        match self.responder.decide(routed, key, found, now) {
            Decision::Serve { ttl, stale, refresh } => {
                let Some(stored) = stored else {
                    return NextStep::Done(EngineResult::Pass(ForwardReason::Bypass));
                };
                let reply = self.responder.hit(routed, &stored, (ttl, stale), now);
                if refresh {
                    fill_start::refresh(&self.fills, routed, key, stored);
                }
                NextStep::Done(EngineResult::reply(reply))
            }
            Decision::Refuse => {
                let reply = self.responder.offline_or_504(&routed.request);
                NextStep::Done(EngineResult::reply(reply))
            }
            Decision::Forward { reason, store: false, .. } => NextStep::Done(EngineResult::Pass(reason)),
            Decision::Forward { reason, validate, fallback, store: true } => {
                let is_usable = |stored: &Arc<_>| self.updates.may_serve_on_error(key, stored);
                let fallback = fallback && stored.as_ref().is_none_or(is_usable);
                let miss = keyed.miss(reason, variant);
                self.forward_or_pass(Miss { stored, validate, fallback, ..miss })
            }
        }
    }

    fn forward_or_pass<'a>(&self, miss: Miss<'a>) -> NextStep<'a> {
        if let Some(reply) = self.stale_if_blocked(&miss) {
            return NextStep::Done(EngineResult::reply(reply));
        }
        // The origin serves several ranges on a miss. A range has no meaning for HEAD (RFC 9110 §14.2), but some
        // origins give it one.
        let request = miss.request();
        let is_whole = request.method == Method::GET && miss.stored.is_some();
        if !is_whole && request.headers.contains_key(RANGE) {
            return NextStep::Done(EngineResult::Pass(miss.reason));
        }
        NextStep::Forward(miss)
    }

    /// Handles a `HEAD`: from the stored response to a `GET`, `get`, or else as earlier ones, whose responses are
    /// stored under a key of their own (RFC 9110 §9.3.2).
    async fn respond_head(
        &self,
        keyed: KeyedRequest<'_>,
        get: Option<Arc<StoredResponse>>,
        variant: Option<VariantId>,
    ) -> EngineResult {
        let KeyedRequest { routed, key, .. } = keyed;
        let decide = |stored: &Arc<StoredResponse>| {
            self.responder.decide(routed, key, CacheLookup::Stored(stored), self.clock.now())
        };
        let is_served = get.as_ref().is_some_and(|get| matches!(decide(get), Decision::Serve { .. }));
        let head_key = key.for_head();
        let found = if is_served { Lookup::Nothing } else { self.lookup.all_tiers(routed, &head_key).await };
        let is_older = |head: &StoredResponse| {
            get.as_ref().is_some_and(|get| self.lookup.is_newer(get.order, head.order))
        };
        let next_step = if let Lookup::Found(head) = found
            && !is_older(&head)
        {
            let variant = Some(head.variant);
            self.evaluate(KeyedRequest { key: &head_key, ..keyed }, Some(head), variant)
        } else {
            self.evaluate(keyed, get, variant)
        };
        match next_step {
            NextStep::Done(result) => result,
            NextStep::Forward(miss) => {
                // The validators of a response to GET would confirm that one.
                let validate = miss.validate && miss.key.is_for_head();
                let miss = Miss { key: &head_key, validate, ..miss };
                EngineResult::reply(self.forwarder.forward(miss).await)
            }
        }
    }

    /// The stale response, if calls to the origin are blocked right now and one may be served. No call
    /// is made then.
    fn stale_if_blocked(&self, miss: &Miss<'_>) -> Option<ClientResponse> {
        if miss.stored.is_none() || !miss.fallback {
            return None;
        }
        let rejection = self.fills.check_admission(miss.routed, miss.key)?;
        self.responder.stale_without_call(miss, rejection)
    }

    /// Serves a request for one range of a resource that is not stored whole: from a stored part, or with the
    /// range forwarded and its response stored as a part (RFC 9111 §3.3, §3.4). `other`: a stored variant that
    /// is not the request's.
    async fn respond_range(&self, keyed: KeyedRequest<'_>, other: Option<VariantId>) -> EngineResult {
        let KeyedRequest { routed, key, .. } = keyed;
        let headers = &routed.request.headers;
        let part = self.lookup.part(routed, key).await;
        let wanted = part.as_ref().and_then(|part| part.available_range(headers));
        // A condition applies to the whole; only `If-Range` applies to ranges.
        let wanted = wanted.filter(|_| !validation::has_conditions_on_the_whole(headers));
        let found = match (&part, wanted, other) {
            (Some(part), Some(_), _) => CacheLookup::Partial(part),
            (Some(_), None, _) => CacheLookup::OtherPartial,
            (None, _, Some(_)) => CacheLookup::OtherVariants,
            (None, _, None) => CacheLookup::Nothing,
        };
        let now = self.clock.now();
        match self.responder.decide(routed, key, found, now) {
            Decision::Serve { ttl, .. } => {
                let status = CacheStatus::hit(ttl);
                let response = part.zip(wanted).and_then(|(part, wanted)| {
                    ClientResponse::from_part(&part, wanted, now, &status, ResultKind::Hit)
                });
                response.map_or(EngineResult::Pass(ForwardReason::Bypass), EngineResult::reply)
            }
            Decision::Refuse => EngineResult::reply(self.responder.offline_or_504(&routed.request)),
            Decision::Forward { reason, store: false, .. } => EngineResult::Pass(reason),
            Decision::Forward { reason, store: true, .. } => {
                let miss = Miss { ranged: true, ..keyed.miss(reason, other) };
                EngineResult::reply(self.forwarder.fetch_separately(&miss, None).await)
            }
        }
    }
}
