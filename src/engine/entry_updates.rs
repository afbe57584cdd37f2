//! Changes to stored entries by the responses that fills and passed-through calls receive.
//!
//! Owns: storing complete and partial responses; outdating older entries; the end of stale-if-error.
//! Never touches: whether a response may be stored (`policy`), invalidation by requests (`purger`).

mod head_response;
mod outdated;
mod stale_if_error_end;

use std::sync::Arc;

use crate::decide::useful_until;
use crate::engine::deps::EngineDeps;
pub(crate) use crate::engine::entry_updates::head_response::HeadResponse;
use crate::engine::lookup::StoreLookup;
use crate::engine::mode::ModeSwitch;
use crate::engine::persistent_facts::PersistentFacts;
use crate::engine::purger::Purger;
use crate::key::{CacheKey, KeyBuilder};
use crate::policy::{Mode, Policy};
use crate::store::Store;
use crate::store::generations::Epoch;
use crate::stored::StoredResponse;
use crate::stored::partial::PartialResponse;
use crate::upstream::routed_request::RoutedRequest;

/// Changes stored entries.
pub(crate) struct EntryUpdates {
    store: Arc<dyn Store>,
    lookup: Arc<StoreLookup>,
    purger: Arc<Purger>,
    key_builder: Arc<KeyBuilder>,
    switch: Arc<ModeSwitch>,
    persistent_facts: Arc<PersistentFacts>,
    /// Bytes of the largest body that is stored.
    max_object: usize,
}

impl EntryUpdates {
    pub(super) fn new(deps: &EngineDeps, lookup: &Arc<StoreLookup>, purger: &Arc<Purger>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(&deps.store),
            lookup: Arc::clone(lookup),
            purger: Arc::clone(purger),
            key_builder: Arc::clone(&deps.key_builder),
            switch: Arc::clone(&deps.switch),
            persistent_facts: Arc::clone(&deps.persistent_facts),
            max_object: deps.limits.max_object,
        })
    }

    /// Stores a complete response for as long as `policy` can use it, unless the mode is bypass.
    pub(crate) fn store_response(
        &self,
        key: &CacheKey,
        policy: &Policy,
        stored: Arc<StoredResponse>,
        epoch: Epoch,
    ) -> bool {
        if self.switch.mode() == Mode::Bypass {
            return false;
        }
        let until = useful_until(policy, key.scope().cache_kind(), &stored);
        self.store.put(key, stored, epoch, until)
    }

    /// Stores a part of the response to `routed`, joined with the stored part. False if it is not a valid
    /// part: the length of its body differs from its `Content-Range`.
    pub(crate) fn store_part(
        &self,
        routed: &RoutedRequest,
        key: &CacheKey,
        stored: StoredResponse,
        epoch: Epoch,
    ) -> bool {
        let Some(part) = PartialResponse::from_stored(Arc::new(stored)) else { return false };
        // The lookup before the fetch has brought a part on disk into memory.
        let stored_part = self.lookup.part_in_memory(routed, key);
        let joined = stored_part.and_then(|stored_part| part.joined(&stored_part, self.max_object));
        let part = joined.unwrap_or(part);
        match part.whole() {
            Some(whole) => self.store_response(key, &routed.policy, Arc::new(whole), epoch),
            None => self.store_response(&key.for_partial(), &routed.policy, part.stored(), epoch),
        };
        true
    }
}
