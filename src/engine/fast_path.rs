//! The shortest way: a fresh stored response that answers a plain `GET` as it is, found without
//! waiting for anything.
//!
//! Owns: which requests may go that way. Whatever it leaves, [`Engine::answer`] answers, and where
//! both could the answers are the same. Never touches: how the answer is written.

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

/// A fresh response, to be sent whole.
pub struct FastHit {
    /// The response.
    pub stored: Arc<StoredResponse>,
    /// Its age now (RFC 9111 §5.1).
    pub age: Duration,
    /// What larder did.
    pub status: CacheStatus,
}

impl Engine {
    /// The answer to `asked`, which `route` caches, if memory holds one that is fresh and is sent
    /// as it is. `Accept-Encoding` is reduced in place, as [`Engine::answer`] would.
    pub fn fast_hit(&self, asked: &mut ProxyRequest, route: &Route) -> Option<FastHit> {
        let plain = asked.method == Method::GET && self.switch.mode() == Mode::Cache;
        if !plain || not_cached(asked).is_some() || wants_a_part(asked) {
            return None;
        }
        accept_encoding::reduce(&mut asked.headers);
        let key = self.keyring.key(asked, &route.policy);
        let Lookup::Found(stored) = self.lookup_memory(asked, &key, &route.policy) else {
            return None;
        };
        let (cache, now) = (key.scope().cache_kind(), self.clock.now());
        match decide(asked, &route.policy, cache, CacheLookup::Stored(&stored), now) {
            Decision::Serve { ttl, stale: None, refresh: false } => {
                Some(FastHit { age: stored.age(now), stored, status: CacheStatus::hit(ttl) })
            }
            Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse => None,
        }
    }
}

/// Conditions and ranges change what is sent of a response.
fn wants_a_part(asked: &ProxyRequest) -> bool {
    asked.headers.contains_key(RANGE) || validation::has_conditionals(&asked.headers)
}
