//! Answers that are in memory and not on disk, where an older version may be: that must not come back.
//!
//! Owns: which those are, for as long as the disk cannot be asked, bounded; what is done about them. Never
//! touches: how a tier keeps what it keeps.

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

/// How many are remembered one by one.
const MOST: usize = 65_536;

/// How many a look-up sees to: it must not wait long.
pub(super) const BATCH: usize = 256;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct UnwrittenEntries(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By the id of the key: the target, and which variants. The keys themselves may be long.
    keys: HashMap<u128, (u128, HashSet<VariantId>)>,
    /// How many there are.
    count: usize,
    /// The keys that are being seen to.
    begun: HashSet<u128>,
    /// There were more.
    more: bool,
}

/// Which of several was noted.
#[derive(Debug, PartialEq, Eq)]
enum UnwrittenEntry {
    First,
    Another,
}

/// What there is to do once the disk can be asked again.
#[derive(Debug, PartialEq, Eq)]
enum DeferredWork {
    /// These are to be seen to, and no others are left.
    Last(Vec<EntryId>),
    /// These are to be seen to.
    Some(Vec<EntryId>),
    /// Too many: nothing on disk is to be trusted.
    TooMany,
}

impl UnwrittenEntries {
    /// One more.
    fn note(&self, key: &CacheKey, variant: VariantId) -> UnwrittenEntry {
        let mut inner = self.0.lock();
        if inner.count >= MOST {
            inner.more = true;
            return UnwrittenEntry::Another;
        }
        let note =
            if inner.keys.is_empty() { UnwrittenEntry::First } else { UnwrittenEntry::Another };
        let (_, variants) =
            inner.keys.entry(key.id()).or_insert_with(|| (key.target_id(), HashSet::new()));
        let is_new = variants.insert(variant);
        inner.count += usize::from(is_new);
        note
    }

    /// Whether none is left that nobody has begun with.
    fn none_is_left(&self) -> bool {
        self.0.lock().keys.is_empty()
    }

    /// Whether there are none: asked at every look at the disk.
    fn is_empty(&self) -> bool {
        let inner = self.0.lock();
        inner.keys.is_empty() && inner.begun.is_empty()
    }

    /// Whether what is on disk of this key may be older than what is not.
    pub(super) fn may_have(&self, key: &CacheKey) -> bool {
        let inner = self.0.lock();
        inner.more || inner.keys.contains_key(&key.id()) || inner.begun.contains(&key.id())
    }

    /// The variants of about so many keys, which the caller sees to and says so; `None`: others do.
    fn begin(&self, most: usize) -> Option<DeferredWork> {
        let mut inner = self.0.lock();
        if !inner.begun.is_empty() || inner.keys.is_empty() {
            return None;
        }
        if inner.more {
            return Some(DeferredWork::TooMany);
        }
        let begun: Vec<u128> = inner.keys.keys().copied().take(most).collect();
        let mut all = Vec::with_capacity(begun.len());
        for id in &begun {
            let Some((target, variants)) = inner.keys.remove(id) else { continue };
            inner.count -= variants.len();
            all.extend(variants.into_iter().map(|variant| EntryId { target, id: *id, variant }));
        }
        inner.begun.extend(begun);
        Some(if inner.keys.is_empty() { DeferredWork::Last(all) } else { DeferredWork::Some(all) })
    }

    /// Those that were begun are seen to.
    fn done(&self) {
        self.0.lock().begun.clear();
    }

    /// Everything is.
    fn all_done(&self) {
        *self.0.lock() = Inner::default();
    }
}

impl TieredStore {
    /// An answer that is in memory will not be on disk, where an older version may be: none may come back.
    pub(super) fn lost(&self, key: &CacheKey, stored: &Arc<StoredResponse>, mark: Epoch) {
        match &*self.deep.load() {
            Some(deep) if !deep.disk.is_open() => {
                if self.unwritten.note(key, stored.variant) == UnwrittenEntry::First {
                    self.distrust(deep);
                }
            }
            Some(deep) if deep.disk.may_hold(key.target_id()) || deep.disk.is_to_hold(key) => {
                self.supersede(key, stored, mark);
            }
            None if self.to_be_opened.load(Ordering::Relaxed) => {
                // That the other larder's disk is not to be trusted is said once it is this one's.
                let _first = self.unwritten.note(key, stored.variant);
            }
            Some(_) | None => {}
        }
    }

    /// Should larder end before the disk can be asked again, nothing that is on it now is to be used.
    fn distrust(&self, deep: &DiskTier) {
        let _alone = self.alone.lock();
        let all = self.generations.all().all;
        deep.state.keep(Change { reach: PurgeScope::All, generation: self.trusted(all) });
    }

    /// What is said of everything on disk: while there is something that it does not know of, that nothing on it
    /// is to be used by the next larder. Under the lock of `alone`.
    pub(super) fn trusted(&self, all: Generation) -> Generation {
        if self.unwritten.is_empty() {
            all
        } else {
            self.generations.foresee(all, self.clock.now())
        }
    }

    /// Everything of its target but this answer is unusable from now on, on disk above all.
    fn supersede(&self, key: &CacheKey, stored: &Arc<StoredResponse>, mark: Epoch) {
        let alone = self.alone.lock();
        let place = EntryId { target: key.target_id(), id: key.id(), variant: stored.variant };
        // What was kept meanwhile is newer, or the same.
        let kept = self
            .memory
            .kept(place)
            .filter(|(_, kept, _)| is_newer(kept.asked, stored.asked, self.generations.so_far()));
        let (stored, mark) = kept.map_or((Arc::clone(stored), mark), |(_, kept, at)| (kept, at));
        let stored = match self.validity(key, mark) {
            Validity::Current => stored,
            Validity::Outdated(at) => Arc::new(stored.outdated(at)),
            Validity::Gone => return,
        };
        self.invalidated(
            PurgeScope::Target(key.target_id()),
            PurgeKind::Hard,
            self.deep.load().as_deref(),
        );
        let mark = self.generations.mark();
        drop(alone);
        self.memory.put(key, stored, mark);
    }

    /// The disk can be asked: what it does not know of is written now, or what it has instead is of no use. Sees to
    /// so many keys at most; the others are taken for unknown to the disk until they are.
    pub(super) fn catch_up(&self, most: usize) {
        let deep = self.deep.load();
        let Some(deep) = deep.as_ref().filter(|deep| deep.disk.is_open()) else { return };
        if self.unwritten.is_empty() {
            return;
        }
        match self.unwritten.begin(most) {
            None => {}
            Some(DeferredWork::TooMany) => {
                tracing::warn!(
                    "Too much was kept that the disk does not know of: nothing on it is used"
                );
                let _alone = self.alone.lock();
                self.invalidated(PurgeScope::All, PurgeKind::Hard, Some(deep));
                self.unwritten.all_done();
                deep.state.replace(self.generations.all());
            }
            Some(DeferredWork::Some(missed)) => {
                self.see_to(deep, missed);
                self.unwritten.done();
            }
            Some(DeferredWork::Last(missed)) => {
                self.see_to(deep, missed);
                let _alone = self.alone.lock();
                self.unwritten.done();
                if self.unwritten.none_is_left() {
                    // What is on it is to be trusted again.
                    deep.state.replace(self.generations.all());
                }
            }
        }
    }

    fn see_to(&self, deep: &Arc<DiskTier>, missed: Vec<EntryId>) {
        for place in missed {
            if let Some((key, stored, mark)) = self.memory.kept(place) {
                self.write(deep, &key, &stored, mark, None);
            } else {
                // It is gone from memory, and was newer than what is on disk.
                let _alone = self.alone.lock();
                self.invalidated(PurgeScope::Target(place.target), PurgeKind::Hard, Some(deep));
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
    fn too_many_are_all() {
        let ring = KeyBuilder::new([7; 32], &[], Redactor::default());
        let target = Target::absolute("http://h/").unwrap();
        let key = ring.key(&ProxyRequest::get(target), &Policy::origin());
        let unwritten = UnwrittenEntries::default();
        assert!(unwritten.is_empty() && !unwritten.may_have(&key));
        let noted = [1, 2, 1].map(|variant| unwritten.note(&key, VariantId(variant)));
        assert_eq!(
            noted,
            [UnwrittenEntry::First, UnwrittenEntry::Another, UnwrittenEntry::Another]
        );
        let Some(DeferredWork::Last(two)) = unwritten.begin(BATCH) else { panic!("not so many") };
        assert_eq!(two.len(), 2);
        assert_eq!(unwritten.begin(BATCH), None, "somebody sees to them");
        assert!(!unwritten.is_empty() && unwritten.may_have(&key));
        unwritten.done();
        assert!(unwritten.is_empty() && !unwritten.may_have(&key));
        for variant in 0..=MOST as u128 {
            let _noted = unwritten.note(&key, VariantId(variant));
        }
        assert_eq!(unwritten.begin(BATCH), Some(DeferredWork::TooMany));
        unwritten.all_done();
        assert!(unwritten.is_empty());
    }
}
