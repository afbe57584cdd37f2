//! Which targets an answer is held of in memory, waited for, or about to be written: an invalidation of any
//! other need not be remembered.
//!
//! Owns: the counts of each target. Never touches: the disk, which knows its own entries.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// The targets, and how many hold on to each.
#[derive(Debug, Default)]
pub struct PresentTargets(Mutex<HashMap<u128, PresenceCount>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PresenceCount {
    kept: u32,
    awaited: u32,
}

/// How something of a target is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceKind {
    /// In memory.
    Kept,
    /// On its way: asked for, or about to be written.
    Awaited,
}

/// Something of a target: as long as this lives, the target is present.
pub struct PresenceGuard {
    of: Arc<PresentTargets>,
    target: u128,
    how: PresenceKind,
}

impl PresentTargets {
    /// Something of `target` is here from now on.
    pub fn enter(self: &Arc<Self>, target: u128, how: PresenceKind) -> PresenceGuard {
        *self.0.lock().entry(target).or_default().of(how) += 1;
        PresenceGuard { of: Arc::clone(self), target, how }
    }

    /// Whether anything of `target` is here.
    pub fn has(&self, target: u128) -> bool {
        self.0.lock().contains_key(&target)
    }

    /// Whether anything of `target` is in memory.
    pub fn keeps(&self, target: u128) -> bool {
        self.0.lock().get(&target).is_some_and(|count| count.kept > 0)
    }

    /// Whether anything of `target` is on its way.
    pub fn awaits(&self, target: u128) -> bool {
        self.0.lock().get(&target).is_some_and(|count| count.awaited > 0)
    }
}

impl PresenceCount {
    fn of(&mut self, how: PresenceKind) -> &mut u32 {
        match how {
            PresenceKind::Kept => &mut self.kept,
            PresenceKind::Awaited => &mut self.awaited,
        }
    }
}

impl Drop for PresenceGuard {
    fn drop(&mut self) {
        let mut targets = self.of.0.lock();
        let Some(count) = targets.get_mut(&self.target) else { return };
        *count.of(self.how) -= 1;
        if *count == PresenceCount::default() {
            targets.remove(&self.target);
        }
        // A burst must not hold its room for ever.
        if targets.capacity() > 1024 && targets.len() < targets.capacity() / 4 {
            targets.shrink_to_fit();
        }
    }
}

impl fmt::Debug for PresenceGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presence({:032x})", self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_present_as_long_as_anything_of_it_is() {
        let present = Arc::new(PresentTargets::default());
        let (one, two) =
            (present.enter(1, PresenceKind::Kept), present.enter(1, PresenceKind::Awaited));
        let other = present.enter(2, PresenceKind::Kept);
        assert!(present.awaits(1) && !present.awaits(2));
        drop(one);
        assert!(present.has(1) && present.has(2) && !present.has(3));
        drop(two);
        assert!(!present.has(1) && present.has(2));
        drop(other);
        assert!(present.0.lock().is_empty());
    }
}
