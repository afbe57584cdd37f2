//! Room on the volume: a cache must not be what fills it, and the database does not shrink by itself.
//!
//! Owns: how much is left free, and the steps when it is not: evict, then begin anew, then wait.
//! Never touches: `store.disk`, which bounds the cache by itself.

use std::path::Path;

/// Kept free on a volume of ordinary size.
const LEAST_FREE: u64 = 256 << 20;
/// A twentieth of a large volume is more than anybody misses.
const MOST_FREE: u64 = 2 << 30;
/// What the database may take besides twice the bound, before it is begun anew.
const DATABASE_FLOOR: u64 = 64 << 20;

/// A volume's size and what is free of it, bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct FsUsage {
    pub(super) total: u64,
    pub(super) free: u64,
}

/// How the volume of a directory is; `None` where the system does not say.
pub(super) type Measure = fn(&Path) -> Option<FsUsage>;

/// What the system says.
pub(super) fn measure(dir: &Path) -> Option<FsUsage> {
    let said = rustix::fs::statvfs(dir).ok()?;
    let block = said.f_frsize.max(1);
    // What only the system's administrator may use is not free.
    Some(FsUsage {
        total: said.f_blocks.saturating_mul(block),
        free: said.f_bavail.saturating_mul(block),
    })
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

/// What is done about a lack of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PressureAction {
    /// Nothing: there is room.
    Go,
    /// Evict half of what is held, and write nothing meanwhile.
    Evict,
    /// Begin anew: evicting frees files, not the database.
    Rebuild,
    /// Write nothing: others fill the volume.
    Wait,
}

/// What was tried already. It takes measures at most 10 s apart, so that each has time to help.
#[derive(Debug, Default)]
pub(super) struct SpacePressure {
    tried: Option<PressureAction>,
}

impl SpacePressure {
    /// What to do now.
    pub(super) fn step(&mut self, volume: Option<FsUsage>) -> PressureAction {
        let short = volume.is_some_and(FsUsage::is_short);
        let step = match self.tried {
            _ if !short => PressureAction::Go,
            None | Some(PressureAction::Go) => PressureAction::Evict,
            Some(PressureAction::Evict) => PressureAction::Rebuild,
            Some(PressureAction::Rebuild | PressureAction::Wait) => PressureAction::Wait,
        };
        self.tried = Some(step);
        step
    }

    /// Whether nothing may be written.
    pub(super) fn is_on(&self) -> bool {
        self.tried.is_some_and(|step| step != PressureAction::Go)
    }
}

/// Whether the database has grown so far past what is in it that only beginning anew helps.
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
        assert!(!short(0, 0), "what says nothing of itself is not short");
    }

    #[test]
    fn a_shortage_is_met_step_by_step_and_ends_with_it() {
        let full = Some(FsUsage { total: 20 * GIB, free: 0 });
        let empty = Some(FsUsage { total: 20 * GIB, free: 20 * GIB });
        let mut shortage = SpacePressure::default();
        let steps: Vec<_> = [empty, full, full, full, full, empty, full, None]
            .map(|volume| (shortage.step(volume), shortage.is_on()))
            .into();
        let expected = [
            (PressureAction::Go, false),
            (PressureAction::Evict, true),
            (PressureAction::Rebuild, true),
            (PressureAction::Wait, true),
            (PressureAction::Wait, true),
            (PressureAction::Go, false),
            (PressureAction::Evict, true),
            (PressureAction::Go, false),
        ];
        assert_eq!(steps, expected);
    }
}
