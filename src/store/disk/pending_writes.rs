//! Responses that are queued to be written, for lookups: they are newer than the disk, and may be evicted
//! from memory already.
//!
//! Owns: finding them by key and variant until they are written. Never touches: the order of writing
//! (`queue`).

use std::collections::HashMap;
use std::sync::Arc;

use crate::key::CacheKey;
use crate::store::generations::Epoch;
use crate::store::{EntryId, StoreQuery, order_key};
use crate::stored::StoredResponse;

/// All pending writes, by the id of their key.
#[derive(Default)]
pub(super) struct PendingWrites(HashMap<u128, Vec<PendingWrite>>);

struct PendingWrite {
    number: u64,
    id: EntryId,
    key: CacheKey,
    stored: Arc<StoredResponse>,
    epoch: Epoch,
}

impl PendingWrites {
    /// Adds a pending write, as the command of this number. It replaces one of the same entry.
    pub(super) fn put(
        &mut self,
        number: u64,
        entry_id: EntryId,
        key: &CacheKey,
        (stored, epoch): (&Arc<StoredResponse>, Epoch),
    ) {
        let writes = self.0.entry(entry_id.id).or_default();
        writes.retain(|one| one.id != entry_id);
        writes.push(PendingWrite {
            number,
            id: entry_id,
            key: key.clone(),
            stored: Arc::clone(stored),
            epoch,
        });
    }

    /// Removes the write of this entry once the command of this number is done.
    pub(super) fn done(&mut self, number: u64, entry_id: EntryId) {
        let Some(writes) = self.0.get_mut(&entry_id.id) else { return };
        writes.retain(|one| one.number > number || one.id != entry_id);
        if writes.is_empty() {
            self.0.remove(&entry_id.id);
        }
    }

    /// Whether there is a pending write of this key.
    pub(super) fn has(&self, key: &CacheKey) -> bool {
        self.0.contains_key(&key.id())
    }

    /// The response that the request selects, the newest of several.
    pub(super) fn find(
        &self,
        query: StoreQuery<'_>,
        latest_order: u64,
    ) -> Option<(Arc<StoredResponse>, Epoch)> {
        let writes = self.0.get(&query.key.id())?;
        let is_selected = |one: &&PendingWrite| {
            one.key == *query.key && (query.variant)(&one.stored.vary) == one.stored.variant
        };
        let order = |one: &&PendingWrite| order_key(one.stored.order, latest_order);
        let newest = writes.iter().filter(is_selected).max_by_key(order)?;
        Some((Arc::clone(&newest.stored), newest.epoch))
    }
}
