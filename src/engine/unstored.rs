//! An answer is given to somebody that might have been kept, and larder could not: what is stored and older has had its
//! time.
//!
//! Owns: that what it is newer than stands in for errors from then on, and for nothing else. Never touches: calls that
//! are under way (`underway`).

use std::sync::Arc;

use http::StatusCode;

use crate::engine::Engine;
use crate::key::CacheKey;
use crate::policy::Policy;
use crate::semantics::request::ProxyRequest;
use crate::semantics::status;
use crate::store::generations::{PurgeKind, PurgeScope};
use crate::store::{Health, Lookup};

/// What an answer that is not kept was asked for with.
#[derive(Clone, Copy)]
pub(crate) struct UnstoredResponse<'a> {
    pub(crate) asked: &'a ProxyRequest,
    pub(crate) key: &'a CacheKey,
    pub(crate) policy: &'a Arc<Policy>,
    /// Its place in the order of all that was asked for.
    pub(crate) order: u64,
}

impl Engine {
    /// An answer with this status was given to somebody, and is not kept for want of room, or for a newer one. If it
    /// is a version, what is stored for the same request and is older is outdated. What is on disk alone is looked at
    /// behind the caller's back; where the disk cannot be looked at it is outdated whatever is there.
    pub(crate) async fn given(self: &Arc<Self>, given: UnstoredResponse<'_>, status: StatusCode) {
        let UnstoredResponse { asked, key, policy, order } = given;
        if !status::is_a_version(status) || !self.store.may_keep(key.target_id()) {
            return;
        }
        let found = [key, &key.of_parts()].map(|key| self.lookup_memory(asked, key, policy));
        if found.iter().any(|found| self.is_older(found, order))
            || self.store.condition() != Health::Good
        {
            self.outdate(key);
            self.store.told().await;
        } else if found.iter().any(|found| matches!(found, Lookup::Deeper)) {
            let (engine, asked, key) = (Arc::clone(self), asked.clone(), key.clone());
            let policy = Arc::clone(policy);
            tokio::spawn(async move { engine.given_before(&asked, &key, &policy, order).await });
        }
    }

    async fn given_before(
        &self,
        asked: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
        order: u64,
    ) {
        for key in [key, &key.of_parts()] {
            if self.is_older(&self.lookup(asked, key, policy).await, order) {
                return self.outdate(key);
            }
        }
    }

    fn outdate(&self, key: &CacheKey) {
        self.changed(&[PurgeScope::Target(key.target_id())], PurgeKind::Superseded, "newer-answer");
    }

    /// Whether something was found that was asked for before, and that is not known yet to be outdated by something.
    fn is_older(&self, found: &Lookup, order: u64) -> bool {
        let Lookup::Found(stored) = found else { return false };
        self.store.is_newer(order, stored.asked)
            && stored.outdated.is_none_or(|outdated| !outdated.superseded)
    }
}
