//! The progress of a consistency check, which the writer keeps between two slices.
//!
//! Owns: the position and the body files seen so far. Never touches: the disk (`consistency`).

use std::collections::HashSet;

use sled::IVec;

use crate::store::disk::body_file::BodyFileName;

/// A check in progress.
#[derive(Default)]
pub(super) struct Check {
    pub(super) stage: Stage,
    pub(super) after: Option<IVec>,
    /// The body files that entries name.
    pub(super) named: HashSet<u64>,
}

#[derive(Default, Clone, Copy)]
pub(super) enum Stage {
    #[default]
    Entries,
    Expiries,
    Variants,
    /// The files of this shard are next.
    Files(u16),
}

impl Check {
    /// Records a body file that was written during the check.
    pub(super) fn created(&mut self, name: BodyFileName) {
        self.named.insert(name.number);
    }
}
