//! Handles a delivered response that larder could not store although it was storable: it outdates older
//! stored responses.
//!
//! Owns: outdating the older stored responses, which may then only be served on errors. Never touches:
//! calls in flight (`pending_calls`).

use std::sync::Arc;

use http::StatusCode;

use crate::engine::Engine;
use crate::key::CacheKey;
use crate::policy::Policy;
use crate::semantics::request::ProxyRequest;
use crate::semantics::status;
use crate::store::generations::{PurgeKind, PurgeScope};
use crate::store::{Health, Lookup};

/// The request of a response that is not stored.
#[derive(Clone, Copy)]
pub(crate) struct UnstoredResponse<'a> {
    pub(crate) request: &'a ProxyRequest,
    pub(crate) key: &'a CacheKey,
    pub(crate) policy: &'a Arc<Policy>,
    /// The request's number in the request order.
    pub(crate) order: u64,
}

impl Engine {
    /// Called when a response with this status was delivered but is not stored, for lack of capacity or
    /// because of a newer one. If it is a version of the resource, older stored responses for the same
    /// request are outdated. Entries that are only on disk are checked in the background. If the disk
    /// cannot be read, everything under the target is outdated.
    pub(crate) async fn outdate_older(
        self: &Arc<Self>,
        response: UnstoredResponse<'_>,
        status: StatusCode,
    ) {
        let UnstoredResponse { request, key, policy, order } = response;
        if !status::is_current_version(status) || !self.store.may_contain(key.target_id()) {
            return;
        }
        let found = [key, &key.for_partial()].map(|key| self.lookup_memory(request, key, policy));
        if found.iter().any(|found| self.is_older(found, order))
            || self.store.health() != Health::Good
        {
            self.outdate(key);
            self.store.sync_peer().await;
        } else if found.iter().any(|found| matches!(found, Lookup::CheckDisk)) {
            let (engine, request, key) = (Arc::clone(self), request.clone(), key.clone());
            let policy = Arc::clone(policy);
            tokio::spawn(async move {
                engine.outdate_older_on_disk(&request, &key, &policy, order).await;
            });
        }
    }

    async fn outdate_older_on_disk(
        &self,
        request: &ProxyRequest,
        key: &CacheKey,
        policy: &Policy,
        order: u64,
    ) {
        for key in [key, &key.for_partial()] {
            if self.is_older(&self.lookup(request, key, policy).await, order) {
                return self.outdate(key);
            }
        }
    }

    fn outdate(&self, key: &CacheKey) {
        self.purger.invalidate_scopes(
            &[PurgeScope::Target(key.target_id())],
            PurgeKind::Superseded,
            "newer-answer",
        );
    }

    /// Whether a stored response was found whose request is earlier, and which is not yet marked as
    /// superseded.
    fn is_older(&self, found: &Lookup, order: u64) -> bool {
        let Lookup::Found(stored) = found else { return false };
        self.store.is_newer(order, stored.order)
            && stored.outdated.is_none_or(|outdated| !outdated.superseded)
    }
}
