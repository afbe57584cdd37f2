//! Outdates older stored responses after a delivered response that larder could not store although it was
//! storable: they may then only be served on errors.
//!
//! Owns: the search for older stored responses. Never touches: calls in flight (`pending_calls`).

use std::sync::Arc;

use http::StatusCode;

use crate::engine::entry_updates::EntryUpdates;
use crate::key::CacheKey;
use crate::semantics::status;
use crate::store::generations::{PurgeKind, PurgeScope};
use crate::store::{Health, Lookup};
use crate::upstream::routed_request::RoutedRequest;

impl EntryUpdates {
    /// Called when a response with this status to `routed`, which has number `order`, was delivered but is not
    /// stored, for lack of capacity or because of a newer one. If it is a version of the resource, older
    /// stored responses for the same request are outdated. Entries that are only on disk are checked in the
    /// background. If the disk cannot be read, everything under the target is outdated.
    pub(crate) async fn outdate_older(
        self: &Arc<Self>,
        routed: &Arc<RoutedRequest>,
        key: &CacheKey,
        order: u64,
        status: StatusCode,
    ) {
        if !status::is_current_version(status) || !self.store.may_contain(key.target_id()) {
            return;
        }
        let found = [key, &key.for_partial(), &key.for_head()].map(|key| self.lookup.memory(routed, key));
        if found.iter().any(|found| self.is_older(found, order)) || self.store.health() != Health::Good {
            self.outdate(key);
            self.store.sync_peer().await;
        } else if found.iter().any(|found| matches!(found, Lookup::CheckDisk(_))) {
            let (updates, routed, key) = (Arc::clone(self), Arc::clone(routed), key.clone());
            tokio::spawn(async move { updates.outdate_older_on_disk(&routed, &key, order).await });
        }
    }

    async fn outdate_older_on_disk(&self, routed: &RoutedRequest, key: &CacheKey, order: u64) {
        for key in [key, &key.for_partial(), &key.for_head()] {
            if self.is_older(&self.lookup.all_tiers(routed, key).await, order) {
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
