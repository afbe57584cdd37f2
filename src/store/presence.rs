//! Targets of which a response is in memory, requested, or queued to be written: an invalidation of any other
//! target need not be remembered.
//!
//! Owns: the counts of each target. Never touches: the disk, which has its own index of entries.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// The present targets, and the number of guards of each.
#[derive(Debug, Default)]
pub struct PresentTargets(Mutex<HashMap<u128, PresenceCount>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PresenceCount {
    kept: u32,
    awaited: u32,
}

/// Kind of presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceKind {
    /// In memory.
    InMemory,
    /// Pending: requested, or queued to be written.
    Pending,
}

/// Marks a target as present as long as it lives.
pub struct PresenceGuard {
    targets: Arc<PresentTargets>,
    target: u128,
    kind: PresenceKind,
}

impl PresentTargets {
    /// Marks `target` as present until the guard is dropped.
    pub fn register(self: &Arc<Self>, target: u128, kind: PresenceKind) -> PresenceGuard {
        *self.0.lock().entry(target).or_default().count_mut(kind) += 1;
        PresenceGuard { targets: Arc::clone(self), target, kind }
    }

    /// Whether `target` is present.
    pub fn has(&self, target: u128) -> bool {
        self.0.lock().contains_key(&target)
    }

    /// Whether any response of `target` is in memory.
    pub fn is_in_memory(&self, target: u128) -> bool {
        self.0.lock().get(&target).is_some_and(|count| count.kept > 0)
    }

    /// Whether any response of `target` is pending.
    pub fn is_pending(&self, target: u128) -> bool {
        self.0.lock().get(&target).is_some_and(|count| count.awaited > 0)
    }
}

impl PresenceCount {
    fn count_mut(&mut self, kind: PresenceKind) -> &mut u32 {
        match kind {
            PresenceKind::InMemory => &mut self.kept,
            PresenceKind::Pending => &mut self.awaited,
        }
    }
}

impl Drop for PresenceGuard {
    fn drop(&mut self) {
        let mut targets = self.targets.0.lock();
        let Some(count) = targets.get_mut(&self.target) else { return };
        *count.count_mut(self.kind) -= 1;
        if *count == PresenceCount::default() {
            targets.remove(&self.target);
        }
        // A burst must not keep its memory for ever.
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
    fn a_target_is_present_as_long_as_a_guard_of_it_lives() {
        let present = Arc::new(PresentTargets::default());
        let (one, two) =
            (present.register(1, PresenceKind::InMemory), present.register(1, PresenceKind::Pending));
        let other = present.register(2, PresenceKind::InMemory);
        assert!(present.is_pending(1) && !present.is_pending(2));
        drop(one);
        assert!(present.has(1) && present.has(2) && !present.has(3));
        drop(two);
        assert!(!present.has(1) && present.has(2));
        drop(other);
        assert!(present.0.lock().is_empty());
    }
}
