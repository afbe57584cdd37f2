//! Applies the response to a request that passed through to stored responses and pending calls: for a
//! `HEAD` (RFC 9111 §4.3.5), and for a `GET` whose response is not to be stored.
//!
//! Owns: which of them apply; marking earlier requests as overtaken.
//! Never touches: the response to the client; invalidation by unsafe methods (`purger`).

pub mod store_post;

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, Method, StatusCode};

use crate::clock::Clock;
use crate::decide::{CacheLookup, Decision};
use crate::engine::deps::EngineDeps;
use crate::engine::entry_updates::{EntryUpdates, HeadResponse};
use crate::engine::lookup::StoreLookup;
use crate::engine::mode::ModeSwitch;
use crate::engine::pending_calls::{PendingCallGuard, PendingCalls, RequestOrder};
use crate::engine::purger::Purger;
use crate::engine::responder::Responder;
use crate::engine::response::ClientResponse;
use crate::policy::Mode;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::status;
use crate::store::generations::InvalidationWatch;
use crate::store::{Lookup, Store};
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::retry::AttemptFailure;
use crate::upstream::routed_request::RoutedRequest;

/// Applies the responses to requests that passed through.
pub struct PassThroughEffects {
    store: Arc<dyn Store>,
    lookup: Arc<StoreLookup>,
    updates: Arc<EntryUpdates>,
    purger: Arc<Purger>,
    responder: Arc<Responder>,
    clock: Clock,
    switch: Arc<ModeSwitch>,
    pending_calls: Arc<PendingCalls>,
    in_flight: Arc<InFlightBytes>,
    /// Bytes of the largest body that is stored.
    max_object: usize,
}

/// A request sent through the pass-through whose response may affect stored responses.
#[derive(Debug)]
pub struct PassThroughStart {
    /// The target and its invalidation watch; `None`: the response does not affect stored responses.
    watch: Option<(u128, InvalidationWatch)>,
    /// The `GET` that the response to a `POST` may serve, and its pending call.
    get: Option<(RoutedRequest, Arc<PendingCallGuard>)>,
    time: SystemTime,
}

impl PassThroughEffects {
    pub(super) fn new(
        deps: &EngineDeps,
        updates: &Arc<EntryUpdates>,
        lookup: &Arc<StoreLookup>,
        responder: &Arc<Responder>,
        purger: &Arc<Purger>,
    ) -> Self {
        Self {
            store: Arc::clone(&deps.store),
            lookup: Arc::clone(lookup),
            updates: Arc::clone(updates),
            purger: Arc::clone(purger),
            responder: Arc::clone(responder),
            clock: deps.clock.clone(),
            switch: Arc::clone(&deps.switch),
            pending_calls: Arc::clone(&deps.pending_calls),
            in_flight: Arc::clone(&deps.in_flight),
            max_object: deps.limits.max_object,
        }
    }

    /// Records that `routed` is about to pass through. `get`: the `GET` that the response to a `POST` may
    /// serve, if a route caches that.
    pub fn begin(&self, routed: &RoutedRequest, get: Option<RoutedRequest>) -> PassThroughStart {
        let key = get.as_ref().unwrap_or(routed).key.as_ref().ok();
        let watch = key.map(|key| (key.target_id(), self.store.watch(key.target_id())));
        let pending = key.zip(watch.as_ref()).filter(|_| get.is_some()).map(|(key, (_, watch))| {
            let order = Arc::new(RequestOrder::new(watch.order));
            Arc::new(self.pending_calls.begin(key, None, order))
        });
        PassThroughStart { get: get.zip(pending), watch, time: self.clock.now() }
    }

    /// Whether the request's target was not invalidated since the request began.
    pub fn is_current(&self, start: &PassThroughStart) -> bool {
        let watch = start.watch.as_ref();
        watch.is_some_and(|(target, watch)| self.store.is_current(*target, watch.epoch))
    }

    /// The stored response, stale, in place of an error to a `HEAD`, under the rules for a `GET`.
    pub async fn stale_head(
        &self,
        routed: &RoutedRequest,
        failure: AttemptFailure,
    ) -> Option<ClientResponse> {
        if routed.request.method != Method::HEAD || self.switch.mode() != Mode::Cache {
            return None;
        }
        let key = routed.key.as_ref().ok()?;
        let found = self.lookup.all_tiers(routed, key).await;
        let Lookup::Found(stored) = found else { return None };
        let now = self.clock.now();
        let decision = self.responder.decide(routed, key, CacheLookup::Stored(&stored), now);
        let Decision::Forward { reason, fallback: true, .. } = decision else { return None };
        self.responder.stale_if_error(routed, (key, &stored), (reason, failure), now)
    }

    /// Applies the response to a `GET` or `HEAD` that passed through: earlier requests are now
    /// overtaken. `is_limit`: the origin sent this status because of a rate limit.
    pub async fn on_read_response(
        &self,
        routed: &RoutedRequest,
        start: &PassThroughStart,
        (status, is_limit): (StatusCode, bool),
        headers: &HeaderMap,
    ) {
        let (Ok(key), Some((_, watch))) = (&routed.key, &start.watch) else { return };
        let is_get = routed.request.method == Method::GET;
        // Some frameworks do not implement HEAD and reply 404 or 405.
        let overtakes = if is_get {
            status::is_definitive(status) && !is_limit
        } else {
            status.is_success() && CacheMetadata::from_response(status, headers).has_validator()
        };
        if overtakes {
            self.pending_calls.overtake_older(key, None, watch.order);
        }
        if is_get && !is_limit {
            self.updates.apply_stale_if_error_end(routed, key, status, watch.order).await;
        }
        if !is_get && status == StatusCode::OK {
            let times = (start.time, self.clock.now());
            let response = HeadResponse { headers, order: watch.order, epoch: watch.epoch, times };
            self.updates.apply_head_response(routed, key, response).await;
        }
    }
}
