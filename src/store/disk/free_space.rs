//! Free space on the volume: the cache must not fill it, and the database does not shrink by itself.
//!
//! Owns: how much is left free, and the actions when it is not: evict, then recreate the cache, then wait.
//! Never touches: `store.disk`, a separate bound of the cache.

use std::path::Path;

/// Kept free on a volume of ordinary size.
const LEAST_FREE: u64 = 256 << 20;
/// A twentieth of a large volume would be more than necessary.
const MOST_FREE: u64 = 2 << 30;
/// The database may take this much besides twice the bound before it is recreated.
const DATABASE_FLOOR: u64 = 64 << 20;

/// Size and free space of a volume, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct FsUsage {
    pub(super) total: u64,
    pub(super) free: u64,
}

/// Measures the volume of a directory; `None` where the system does not provide it.
pub(super) type Measure = fn(&Path) -> Option<FsUsage>;

/// Measures with `statvfs`.
pub(super) fn measure(dir: &Path) -> Option<FsUsage> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    let block = stat.f_frsize.max(1);
    // Space reserved for the superuser is not counted as free.
    Some(FsUsage { total: stat.f_blocks.saturating_mul(block), free: stat.f_bavail.saturating_mul(block) })
}

impl FsUsage {
    /// Whether less is free than should be.
    pub(super) fn is_short(self) -> bool {
        self.free < self.reserve()
    }

    /// A twentieth within bounds, and no more than a quarter of a small volume.
    fn reserve(self) -> u64 {
        (self.total / 20).clamp(LEAST_FREE, MOST_FREE).min(self.total / 4)
    }
}

/// Action on a lack of space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PressureAction {
    /// None: there is enough space.
    Normal,
    /// Evict half of the entries, and write nothing meanwhile.
    Evict,
    /// Recreate the cache: eviction frees files, not the database.
    Rebuild,
    /// Write nothing: other data fills the volume.
    Wait,
}

/// The last action taken. Measurements are 10 s apart, so that each action has time to help.
#[derive(Debug, Default)]
pub(super) struct SpacePressure {
    last: Option<PressureAction>,
}

impl SpacePressure {
    /// The action to take now.
    pub(super) fn step(&mut self, volume: Option<FsUsage>) -> PressureAction {
        let short = volume.is_some_and(FsUsage::is_short);
        let step = match self.last {
            _ if !short => PressureAction::Normal,
            None | Some(PressureAction::Normal) => PressureAction::Evict,
            Some(PressureAction::Evict) => PressureAction::Rebuild,
            Some(PressureAction::Rebuild | PressureAction::Wait) => PressureAction::Wait,
        };
        self.last = Some(step);
        step
    }

    /// Whether writes are suspended.
    pub(super) fn is_active(&self) -> bool {
        self.last.is_some_and(|step| step != PressureAction::Normal)
    }
}

/// Whether the database is so much larger than its content that it must be recreated.
pub(super) fn is_bloated(database: u64, bound: u64) -> bool {
    database > bound.saturating_mul(2).saturating_add(DATABASE_FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_twentieth_is_kept_free_within_bounds() {
        let short = |total, free| FsUsage { total, free }.is_short();
        assert!(short(20 * GIB, GIB - 1) && !short(20 * GIB, GIB));
        assert!(short(GIB, LEAST_FREE - 1) && !short(GIB, LEAST_FREE));
        assert!(short(1000 * GIB, MOST_FREE - 1) && !short(1000 * GIB, MOST_FREE));
        assert!(short(16 << 20, (4 << 20) - 1) && !short(16 << 20, 4 << 20));
        assert!(!short(0, 0), "a volume of unknown size is not short");
    }

    #[test]
    fn a_shortage_is_handled_step_by_step_until_it_ends() {
        let full = Some(FsUsage { total: 20 * GIB, free: 0 });
        let empty = Some(FsUsage { total: 20 * GIB, free: 20 * GIB });
        let mut pressure = SpacePressure::default();
        let steps: Vec<_> = [empty, full, full, full, full, empty, full, None]
            .map(|volume| (pressure.step(volume), pressure.is_active()))
            .into();
        let expected = [
            (PressureAction::Normal, false),
            (PressureAction::Evict, true),
            (PressureAction::Rebuild, true),
            (PressureAction::Wait, true),
            (PressureAction::Wait, true),
            (PressureAction::Normal, false),
            (PressureAction::Evict, true),
            (PressureAction::Normal, false),
        ];
        assert_eq!(steps, expected);
    }
}
