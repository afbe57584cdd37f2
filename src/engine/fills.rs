//! The fills in flight: which fetch a request joins, leads or makes alone.
//!
//! Owns: the running fetches and what all fills share. Never touches: how a fill fetches (`fill`), the
//! responses to clients (`responder`).

use std::sync::Arc;

use http::HeaderValue;

use crate::clock::Clock;
use crate::engine::body::SharedBody;
use crate::engine::collapse::{InFlightFetches, InFlightKey, JoinOutcome, JoinSteps};
use crate::engine::deps::{EngineDeps, EngineLimits};
use crate::engine::entry_updates::EntryUpdates;
use crate::engine::inflight::InFlightFetch;
use crate::engine::lookup::StoreLookup;
use crate::engine::miss::Miss;
use crate::engine::mode::ModeSwitch;
use crate::engine::pending_calls::{PendingCalls, RequestOrder};
use crate::key::{CacheKey, KeyBuilder};
use crate::semantics::validation;
use crate::semantics::vary::VariantId;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::upstream::Origin;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::rejection::Rejection;
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::routed_request::RoutedRequest;

/// The fills of an engine.
pub(crate) struct Fills {
    pub(super) store: Arc<dyn Store>,
    pub(super) origin: Arc<dyn Origin>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) clock: Clock,
    pub(super) limits: EngineLimits,
    pub(super) in_flight: Arc<InFlightBytes>,
    pub(super) switch: Arc<ModeSwitch>,
    pub(super) pending_calls: Arc<PendingCalls>,
    pub(super) in_flight_fetches: InFlightFetches,
    pub(super) lookup: Arc<StoreLookup>,
    pub(super) updates: Arc<EntryUpdates>,
    key_builder: Arc<KeyBuilder>,
    /// The value that larder adds to `Via`.
    pub(super) via: HeaderValue,
}

impl Fills {
    pub(super) fn new(
        deps: &EngineDeps,
        lookup: &Arc<StoreLookup>,
        updates: &Arc<EntryUpdates>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(&deps.store),
            origin: Arc::clone(&deps.origin),
            telemetry: Arc::clone(&deps.telemetry),
            clock: deps.clock.clone(),
            limits: deps.limits,
            in_flight: Arc::clone(&deps.in_flight),
            switch: Arc::clone(&deps.switch),
            pending_calls: Arc::clone(&deps.pending_calls),
            in_flight_fetches: InFlightFetches::default(),
            lookup: Arc::clone(lookup),
            updates: Arc::clone(updates),
            key_builder: Arc::clone(&deps.key_builder),
            via: deps.via.clone(),
        })
    }

    /// Number of clients that wait for or read a fill that others may join.
    pub(super) fn waiting(&self) -> usize {
        self.in_flight_fetches.readers()
    }

    /// The context of an upstream call for `routed`. `key`: the key of the fill; `None`: the call passes
    /// through.
    pub(super) fn call_context(&self, routed: &Arc<RoutedRequest>, key: Option<&CacheKey>) -> CallContext {
        let credential = self.key_builder.api_user(&routed.request);
        CallContext { key: key.map(CacheKey::id), ..CallContext::new(routed, credential) }
    }

    /// Why a call for `routed`, which has a stale response, would be blocked right now.
    pub(super) fn check_admission(&self, routed: &Arc<RoutedRequest>, key: &CacheKey) -> Option<Rejection> {
        let call = CallContext { has_stale: true, ..self.call_context(routed, Some(key)) };
        self.origin.check_admission(&call)
    }

    /// Whether `miss` is fetched separately: its client insists on an end-to-end response, it has a condition
    /// that only the origin evaluates on a response that is not stored, or its response is not expected to be
    /// stored.
    pub(super) fn is_separate(&self, miss: &Miss<'_>) -> bool {
        let request = miss.request();
        let conditional = miss.stored.is_none() && validation::has_origin_conditions(&request.headers);
        miss.insists_on_origin() || conditional || !self.may_be_stored(miss)
    }

    /// Whether the client's own conditions are left out of the call for `miss`, so that its response can be
    /// stored: larder evaluates them itself (RFC 9111 §4.3.2).
    pub(super) fn omits_conditions(&self, miss: &Miss<'_>) -> bool {
        let headers = &miss.request().headers;
        !miss.ranged
            && miss.stored.is_none()
            && !validation::has_origin_conditions(headers)
            && self.may_be_stored(miss)
    }

    /// Whether the last response of the key was not found uncacheable (collapsing is off then), and memory is
    /// left for a shared body.
    fn may_be_stored(&self, miss: &Miss<'_>) -> bool {
        let is_off = self.in_flight_fetches.is_collapsing_disabled(miss.key, self.clock.now());
        !is_off && !self.in_flight.is_full()
    }

    /// Joins the fill of `miss`, or becomes the leader of a new one. `recheck` returns the response if it was
    /// stored since the lookup of `miss`; it only looks up and starts nothing.
    pub(super) fn join<T>(&self, miss: &Miss<'_>, recheck: impl Fn() -> Option<T>) -> JoinOutcome<T> {
        let recheck = || self.lookup.has_news_since(miss.puts).then(&recheck).flatten();
        self.join_or_lead(&miss.in_flight_key(), self.limits.waiters_per_key, &recheck)
    }

    /// Joins the fill that revalidates `stored` in the background, or becomes the leader of a new one.
    pub(super) fn join_refresh(&self, key: &InFlightKey) -> JoinOutcome<()> {
        self.join_or_lead(key, usize::MAX, &|| None)
    }

    fn join_or_lead<T>(
        &self,
        wanted: &InFlightKey,
        max_waiters: usize,
        recheck: &dyn Fn() -> Option<T>,
    ) -> JoinOutcome<T> {
        let InFlightKey { key, variant } = wanted;
        let is_current = |fetch: &InFlightFetch| self.is_joinable(key, *variant, fetch);
        let begin = || self.new_fetch(key, *variant);
        let (is_current, begin) = (&is_current, &begin);
        self.in_flight_fetches.join(wanted, &JoinSteps { max_waiters, is_current, recheck, begin })
    }

    /// Whether a new request may join `fetch`: no newer response and no invalidation came after it.
    fn is_joinable(&self, key: &CacheKey, variant: Option<VariantId>, fetch: &InFlightFetch) -> bool {
        !fetch.order().is_overtaken(variant) && self.store.is_current(key.target_id(), fetch.epoch())
    }

    /// A fetch of `key` that begins now.
    pub(super) fn new_fetch(&self, key: &CacheKey, variant: Option<VariantId>) -> Arc<InFlightFetch> {
        let kept = !self.in_flight.is_full();
        let body = SharedBody::new(kept, self.limits.max_object, Arc::clone(&self.in_flight));
        let watch = self.store.watch(key.target_id());
        let order = Arc::new(RequestOrder::new(watch.order));
        InFlightFetch::new(watch, self.pending_calls.begin(key, variant, order), body)
    }
}
