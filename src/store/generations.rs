//! Invalidations: which targets were invalidated, and when. An entry that is older than its target's
//! generation is unusable, or stale where the invalidation was soft.
//!
//! Owns: the order of invalidations relative to fetches, across restarts too (an invalidation wins over a
//! fill in progress); the order of fetches among themselves. Never touches: entries, disk (`state_db`
//! persists it).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;

use crate::store::presence::{PresenceGuard, PresenceKind, PresentTargets};
use crate::stored::ForcedStale;

/// A point in the order of invalidations: microseconds since 1970, or more where the clock stood still or
/// went back. Ordered across restarts and between a larder and its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a number that was once [`Epoch::raw`].
    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// As a number, to be persisted.
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// The epoch of a larder that starts at `now`.
    pub(crate) fn at(now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// The epoch of an invalidation at `now`, later than every epoch up to `latest`.
    fn next(latest: Self, now: SystemTime) -> Self {
        Self::at(now).max(Self(latest.0.saturating_add(1)))
    }

    /// The approximate time.
    fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(self.0)).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Scope of an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PurgeScope {
    /// Every entry of a target, in all key scopes and variants
    /// ([`CacheKey::target_id`](crate::key::CacheKey::target_id)).
    Target(u128),
    /// Everything.
    All,
}

/// Effect of an invalidation on entries in its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeKind {
    /// The entry is unusable.
    Hard,
    /// The entry is stale from now on: it must be revalidated, but may be served stale within the usual
    /// windows.
    Soft,
    /// A newer response exists: the entry may be served for errors (stale-if-error) only.
    Superseded,
}

/// The newest invalidations of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Generation {
    /// Entries with an earlier epoch are unusable.
    pub hard: Epoch,
    /// Entries with an earlier epoch are stale.
    pub soft: Epoch,
    /// Entries with an earlier epoch are superseded.
    pub superseded: Epoch,
}

impl Generation {
    fn for_kind(kind: PurgeKind, epoch: Epoch) -> Self {
        let nothing = Self::default();
        match kind {
            PurgeKind::Hard => Self { hard: epoch, ..nothing },
            PurgeKind::Soft => Self { soft: epoch, ..nothing },
            PurgeKind::Superseded => Self { superseded: epoch, ..nothing },
        }
    }

    /// Combines both: the newer epoch of each kind counts.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self {
            hard: self.hard.max(other.hard),
            soft: self.soft.max(other.soft),
            superseded: self.superseded.max(other.superseded),
        }
    }

    pub(crate) fn newest(self) -> Epoch {
        self.hard.max(self.soft).max(self.superseded)
    }

    /// Whether it contains hard invalidations only.
    pub(crate) fn is_hard(self) -> bool {
        self.soft == Epoch::default() && self.superseded == Epoch::default()
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Validity of an entry with a given epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Nothing was invalidated since.
    Current,
    /// Softly invalidated, or superseded.
    Outdated(ForcedStale),
    /// Invalidated.
    Gone,
}

/// A point in the order of invalidations, taken before a request: invalidations of its target are remembered
/// as long as this value lives.
#[derive(Debug)]
pub struct InvalidationWatch {
    /// The point.
    pub epoch: Epoch,
    /// The order number of the request: microseconds since 1970, or more where the clock stood still or went
    /// back. Higher than that of every earlier request of this larder, and of other larders, unless the clock
    /// went back between them.
    pub order: u64,
    _presence: PresenceGuard,
}

/// Number of targets that are remembered individually.
const REMEMBERED: usize = 65_536;

/// The generations of all targets.
#[derive(Debug, Default)]
pub struct Generations {
    latest: AtomicU64,
    latest_order: AtomicU64,
    snapshot: RwLock<Snapshot>,
    /// The targets of which a response is in memory or pending.
    pub(super) present: Arc<PresentTargets>,
}

/// All generations, as persisted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Generation of everything; it also covers targets that are no longer remembered individually.
    pub all: Generation,
    /// Generations of single targets.
    pub targets: HashMap<u128, Generation>,
    /// No epoch given out so far is newer. If the clock goes back, the epochs of the next larder are newer
    /// all the same.
    pub latest: Epoch,
}

/// A changed generation, to be persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Its scope.
    pub scope: PurgeScope,
    /// Its new value.
    pub generation: Generation,
}

impl Generations {
    /// Generations of a larder that starts now and knows of no invalidation.
    pub fn new(now: SystemTime) -> Self {
        let generations = Self::default();
        generations.latest.store(Epoch::at(now).0, Ordering::Release);
        generations.latest_order.store(Epoch::at(now).0, Ordering::Release);
        generations
    }

    /// The current epoch.
    pub fn current_epoch(&self) -> Epoch {
        Epoch(self.latest.load(Ordering::Acquire))
    }

    /// The current epoch and a new order number, for a request of `target` that is sent next.
    pub fn watch(&self, target: u128, now: SystemTime) -> InvalidationWatch {
        // First: an invalidation after this epoch must find the target present.
        let presence = self.present.register(target, PresenceKind::Pending);
        let now = Epoch::at(now).0;
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self.latest_order.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let order = last.ok().and_then(next).unwrap_or(now);
        InvalidationWatch { epoch: self.current_epoch(), order, _presence: presence }
    }

    /// The newest order number given out.
    pub fn latest_order(&self) -> u64 {
        self.latest_order.load(Ordering::Acquire)
    }

    /// Raises the order to `now` at least: another larder may have given out numbers.
    pub fn advance_order_to(&self, now: SystemTime) {
        self.latest_order.fetch_max(Epoch::at(now).0, Ordering::AcqRel);
    }

    /// Invalidates entries with an epoch before now.
    pub fn invalidate(&self, scope: PurgeScope, kind: PurgeKind, now: SystemTime) -> Change {
        let mut snapshot = self.snapshot.write();
        let epoch = Epoch::next(self.current_epoch(), now);
        let generation = snapshot.join(scope, Generation::for_kind(kind, epoch));
        // Last: a reader that sees the new epoch must find the generation.
        self.latest.store(epoch.0, Ordering::Release);
        Change { scope, generation }
    }

    /// All generations.
    pub fn all(&self) -> Snapshot {
        self.with_latest(&self.snapshot.read())
    }

    fn with_latest(&self, snapshot: &Snapshot) -> Snapshot {
        Snapshot { latest: self.current_epoch(), ..snapshot.clone() }
    }

    /// The generation `all` if everything were invalidated now.
    pub fn after_full_purge(&self, all: Generation, now: SystemTime) -> Generation {
        Generation::for_kind(PurgeKind::Hard, Epoch::next(self.current_epoch(), now)).joined(all)
    }

    /// Validity of an entry of `target` with this epoch.
    pub fn validity(&self, target: u128, epoch: Epoch) -> Validity {
        if epoch == self.current_epoch() {
            return Validity::Current;
        }
        let snapshot = self.snapshot.read();
        let own = snapshot.targets.get(&target).copied().unwrap_or_default();
        let Generation { hard, soft, superseded } = own.joined(snapshot.all);
        if epoch < hard {
            return Validity::Gone;
        }
        let newest = [soft, superseded].into_iter().filter(|one| epoch < *one).max();
        newest.map_or(Validity::Current, |newest| {
            Validity::Outdated(ForcedStale { at: newest.time(), superseded: epoch < superseded })
        })
    }

    /// Takes over the generations that an earlier larder persisted, or one that ran until now while this
    /// larder served from memory. This larder's own invalidations are moved after all of those: if the clock
    /// went back this costs hits, but it never makes an invalidated entry usable again. Returns the
    /// generations to persist.
    pub fn adopt(&self, kept: Snapshot, now: SystemTime) -> Snapshot {
        let mut snapshot = self.snapshot.write();
        let newest = kept.targets.values().fold(kept.all, |most, one| most.joined(*one)).newest();
        let own = std::mem::replace(&mut *snapshot, kept);
        let epoch = Epoch::next(self.current_epoch().max(newest).max(snapshot.latest), now);
        let renewed = |old: Epoch| if old == Epoch::default() { old } else { epoch };
        let reissued = |old: Generation| Generation {
            hard: renewed(old.hard),
            soft: renewed(old.soft),
            superseded: renewed(old.superseded),
        };
        snapshot.join(PurgeScope::All, reissued(own.all));
        for (target, old) in own.targets {
            snapshot.join(PurgeScope::Target(target), reissued(old));
        }
        self.latest.store(epoch.0, Ordering::Release);
        self.with_latest(&snapshot)
    }

    /// Whether more targets are remembered individually than the limit.
    pub fn is_full(&self) -> bool {
        self.snapshot.read().targets.len() > REMEMBERED
    }

    /// Forgets the targets whose generation is not needed according to `is_needed`, and the older half of the
    /// rest if many remain. The generation of everything then covers that half: this costs hits of targets
    /// that were not invalidated, but never makes an invalidated entry usable again. Returns all that is
    /// left, to be persisted. No target may be invalidated meanwhile.
    pub fn forget(&self, is_needed: impl Fn(u128, Generation) -> bool) -> Snapshot {
        let known: Vec<(u128, Generation)> =
            self.snapshot.read().targets.iter().map(|(target, one)| (*target, *one)).collect();
        let gone = known.into_iter().filter(|(target, one)| !is_needed(*target, *one));
        let gone: HashSet<u128> = gone.map(|(target, _)| target).collect();
        let mut snapshot = self.snapshot.write();
        snapshot.targets.retain(|target, _| !gone.contains(target));
        if snapshot.targets.len() > REMEMBERED / 2 {
            let mut all: Vec<Epoch> = snapshot.targets.values().map(|one| one.newest()).collect();
            all.sort_unstable();
            let median = all[all.len() / 2];
            let forgotten = snapshot.targets.extract_if(|_, one| one.newest() <= median);
            let joined = forgotten.fold(Generation::default(), |most, (_, one)| most.joined(one));
            snapshot.join(PurgeScope::All, joined);
        }
        self.with_latest(&snapshot)
    }
}

impl Snapshot {
    /// Adds an invalidation; returns its combination with earlier ones.
    pub(super) fn join(&mut self, scope: PurgeScope, generation: Generation) -> Generation {
        if generation.is_empty() {
            return generation;
        }
        let generation_of_scope = match scope {
            PurgeScope::All => &mut self.all,
            PurgeScope::Target(target) => self.targets.entry(target).or_default(),
        };
        *generation_of_scope = generation_of_scope.joined(generation);
        *generation_of_scope
    }
}

#[cfg(test)]
mod tests;
