//! What waits to be written, as look-ups see it: newer than what is on disk, and perhaps in memory no more.
//!
//! Owns: finding it by key and variant until it is written. Never touches: the order of writing (`queue`).

use std::collections::HashMap;
use std::sync::Arc;

use crate::key::CacheKey;
use crate::store::generations::Epoch;
use crate::store::{EntryId, StoreQuery, place_in_order};
use crate::stored::StoredResponse;

/// All of it, by the id of its key.
#[derive(Default)]
pub(super) struct PendingWrites(HashMap<u128, Vec<PendingWrite>>);

struct PendingWrite {
    number: u64,
    place: EntryId,
    key: CacheKey,
    stored: Arc<StoredResponse>,
    mark: Epoch,
}

impl PendingWrites {
    /// This is to be written, as the command of this number; what waited in its place is not any more.
    pub(super) fn put(
        &mut self,
        number: u64,
        place: EntryId,
        key: &CacheKey,
        (stored, mark): (&Arc<StoredResponse>, Epoch),
    ) {
        let of = self.0.entry(place.id).or_default();
        of.retain(|one| one.place != place);
        of.push(PendingWrite { number, place, key: key.clone(), stored: Arc::clone(stored), mark });
    }

    /// The command of this number is done, and was about this place.
    pub(super) fn done(&mut self, number: u64, place: EntryId) {
        let Some(of) = self.0.get_mut(&place.id) else { return };
        of.retain(|one| one.number > number || one.place != place);
        if of.is_empty() {
            self.0.remove(&place.id);
        }
    }

    /// Whether there is one of this key.
    pub(super) fn has(&self, key: &CacheKey) -> bool {
        self.0.contains_key(&key.id())
    }

    /// The one that the request selects, the newest of several.
    pub(super) fn find(
        &self,
        wanted: StoreQuery<'_>,
        so_far: u64,
    ) -> Option<(Arc<StoredResponse>, Epoch)> {
        let of = self.0.get(&wanted.key.id())?;
        let meant = |one: &&PendingWrite| {
            one.key == *wanted.key && (wanted.variant)(&one.stored.vary) == one.stored.variant
        };
        let place = |one: &&PendingWrite| place_in_order(one.stored.asked, so_far);
        let newest = of.iter().filter(meant).max_by_key(place)?;
        Some((Arc::clone(&newest.stored), newest.mark))
    }
}
