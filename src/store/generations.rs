//! Which targets were invalidated, and when: what is older than its target's generation is unusable,
//! or outdated where the invalidation was soft.
//!
//! Owns: the order of invalidations relative to fetches, over restarts too; it wins over a fill in
//! flight; the order of fetches among themselves. Never touches: entries, disk (`state` keeps it).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;

use crate::store::presence::{PresenceGuard, PresenceKind, PresentTargets};
use crate::stored::ForcedStale;

/// A point in the order of invalidations: microseconds since 1970, or more where the clock stood
/// still or went back. Ordered over restarts and between a larder and its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Epoch(u64);

impl Epoch {
    /// The mark of a number that was once [`Epoch::raw`].
    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// As a number, to be kept.
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// The mark of a larder that starts at `now`.
    pub(crate) fn at(now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// The mark of an invalidation that happens at `now`, behind all marks up to `latest`.
    fn next(latest: Self, now: SystemTime) -> Self {
        Self::at(now).max(Self(latest.0.saturating_add(1)))
    }

    /// About when it was.
    fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_micros(self.0))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// What an invalidation reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PurgeScope {
    /// Every answer of a target, all scopes and variants
    /// ([`CacheKey::target_id`](crate::key::CacheKey::target_id)).
    Target(u128),
    /// Everything.
    All,
}

/// What an invalidation does to what it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeKind {
    /// It is unusable.
    Hard,
    /// It is stale from now on: to be revalidated, but the windows of stale answers run.
    Soft,
    /// There is something newer: it may stand in for errors, and for nothing else.
    Superseded,
}

/// The newest invalidations of a reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Generation {
    /// What was marked before this is unusable.
    pub hard: Epoch,
    /// What was marked before this is outdated.
    pub soft: Epoch,
    /// What was marked before this is superseded.
    pub superseded: Epoch,
}

impl Generation {
    fn of(kind: PurgeKind, mark: Epoch) -> Self {
        let nothing = Self::default();
        match kind {
            PurgeKind::Hard => Self { hard: mark, ..nothing },
            PurgeKind::Soft => Self { soft: mark, ..nothing },
            PurgeKind::Superseded => Self { superseded: mark, ..nothing },
        }
    }

    /// Both: whichever is newer counts.
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

    /// Whether it is about what is unusable alone.
    pub(crate) fn is_hard(self) -> bool {
        self.soft == Epoch::default() && self.superseded == Epoch::default()
    }

    fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Where something stands that was marked before it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Nothing was invalidated since.
    Current,
    /// Softly invalidated, or superseded.
    Outdated(ForcedStale),
    /// Invalidated.
    Gone,
}

/// A point in the order of invalidations, and that something is asked for since: invalidations of its target
/// are remembered as long as this lives.
#[derive(Debug)]
pub struct InvalidationWatch {
    /// The point.
    pub mark: Epoch,
    /// When, in microseconds since 1970, or more where the clock stood still or went back: behind all that this
    /// larder asked for before, and what others did, unless the clock went back between them.
    pub asked: u64,
    _presence: PresenceGuard,
}

/// How many targets are remembered one by one.
const REMEMBERED: usize = 65_536;

/// The generations of all targets.
#[derive(Debug, Default)]
pub struct Generations {
    latest: AtomicU64,
    asked: AtomicU64,
    of: RwLock<Snapshot>,
    present: Arc<PresentTargets>,
}

/// All generations, as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Of everything; also covers targets that are no longer remembered one by one.
    pub all: Generation,
    /// Of single targets.
    pub targets: HashMap<u128, Generation>,
    /// No mark that was given out so far is newer: should the clock go back, the next larder's are newer all the same.
    pub latest: Epoch,
}

/// A generation that changed, to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub reach: PurgeScope,
    /// What it is now.
    pub generation: Generation,
}

impl Generations {
    /// Generations of a larder that starts now and remembers nothing yet.
    pub fn new(now: SystemTime) -> Self {
        let generations = Self::default();
        generations.latest.store(Epoch::at(now).0, Ordering::Release);
        generations.asked.store(Epoch::at(now).0, Ordering::Release);
        generations
    }

    /// Now.
    pub fn mark(&self) -> Epoch {
        Epoch(self.latest.load(Ordering::Acquire))
    }

    /// Now, for something of `target` that is asked for next.
    pub fn watch(&self, target: u128, now: SystemTime) -> InvalidationWatch {
        // First: an invalidation behind the mark must find it.
        let presence = self.enter(target, PresenceKind::Awaited);
        let now = Epoch::at(now).0;
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self.asked.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let asked = last.ok().and_then(next).unwrap_or(now);
        InvalidationWatch { mark: self.mark(), asked, _presence: presence }
    }

    /// Where the order of all that is asked for has got to.
    pub fn so_far(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// It has got to `now` at least: another larder may have asked for something.
    pub fn pass(&self, now: SystemTime) {
        self.asked.fetch_max(Epoch::at(now).0, Ordering::AcqRel);
    }

    /// Something of `target` is held from now on.
    pub fn enter(&self, target: u128, how: PresenceKind) -> PresenceGuard {
        self.present.enter(target, how)
    }

    /// Whether anything of `target` is held or asked for.
    pub fn is_present(&self, target: u128) -> bool {
        self.present.has(target)
    }

    /// Whether anything of `target` is kept in memory.
    pub fn keeps(&self, target: u128) -> bool {
        self.present.keeps(target)
    }

    /// Whether anything of `target` is on its way.
    pub fn is_awaited(&self, target: u128) -> bool {
        self.present.awaits(target)
    }

    /// Invalidates what was marked before now.
    pub fn invalidate(&self, reach: PurgeScope, kind: PurgeKind, now: SystemTime) -> Change {
        let mut of = self.of.write();
        let mark = Epoch::next(self.mark(), now);
        let generation = of.join(reach, Generation::of(kind, mark));
        // Last: whoever sees the new mark must find the generation.
        self.latest.store(mark.0, Ordering::Release);
        Change { reach, generation }
    }

    /// All of them.
    pub fn all(&self) -> Snapshot {
        self.dated(&self.of.read())
    }

    fn dated(&self, of: &Snapshot) -> Snapshot {
        Snapshot { latest: self.mark(), ..of.clone() }
    }

    /// What `all` would be if everything were invalidated now.
    pub fn foresee(&self, all: Generation, now: SystemTime) -> Generation {
        Generation::of(PurgeKind::Hard, Epoch::next(self.mark(), now)).joined(all)
    }

    /// Where something of `target` stands that was marked at `mark`.
    pub fn validity(&self, target: u128, mark: Epoch) -> Validity {
        if mark == self.mark() {
            return Validity::Current;
        }
        let of = self.of.read();
        let own = of.targets.get(&target).copied().unwrap_or_default();
        let Generation { hard, soft, superseded } = own.joined(of.all);
        if mark < hard {
            return Validity::Gone;
        }
        let newest = [soft, superseded].into_iter().filter(|one| mark < *one).max();
        newest.map_or(Validity::Current, |newest| {
            Validity::Outdated(ForcedStale { at: newest.time(), superseded: mark < superseded })
        })
    }

    /// Takes over what an earlier larder kept, and what a larder kept that ran until now while this
    /// one served from memory. What was invalidated here meanwhile counts as invalidated after all
    /// that: it costs hits where the clock went back, but never brings anything back. Returns what
    /// is now to be kept.
    pub fn adopt(&self, kept: Snapshot, now: SystemTime) -> Snapshot {
        let mut of = self.of.write();
        let newest = kept.targets.values().fold(kept.all, |most, one| most.joined(*one)).newest();
        let own = std::mem::replace(&mut *of, kept);
        let mark = Epoch::next(self.mark().max(newest).max(of.latest), now);
        let renewed = |old: Epoch| if old == Epoch::default() { old } else { mark };
        let again = |old: Generation| Generation {
            hard: renewed(old.hard),
            soft: renewed(old.soft),
            superseded: renewed(old.superseded),
        };
        of.join(PurgeScope::All, again(own.all));
        for (target, old) in own.targets {
            of.join(PurgeScope::Target(target), again(old));
        }
        self.latest.store(mark.0, Ordering::Release);
        self.dated(&of)
    }

    /// Whether more targets are remembered one by one than there is room for.
    pub fn is_full(&self) -> bool {
        self.of.read().targets.len() > REMEMBERED
    }

    /// Makes room: forgets the targets whose generation is of no more use, as `is_needed` says, and where
    /// many are left the older half. Those are covered by the generation of everything, which costs hits
    /// of targets nobody invalidated but never brings an invalidated one back. Returns all that is
    /// left to be kept. No target may be invalidated meanwhile.
    pub fn forget(&self, is_needed: impl Fn(u128, Generation) -> bool) -> Snapshot {
        let known: Vec<(u128, Generation)> =
            self.of.read().targets.iter().map(|(target, one)| (*target, *one)).collect();
        let gone = known.into_iter().filter(|(target, one)| !is_needed(*target, *one));
        let gone: HashSet<u128> = gone.map(|(target, _)| target).collect();
        let mut of = self.of.write();
        of.targets.retain(|target, _| !gone.contains(target));
        if of.targets.len() > REMEMBERED / 2 {
            let mut all: Vec<Epoch> = of.targets.values().map(|one| one.newest()).collect();
            all.sort_unstable();
            let median = all[all.len() / 2];
            let forgotten = of.targets.extract_if(|_, one| one.newest() <= median);
            let joined = forgotten.fold(Generation::default(), |most, (_, one)| most.joined(one));
            of.join(PurgeScope::All, joined);
        }
        self.dated(&of)
    }
}

impl Snapshot {
    /// Adds an invalidation; what it comes to with those before.
    pub(super) fn join(&mut self, reach: PurgeScope, generation: Generation) -> Generation {
        if generation.is_nothing() {
            return generation;
        }
        let of = match reach {
            PurgeScope::All => &mut self.all,
            PurgeScope::Target(target) => self.targets.entry(target).or_default(),
        };
        *of = of.joined(generation);
        *of
    }
}

#[cfg(test)]
mod tests;
