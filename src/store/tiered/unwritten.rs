//! Entries that are in memory and not on disk, where an older version may be: that must not become usable
//! again.
//!
//! Owns: the list of those entries while the disk cannot be used, bounded; the handling of them later. Never
//! touches: the internals of a tier.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::key::CacheKey;
use crate::semantics::vary::VariantId;
use crate::store::generations::{Change, Epoch, Generation, PurgeKind, PurgeScope, Validity};
use crate::store::tiered::TieredStore;
use crate::store::tiered::disk_tier::DiskTier;
use crate::store::{EntryId, is_newer};
use crate::stored::StoredResponse;

/// Number of entries that are remembered individually.
const LIMIT: usize = 65_536;

/// Number of keys that a lookup handles: it must not wait long.
pub(super) const BATCH: usize = 256;

/// All unwritten entries.
#[derive(Debug, Default)]
pub(super) struct UnwrittenEntries(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By the id of the key: the target, and the variants. The keys themselves may be long.
    keys: HashMap<u128, (u128, HashSet<VariantId>)>,
    /// Number of variants.
    count: usize,
    /// The keys that are being handled.
    in_progress: HashSet<u128>,
    /// The limit was exceeded.
    overflowed: bool,
}

/// Position of a noted entry in the list.
#[derive(Debug, PartialEq, Eq)]
enum UnwrittenEntry {
    First,
    Another,
}

/// The work to do once the disk can be used again.
#[derive(Debug, PartialEq, Eq)]
enum DeferredWork {
    /// Handle these entries; no others are left.
    Last(Vec<EntryId>),
    /// Handle these entries.
    Some(Vec<EntryId>),
    /// The limit was exceeded: no entry on disk may be used.
    TooMany,
}

impl UnwrittenEntries {
    /// Adds an entry.
    fn note(&self, key: &CacheKey, variant: VariantId) -> UnwrittenEntry {
        let mut inner = self.0.lock();
        if inner.count >= LIMIT {
            inner.overflowed = true;
            return UnwrittenEntry::Another;
        }
        let position = if inner.keys.is_empty() { UnwrittenEntry::First } else { UnwrittenEntry::Another };
        let (_, variants) = inner.keys.entry(key.id()).or_insert_with(|| (key.target_id(), HashSet::new()));
        let is_new = variants.insert(variant);
        inner.count += usize::from(is_new);
        position
    }

    /// Whether every entry is being handled.
    fn none_is_left(&self) -> bool {
        self.0.lock().keys.is_empty()
    }

    /// Whether there are none: checked at every lookup on disk.
    fn is_empty(&self) -> bool {
        let inner = self.0.lock();
        inner.keys.is_empty() && inner.in_progress.is_empty()
    }

    /// Whether the disk may have an older version of an entry of this key.
    pub(super) fn may_have(&self, key: &CacheKey) -> bool {
        let inner = self.0.lock();
        inner.overflowed || inner.keys.contains_key(&key.id()) || inner.in_progress.contains(&key.id())
    }

    /// Takes the variants of at most `most` keys, which the caller handles before it calls `done`; `None`:
    /// another caller does, or there are none.
    fn begin(&self, most: usize) -> Option<DeferredWork> {
        let mut inner = self.0.lock();
        if !inner.in_progress.is_empty() || inner.keys.is_empty() {
            return None;
        }
        if inner.overflowed {
            return Some(DeferredWork::TooMany);
        }
        let in_progress: Vec<u128> = inner.keys.keys().copied().take(most).collect();
        let mut all = Vec::with_capacity(in_progress.len());
        for id in &in_progress {
            let Some((target, variants)) = inner.keys.remove(id) else { continue };
            inner.count -= variants.len();
            all.extend(variants.into_iter().map(|variant| EntryId { target, id: *id, variant }));
        }
        inner.in_progress.extend(in_progress);
        Some(if inner.keys.is_empty() { DeferredWork::Last(all) } else { DeferredWork::Some(all) })
    }

    /// The entries taken by `begin` have been handled.
    fn done(&self) {
        self.0.lock().in_progress.clear();
    }

    /// All entries have been handled.
    fn all_done(&self) {
        *self.0.lock() = Inner::default();
    }
}

impl TieredStore {
    /// Called when a response in memory will not be written to disk: an older version there must not be used.
    pub(super) fn lost(&self, key: &CacheKey, stored: &Arc<StoredResponse>, epoch: Epoch) {
        match &*self.disk_tier.load() {
            Some(disk_tier) if !disk_tier.disk.is_open() => {
                if self.unwritten.note(key, stored.variant) == UnwrittenEntry::First {
                    self.distrust(disk_tier);
                }
            }
            Some(disk_tier)
                if disk_tier.disk.may_contain(key.target_id()) || disk_tier.disk.has_pending(key) =>
            {
                self.supersede(key, stored, epoch);
            }
            None if self.disk_pending.load(Ordering::Relaxed) => {
                // The generations of the disk are persisted as unusable once this larder has opened it.
                let _first = self.unwritten.note(key, stored.variant);
            }
            Some(_) | None => {}
        }
    }

    /// Persists that no entry on disk may be used if larder ends before the disk works again.
    fn distrust(&self, disk_tier: &DiskTier) {
        let _guard = self.memory_only_reason.lock();
        let all = self.generations.all().all;
        disk_tier
            .state
            .persist(Change { scope: PurgeScope::All, generation: self.generation_to_persist(all) });
    }

    /// The generation of everything to persist: while there are unwritten entries, it makes every entry on
    /// disk unusable for the next larder. Call with `memory_only_reason` locked.
    pub(super) fn generation_to_persist(&self, all: Generation) -> Generation {
        if self.unwritten.is_empty() { all } else { self.generations.after_full_purge(all, self.clock.now()) }
    }

    /// Makes every entry of the target but this response unusable, above all on disk.
    fn supersede(&self, key: &CacheKey, stored: &Arc<StoredResponse>, epoch: Epoch) {
        let guard = self.memory_only_reason.lock();
        let entry_id = EntryId { target: key.target_id(), id: key.id(), variant: stored.variant };
        // An entry stored meanwhile is newer, or the same.
        let kept = self
            .memory
            .entry_at(entry_id)
            .filter(|(_, kept, _)| is_newer(kept.order, stored.order, self.generations.latest_order()));
        let (stored, epoch) = kept.map_or((Arc::clone(stored), epoch), |(_, kept, at)| (kept, at));
        let stored = match self.validity(key, epoch) {
            Validity::Current => stored,
            Validity::Outdated(at) => Arc::new(stored.outdated(at)),
            Validity::Gone => return,
        };
        self.invalidate_and_persist(
            PurgeScope::Target(key.target_id()),
            PurgeKind::Hard,
            self.disk_tier.load().as_deref(),
        );
        let epoch = self.generations.current_epoch();
        drop(guard);
        self.memory.put(key, stored, epoch);
    }

    /// Handles unwritten entries once the disk can be used: each is written now, or the older version on disk
    /// is invalidated. Handles `most` keys at most; lookups of the others skip the disk until they are
    /// handled.
    pub(super) fn catch_up(&self, most: usize) {
        let disk_tier = self.disk_tier.load();
        let Some(disk_tier) = disk_tier.as_ref().filter(|disk_tier| disk_tier.disk.is_open()) else {
            return;
        };
        if self.unwritten.is_empty() {
            return;
        }
        match self.unwritten.begin(most) {
            None => {}
            Some(DeferredWork::TooMany) => {
                tracing::warn!("Too many responses could not be written to disk: no entry on it is used");
                let _guard = self.memory_only_reason.lock();
                self.invalidate_and_persist(PurgeScope::All, PurgeKind::Hard, Some(disk_tier));
                self.unwritten.all_done();
                disk_tier.state.replace(self.generations.all());
            }
            Some(DeferredWork::Some(entries)) => {
                self.handle(disk_tier, entries);
                self.unwritten.done();
            }
            Some(DeferredWork::Last(entries)) => {
                self.handle(disk_tier, entries);
                let _guard = self.memory_only_reason.lock();
                self.unwritten.done();
                if self.unwritten.none_is_left() {
                    // Entries on disk may be used again.
                    disk_tier.state.replace(self.generations.all());
                }
            }
        }
    }

    fn handle(&self, disk_tier: &Arc<DiskTier>, entries: Vec<EntryId>) {
        for entry_id in entries {
            if let Some((key, stored, epoch)) = self.memory.entry_at(entry_id) {
                self.write(disk_tier, (&key, &stored), epoch, None);
            } else {
                // The entry was evicted from memory, and was newer than the one on disk.
                let _guard = self.memory_only_reason.lock();
                self.invalidate_and_persist(
                    PurgeScope::Target(entry_id.target),
                    PurgeKind::Hard,
                    Some(disk_tier),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyBuilder;
    use crate::policy::Policy;
    use crate::semantics::redaction::Redactor;
    use crate::semantics::request::ProxyRequest;
    use crate::semantics::target::Target;

    #[test]
    fn too_many_unwritten_entries_make_the_whole_disk_unusable() {
        let keys = KeyBuilder::new([7; 32], &[], Redactor::default());
        let target = Target::absolute("http://h/").unwrap();
        let key = keys.key(&ProxyRequest::get(target), &Policy::origin());
        let unwritten = UnwrittenEntries::default();
        assert!(unwritten.is_empty() && !unwritten.may_have(&key));
        let noted = [1, 2, 1].map(|variant| unwritten.note(&key, VariantId(variant)));
        assert_eq!(noted, [UnwrittenEntry::First, UnwrittenEntry::Another, UnwrittenEntry::Another]);
        let Some(DeferredWork::Last(two)) = unwritten.begin(BATCH) else { panic!("not so many") };
        assert_eq!(two.len(), 2);
        assert_eq!(unwritten.begin(BATCH), None, "they are being handled");
        assert!(!unwritten.is_empty() && unwritten.may_have(&key));
        unwritten.done();
        assert!(unwritten.is_empty() && !unwritten.may_have(&key));
        for variant in 0..=LIMIT as u128 {
            let _noted = unwritten.note(&key, VariantId(variant));
        }
        assert_eq!(unwritten.begin(BATCH), Some(DeferredWork::TooMany));
        unwritten.all_done();
        assert!(unwritten.is_empty());
    }
}
