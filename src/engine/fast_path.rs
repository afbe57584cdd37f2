//! The fast path: serves a fresh stored response to a plain `GET` unchanged and without waiting.
//!
//! Owns: which requests may take the fast path. [`Engine::respond`] handles all others; where both
//! apply, the responses are the same. Never touches: how the response is written.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::RANGE;

use crate::decide::{CacheLookup, Decision, decide};
use crate::engine::Engine;
use crate::engine::request::not_cached;
use crate::policy::Mode;
use crate::route::table::Route;
use crate::semantics::accept_encoding;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::request::ProxyRequest;
use crate::semantics::validation;
use crate::store::Lookup;
use crate::stored::StoredResponse;

/// A fresh response that is sent whole.
pub struct FastHit {
    /// The response.
    pub stored: Arc<StoredResponse>,
    /// Its age now (RFC 9111 §5.1).
    pub age: Duration,
    /// The `Cache-Status` of this hit.
    pub status: CacheStatus,
}

impl Engine {
    /// The response to `request`, which `route` caches, if memory contains a fresh one that can be sent
    /// unchanged. Reduces `Accept-Encoding` in place, as [`Engine::respond`] does.
    pub fn fast_hit(&self, request: &mut ProxyRequest, route: &Route) -> Option<FastHit> {
        let plain = request.method == Method::GET && self.switch.mode() == Mode::Cache;
        if !plain || not_cached(request).is_some() || is_conditional_or_range(request) {
            return None;
        }
        accept_encoding::reduce(&mut request.headers);
        let key = self.key_builder.key(request, &route.policy);
        let Lookup::Found(stored) = self.lookup_memory(request, &key, &route.policy) else {
            return None;
        };
        let (cache, now) = (key.scope().cache_kind(), self.clock.now());
        match decide(request, &route.policy, cache, CacheLookup::Stored(&stored), now) {
            Decision::Serve { ttl, stale: None, refresh: false } => {
                Some(FastHit { age: stored.age(now), stored, status: CacheStatus::hit(ttl) })
            }
            Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse => None,
        }
    }
}

/// Whether conditions or a range change which part of the response is sent.
fn is_conditional_or_range(request: &ProxyRequest) -> bool {
    request.headers.contains_key(RANGE) || validation::has_conditionals(&request.headers)
}
