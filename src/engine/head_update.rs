//! What the answer to a request that passed through says about what is stored, or on its way: to a `HEAD`
//! (RFC 9111 §4.3.5), to a `GET` whose answer is not to be kept.
//!
//! Owns: when stored fields are updated or a stored response is given up for it; that it overtakes what was
//! asked for before. Never touches: what its client gets.

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

/// A request on its way through the pass-through whose answer bears on what is stored.
#[derive(Debug)]
pub struct PassThroughStart {
    /// Of what is stored of it, and of which target that is; `None`: its answer is none to be kept.
    watch: Option<(u128, InvalidationWatch)>,
    /// Of a `POST`, whose answer may be what a later `GET` would bring.
    begun: Option<Arc<PendingCallGuard>>,
    pub(crate) time: SystemTime,
}

impl PassThroughStart {
    /// The call among those under way.
    pub(crate) fn begun(&self) -> Option<Arc<PendingCallGuard>> {
        self.begun.clone()
    }

    fn watch(&self) -> Option<&InvalidationWatch> {
        self.watch.as_ref().map(|(_, watch)| watch)
    }
}

impl Engine {
    /// A request is about to pass through, which `route` caches.
    pub fn sent(&self, asked: &ProxyRequest, route: Option<&Route>) -> PassThroughStart {
        let bears =
            asks_as_a_get_would(asked) || [Method::GET, Method::POST].contains(&asked.method);
        let route = route.filter(|_| bears);
        let watch = route.map(|route| {
            let target = self.keyring.target_id(&asked.target, &route.policy.key.query);
            (target, self.store.watch(target))
        });
        let begun = route.filter(|_| asked.method == Method::POST).zip(watch.as_ref());
        let begun = begun.map(|(route, (_, watch))| {
            let key = self.keyring.key(&as_a_get(asked), &route.policy);
            Arc::new(self.underway.begun(&key, None, Arc::new(RequestOrder::new(watch.asked))))
        });
        PassThroughStart { watch, begun, time: self.clock.now() }
    }

    /// Whether nothing has invalidated what was asked for since it was.
    pub fn is_current(&self, sent: &PassThroughStart) -> bool {
        sent.watch
            .as_ref()
            .is_some_and(|(target, watch)| self.store.is_current(*target, watch.mark))
    }

    /// What is stored, stale, in the place of an error to a `HEAD`, as a `GET` would get it.
    pub async fn stale_head(
        &self,
        asked: &ProxyRequest,
        route: &Route,
        error: policy::ErrorClass,
        answered: Option<StatusCode>,
        cause: &'static str,
    ) -> Option<ClientResponse> {
        if !asks_as_a_get_would(asked) || self.switch.mode() != Mode::Cache {
            return None;
        }
        let key = self.keyring.key(asked, &route.policy);
        let found = self.lookup(asked, &key, &route.policy).await;
        let Lookup::Found(stored) = found else { return None };
        let (cache, now) = (key.scope().cache_kind(), self.clock.now());
        let seen = CacheLookup::Stored(&stored);
        let decision = self.decide(asked, &route.policy, cache, seen, now);
        let Decision::Forward { why, fallback: true, .. } = decision else { return None };
        let ttl = stale_if_error(asked, &route.policy, cache, &stored, error, now)?;
        self.has_its_right(&key, &stored).then_some(())?;
        let mut status = CacheStatus::forwarded(why.token()).ttl(ttl);
        if let Some(answered) = answered {
            status = status.status(answered);
        }
        let status = status.detail("stale-if-error", cause);
        self.account.stale_served(route.index, cause);
        let reply = ClientResponse::from_stored(asked, &stored, now, &status, ResultKind::Stale);
        Some(reply.with_forward_reason(why.token()))
    }

    /// A `GET` or `HEAD` that passed through was answered: what was asked for earlier is older.
    /// `is_limit`: with this status, because of a limit of calls.
    pub async fn read_answered(
        &self,
        asked: &ProxyRequest,
        route: &Route,
        sent: &PassThroughStart,
        (status, is_limit): (StatusCode, bool),
        headers: &HeaderMap,
    ) {
        let Some(watch) = sent.watch().filter(|_| not_cached(asked).is_none()) else {
            return;
        };
        let is_get = asked.method == Method::GET;
        // Some frameworks know no HEAD, and say 404 to it, or 405.
        let tells = if is_get {
            status::is_news(status) && !is_limit
        } else {
            status.is_success() && CacheMetadata::of(status, headers).has_validator()
        };
        if !is_get && asked.method != Method::HEAD {
            return;
        }
        let key = self.keyring.key(asked, &route.policy);
        if tells {
            self.underway.answered(&key, None, watch.asked);
        }
        if is_get && !is_limit {
            self.ends(asked, &route.policy, &key, status, watch.asked).await;
        }
    }

    /// A `HEAD` was answered: equal validators freshen what is stored, others outdate it.
    pub async fn head_answered(
        &self,
        asked: &ProxyRequest,
        route: &Route,
        sent: &PassThroughStart,
        status: StatusCode,
        headers: &HeaderMap,
    ) {
        let Some(watch) = sent.watch() else { return };
        let reads = asked.method == Method::HEAD
            && !asked.cache_control().no_store
            && self.switch.mode() != Mode::Bypass;
        if !reads || status != StatusCode::OK {
            return;
        }
        let key = self.keyring.key(asked, &route.policy);
        let found = self.lookup(asked, &key, &route.policy).await;
        let Lookup::Found(stored) = found else { return };
        match validation::head_says(headers, &stored.headers, &stored.said, stored.body.len()) {
            HeadComparison::Nothing => {}
            // It was asked before what is stored now.
            _ if self.store.is_newer(stored.asked, watch.asked) => {}
            HeadComparison::Changed => {
                // RFC 9111 §4.3.5: it is to be considered stale. Some frameworks know no HEAD, and
                // answer it with nothing.
                self.store.invalidate(PurgeScope::Target(key.target_id()), PurgeKind::Superseded);
                self.account.invalidated("head", 1);
                self.store.told().await;
            }
            HeadComparison::Same => {
                let fresh = stored.freshened(headers, sent.time, self.clock.now());
                let fresh = fresh.asked_as(watch.asked);
                let asked = ProxyRequest { method: Method::GET, ..asked.clone() };
                let (status, fields) = (fresh.status, fresh.all_headers());
                let cache = key.scope().cache_kind();
                let kept = route.policy.storability(&asked, status, &fields, &fresh.said, cache);
                if let Ok(kept) = kept {
                    let fresh = Arc::new(fresh.keeping(&kept));
                    self.store_response(&key, &route.policy, fresh, watch.mark);
                }
            }
        }
    }
}

/// A `HEAD` whose `GET` might have been answered from the store.
fn asks_as_a_get_would(asked: &ProxyRequest) -> bool {
    asked.method == Method::HEAD && not_cached(asked).is_none()
}

/// The `GET` that the answer to a `POST` may serve.
pub fn as_a_get(asked: &ProxyRequest) -> ProxyRequest {
    ProxyRequest { method: Method::GET, body: RequestFraming::None, ..asked.clone() }
}
