//! Which targets were invalidated, and when: an entry older than its target's generation is unusable.
//!
//! Owns: the order of invalidations relative to fetches; it needs no index of entries and wins over
//! a fill in flight. Never touches: entries.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// A point in the order of invalidations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// How many targets are remembered one by one.
const REMEMBERED: usize = 65_536;

/// The generations of all targets.
#[derive(Debug, Default)]
pub struct Generations {
    counter: AtomicU64,
    /// Everything marked before this is unusable, whatever its target.
    floor: AtomicU64,
    of: RwLock<HashMap<u128, u64>>,
}

impl Generations {
    /// Now.
    pub fn mark(&self) -> Mark {
        Mark(self.counter.load(Ordering::Acquire))
    }

    /// Makes everything of `target` that was marked before now unusable.
    pub fn invalidate(&self, target: u128) {
        let mut of = self.of.write();
        let now = self.counter.fetch_add(1, Ordering::AcqRel) + 1;
        of.insert(target, now);
        if of.len() > REMEMBERED {
            self.forget_older_half(&mut of);
        }
    }

    /// Whether what was marked at `mark` for `target` is still usable.
    pub fn is_current(&self, target: u128, mark: Mark) -> bool {
        let latest = self.counter.load(Ordering::Acquire);
        if mark.0 == latest {
            return true;
        }
        mark.0 >= self.floor.load(Ordering::Acquire)
            && self.of.read().get(&target).is_none_or(|generation| mark.0 >= *generation)
    }

    /// Keeps the map bounded: the forgotten half is covered by the floor, which costs hits of
    /// targets nobody invalidated but never brings an invalidated one back.
    fn forget_older_half(&self, of: &mut HashMap<u128, u64>) {
        let mut all: Vec<u64> = of.values().copied().collect();
        all.sort_unstable();
        let median = all[all.len() / 2];
        of.retain(|_, generation| *generation > median);
        self.floor.store(median, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_marked_before_the_invalidation_is_unusable() {
        let generations = Generations::default();
        let before = generations.mark();
        generations.invalidate(7);
        let after = generations.mark();
        assert!(!generations.is_current(7, before));
        assert!(generations.is_current(7, after));
        assert!(generations.is_current(8, before), "another target is left alone");
    }

    #[test]
    fn forgetting_never_brings_an_invalidated_target_back() {
        let generations = Generations::default();
        let before = generations.mark();
        for target in 0..=(REMEMBERED as u128 * 2) {
            generations.invalidate(target);
        }
        for target in [0, 1, REMEMBERED as u128, REMEMBERED as u128 * 2] {
            assert!(!generations.is_current(target, before), "{target}");
        }
        assert!(generations.of.read().len() <= REMEMBERED);
        assert!(generations.is_current(0, generations.mark()));
    }
}
