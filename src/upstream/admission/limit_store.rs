//! The storage for limits as admission control sees it, and the changes that it has not received yet.
//!
//! Owns: the set of changed limits. Never touches: the disk; the format of rows (`persistence`).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Instant;

use async_trait::async_trait;

use crate::upstream::admission::MAX_LIMITS;
use crate::upstream::admission::persistence::row::RowKey;
use crate::upstream::admission::rate_limiter::SlidingWindow;
use crate::upstream::admission::wait_queue::WaitQueue;

/// The storage for limits. It requests the rows from `UpstreamRegistry::changed_rows`.
#[async_trait]
pub trait LimitStore: fmt::Debug + Send + Sync {
    /// Returns once all earlier changes are on disk, or cannot be written.
    async fn flush(&self);

    /// Requests a flush without waiting.
    fn flush_soon(&self);
}

/// The parts of an upstream's limits that changed since they were last written.
#[derive(Debug, Default)]
pub(super) struct UnsavedLimits {
    pub(super) windows: BTreeSet<u128>,
    pub(super) ban_guard: bool,
    pub(super) cooldowns: bool,
    /// The windows whose rows were written last.
    pub(super) last_written: Vec<u128>,
}

impl UnsavedLimits {
    /// Marks the window of a credential as changed. If no storage requests the rows, windows that no longer
    /// exist are dropped.
    pub(super) fn mark_window(
        &mut self,
        credential: u128,
        windows: &HashMap<u128, (SlidingWindow, WaitQueue)>,
    ) {
        if self.windows.len() >= MAX_LIMITS {
            self.windows.retain(|one| windows.contains_key(one));
        }
        self.windows.insert(credential);
    }
}

/// The rows on disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) rows: BTreeSet<RowKey>,
    pub(super) last_sweep: Option<Instant>,
    /// Whether no calls are counted ahead any more, because this process releases the storage.
    pub(super) closing: bool,
    /// Whether the warning about a slow disk was logged.
    pub(super) warned_slow: bool,
}
