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
use crate::engine::lookup::MemoryLookup;
use crate::policy::Mode;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::request::ProxyRequest;
use crate::semantics::validation;
use crate::store::Lookup;
use crate::stored::StoredResponse;
use crate::upstream::routed_request::RoutedRequest;

/// A fresh response that is sent whole.
pub struct FastHit {
    /// The response.
    pub stored: Arc<StoredResponse>,
    /// Its age now (RFC 9111 §5.1).
    pub age: Duration,
    /// The `Cache-Status` of this hit.
    pub status: CacheStatus,
}

/// The result of the fast path.
pub enum FastPath {
    /// A response.
    Hit(FastHit),
    /// None; [`Engine::respond`] takes the result of the lookup in memory, if there was one.
    Miss(Option<MemoryLookup>),
}

impl Engine {
    /// The response to `routed`, if memory contains a fresh one that can be sent unchanged.
    pub fn fast_path(&self, routed: &RoutedRequest) -> FastPath {
        let plain = routed.request.method == Method::GET && self.switch.mode() == Mode::Cache;
        let key = routed.key.as_ref().ok().filter(|_| plain);
        let Some(key) = key.filter(|_| !is_conditional_or_range(&routed.request)) else {
            return FastPath::Miss(None);
        };
        let looked_up = self.lookup.first(routed, key);
        let Lookup::Found(stored) = &looked_up.found else {
            return FastPath::Miss(Some(looked_up));
        };
        let now = self.clock.now();
        match decide(&routed.decision_input(key, now), CacheLookup::Stored(stored)) {
            Decision::Serve { ttl, stale: None, refresh: false } if !has_more_fields(routed, stored) => {
                FastPath::Hit(FastHit {
                    age: stored.age(now),
                    stored: Arc::clone(stored),
                    status: CacheStatus::hit(ttl),
                })
            }
            Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse => {
                FastPath::Miss(Some(looked_up))
            }
        }
    }
}

/// Whether the response has fields of a rate limit that the route adds to hits.
fn has_more_fields(routed: &RoutedRequest, stored: &StoredResponse) -> bool {
    routed.policy.keep_limit_fields && stored.limit_headers().next().is_some()
}

/// Whether conditions or a range change which part of the response is sent.
fn is_conditional_or_range(request: &ProxyRequest) -> bool {
    request.headers.contains_key(RANGE) || validation::has_conditionals(&request.headers)
}
