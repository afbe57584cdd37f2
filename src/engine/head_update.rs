//! Applies the response to a request that passed through to stored responses and pending calls: for a
//! `HEAD` (RFC 9111 §4.3.5), and for a `GET` whose response is not to be stored.
//!
//! Owns: updating stored fields or outdating the stored response; marking earlier requests as overtaken.
//! Never touches: the response to the client.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, Method, StatusCode};

use crate::decide::{CacheLookup, Decision, stale_if_error};
use crate::engine::Engine;
use crate::engine::pending_calls::{PendingCallGuard, RequestOrder};
use crate::engine::request::not_cached;
use crate::engine::response::ClientResponse;
use crate::policy::{self, Mode};
use crate::route::table::Route;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::request::{ProxyRequest, RequestFraming};
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::status;
use crate::semantics::validation::{self, HeadComparison};
use crate::store::Lookup;
use crate::store::generations::{InvalidationWatch, PurgeKind, PurgeScope};
use crate::telemetry::ResultKind;
use crate::upstream::outcome::reason::Reason;

/// A request sent through the pass-through whose response may affect stored responses.
#[derive(Debug)]
pub struct PassThroughStart {
    /// The target and its invalidation watch; `None`: the response cannot be stored.
    watch: Option<(u128, InvalidationWatch)>,
    /// The pending call of a `POST`, whose response may be what a later `GET` would fetch.
    pending_call: Option<Arc<PendingCallGuard>>,
    pub(crate) time: SystemTime,
}

impl PassThroughStart {
    /// The pending call.
    pub(crate) fn pending_call(&self) -> Option<Arc<PendingCallGuard>> {
        self.pending_call.clone()
    }

    fn watch(&self) -> Option<&InvalidationWatch> {
        self.watch.as_ref().map(|(_, watch)| watch)
    }
}

impl Engine {
    /// Records that a request which `route` caches is about to pass through.
    pub fn begin_pass_through(
        &self,
        request: &ProxyRequest,
        route: Option<&Route>,
    ) -> PassThroughStart {
        let is_relevant =
            is_cacheable_head(request) || [Method::GET, Method::POST].contains(&request.method);
        let route = route.filter(|_| is_relevant);
        let watch = route.map(|route| {
            let target = self.key_builder.target_id(&request.target, &route.policy.key.query);
            (target, self.store.watch(target))
        });
        let pending_call = route.filter(|_| request.method == Method::POST).zip(watch.as_ref());
        let pending_call = pending_call.map(|(route, (_, watch))| {
            let key = self.key_builder.key(&as_a_get(request), &route.policy);
            Arc::new(self.pending_calls.begin(&key, None, Arc::new(RequestOrder::new(watch.order))))
        });
        PassThroughStart { watch, pending_call, time: self.clock.now() }
    }

    /// Whether the request's target was not invalidated since the request began.
    pub fn is_current(&self, sent: &PassThroughStart) -> bool {
        sent.watch
            .as_ref()
            .is_some_and(|(target, watch)| self.store.is_current(*target, watch.epoch))
    }

    /// The stored response, stale, in place of an error to a `HEAD`, under the rules for a `GET`.
    pub async fn stale_head(
        &self,
        request: &ProxyRequest,
        route: &Route,
        error: policy::ErrorClass,
        origin_status: Option<StatusCode>,
        cause: Reason,
    ) -> Option<ClientResponse> {
        if !is_cacheable_head(request) || self.switch.mode() != Mode::Cache {
            return None;
        }
        let key = self.key_builder.key(request, &route.policy);
        let found = self.lookup(request, &key, &route.policy).await;
        let Lookup::Found(stored) = found else { return None };
        let (cache, now) = (key.scope().cache_kind(), self.clock.now());
        let found = CacheLookup::Stored(&stored);
        let decision = self.decide(request, &route.policy, cache, found, now);
        let Decision::Forward { reason, fallback: true, .. } = decision else { return None };
        let ttl = stale_if_error(request, &route.policy, cache, &stored, error, now)?;
        self.may_serve_on_error(&key, &stored).then_some(())?;
        let mut status = CacheStatus::forwarded(reason.token()).ttl(ttl);
        if let Some(origin_status) = origin_status {
            status = status.status(origin_status);
        }
        let status = status.detail("stale-if-error", cause.token());
        self.telemetry.stale_served(route.index, cause.token());
        let response =
            ClientResponse::from_stored(request, &stored, now, &status, ResultKind::Stale);
        Some(response.with_forward_reason(reason))
    }

    /// Applies the response to a `GET` or `HEAD` that passed through: earlier requests are now
    /// overtaken. `is_limit`: the origin sent this status because of a rate limit.
    pub async fn on_read_response(
        &self,
        request: &ProxyRequest,
        route: &Route,
        sent: &PassThroughStart,
        (status, is_limit): (StatusCode, bool),
        headers: &HeaderMap,
    ) {
        let Some(watch) = sent.watch().filter(|_| not_cached(request).is_none()) else {
            return;
        };
        let is_get = request.method == Method::GET;
        // Some frameworks do not implement HEAD and reply 404 or 405.
        let overtakes = if is_get {
            status::is_definitive(status) && !is_limit
        } else {
            status.is_success() && CacheMetadata::from_response(status, headers).has_validator()
        };
        if !is_get && request.method != Method::HEAD {
            return;
        }
        let key = self.key_builder.key(request, &route.policy);
        if overtakes {
            self.pending_calls.overtake_older(&key, None, watch.order);
        }
        if is_get && !is_limit {
            self.apply_stale_if_error_end(request, &route.policy, &key, status, watch.order).await;
        }
    }

    /// Applies the response to a `HEAD`: equal validators freshen the stored response, different ones
    /// outdate it.
    pub async fn on_head_response(
        &self,
        request: &ProxyRequest,
        route: &Route,
        sent: &PassThroughStart,
        status: StatusCode,
        headers: &HeaderMap,
    ) {
        let Some(watch) = sent.watch() else { return };
        let is_usable = request.method == Method::HEAD
            && !request.cache_control().no_store
            && self.switch.mode() != Mode::Bypass;
        if !is_usable || status != StatusCode::OK {
            return;
        }
        let key = self.key_builder.key(request, &route.policy);
        let found = self.lookup(request, &key, &route.policy).await;
        let Lookup::Found(stored) = found else { return };
        match validation::compare_head(
            headers,
            &stored.headers,
            &stored.metadata,
            stored.body.len(),
        ) {
            HeadComparison::Inconclusive => {}
            // The HEAD was requested before the stored response.
            _ if self.store.is_newer(stored.order, watch.order) => {}
            HeadComparison::Changed => {
                // RFC 9111 §4.3.5: the stored response is considered stale. It is not removed, because
                // some frameworks do not implement HEAD and reply to it with an empty response.
                self.store.invalidate(PurgeScope::Target(key.target_id()), PurgeKind::Superseded);
                self.telemetry.invalidated("head", 1);
                self.store.sync_peer().await;
            }
            HeadComparison::Same => {
                let fresh = stored.freshened(headers, sent.time, self.clock.now());
                let fresh = fresh.with_order(watch.order);
                let get = ProxyRequest { method: Method::GET, ..request.clone() };
                let (status, fields) = (fresh.status, fresh.all_headers());
                let cache = key.scope().cache_kind();
                let kept = route.policy.storability(&get, status, &fields, &fresh.metadata, cache);
                if let Ok(kept) = kept {
                    let fresh = Arc::new(fresh.with_headers(&kept));
                    self.store_response(&key, &route.policy, fresh, watch.epoch);
                }
            }
        }
    }
}

/// Whether a `HEAD` could be served from the store if it were a `GET`.
fn is_cacheable_head(request: &ProxyRequest) -> bool {
    request.method == Method::HEAD && not_cached(request).is_none()
}

/// The `GET` that the response to a `POST` may serve.
pub fn as_a_get(request: &ProxyRequest) -> ProxyRequest {
    ProxyRequest { method: Method::GET, body: RequestFraming::None, ..request.clone() }
}
