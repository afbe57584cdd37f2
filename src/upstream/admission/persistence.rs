//! Limits that outlive the process: windows of a minute and more, the counts of the ban guards, firm
//! holds.
//!
//! Owns: which rows change, which are of no more use, and that a call of a long window is on disk before
//! it goes out. Never touches: the disk; when a call goes out.

mod row;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use tokio::time::timeout;

use crate::telemetry::cost::UsageRow;
use crate::upstream::admission::persistence::row::{RowKey, RowKind, SavedCooldowns};
use crate::upstream::admission::registry::UpstreamRegistry;
use crate::upstream::admission::state::{LimiterState, MOST, UpstreamState, entry};
use crate::upstream::admission::wait_queue::WaitQueue;
use crate::upstream::cooldown::CooldownScope;
use crate::upstream::rate_limiter::SlidingWindow;

/// How many holds of an upstream outlive the process.
const MOST_HOLDS: usize = 512;

/// How often rows that are of no more use are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How long a call waits for the disk: a disk that hangs costs a limit its memory, and no answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The place where limits are kept. It asks [`UpstreamRegistry::changed`] for the rows.
#[async_trait]
pub trait LimitStore: fmt::Debug + Send + Sync {
    /// Returns once all that changed before is on disk, or if it will not get there.
    async fn settle(&self);

    /// The same without waiting.
    fn nudge(&self);
}

/// The parts of an upstream's limits that changed since they were written.
#[derive(Debug, Default)]
pub(super) struct UnsavedLimits {
    pub(super) windows: BTreeSet<u128>,
    pub(super) guard: bool,
    pub(super) holds: bool,
    /// The windows that the last row was written of.
    written: Vec<u128>,
}

impl UnsavedLimits {
    /// The window of a credential is to be written. Where no disk ever asks, those of windows that were
    /// forgotten meanwhile are dropped.
    pub(super) fn window(
        &mut self,
        credential: u128,
        windows: &HashMap<u128, (SlidingWindow, WaitQueue)>,
    ) {
        if self.windows.len() >= MOST {
            self.windows.retain(|one| windows.contains_key(one));
        }
        self.windows.insert(credential);
    }
}

/// The rows on disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    rows: BTreeSet<RowKey>,
    swept: Option<Instant>,
    /// Nothing is counted ahead any more: this larder lets go of the disk.
    last: bool,
    /// It was told that the disk does not keep up.
    told: bool,
}

impl UpstreamRegistry {
    /// Limits are kept there from now on.
    pub fn keep_in(&self, keeping: Arc<dyn LimitStore>) {
        // There is one store for a process.
        let _kept_already = self.keeping.set(keeping);
    }

    /// Returns once what has changed is on disk, or soon if the disk does not keep up.
    pub(super) async fn settle(&self) {
        let Some(keeping) = self.keeping.get() else { return };
        let settled = timeout(PATIENCE, keeping.settle()).await;
        if settled.is_err() && !std::mem::replace(&mut self.disk.lock().told, true) {
            tracing::warn!("The disk is slow: calls go out before it knows of them");
        }
    }

    /// Has the changes written soon.
    pub(super) fn nudge(&self) {
        if let Some(keeping) = self.keeping.get() {
            keeping.nudge();
        }
    }

    /// This larder lets go of the disk: the rows that follow are the last, and count nothing ahead.
    pub fn close(&self) {
        self.disk.lock().last = true;
        for (_, traffic) in self.all() {
            let mut state = traffic.state.lock();
            let LimiterState { windows, unsaved, .. } = &mut *state;
            unsaved.windows.extend(windows.keys());
        }
    }

    /// The rows that changed since the last call of this; those of the last call are on disk by now.
    pub fn changed(&self, date: SystemTime, now: Instant) -> Vec<UsageRow> {
        let mut disk = self.disk.lock();
        let sweeps =
            disk.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        let (mut rows, mut alive) = (Vec::new(), BTreeSet::new());
        for (configured, traffic) in self.all() {
            let key = |what| RowKey { configured, name: Arc::clone(&traffic.name), what };
            let mut state = traffic.state.lock();
            state.flushed();
            for (what, value) in state.written(disk.last, date, now) {
                rows.push((key(what), value));
            }
            if sweeps {
                alive.extend(state.alive(now).into_iter().map(key));
            }
        }
        if sweeps {
            disk.swept = Some(now);
            rows.extend(disk.rows.difference(&alive).map(|key| (key.clone(), None)));
        }
        for (key, value) in &rows {
            match value {
                Some(_) => drop(disk.rows.insert(key.clone())),
                None => drop(disk.rows.remove(key)),
            }
        }
        rows.into_iter().map(|(key, value)| UsageRow { key: key.encode(), value }).collect()
    }

    /// Adds the rows of an earlier larder to all that happened since this one started. Returns how many
    /// of them could not be read.
    pub fn restore<'a>(
        &self,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        date: SystemTime,
        now: Instant,
    ) -> usize {
        let mut unread = 0;
        for (key, value) in rows {
            let restored = RowKey::decode(key).is_some_and(|key| {
                let traffic = self.by_name(&key.name, key.configured, now);
                let restored = restored(&mut traffic.state.lock(), key.what, value, date, now);
                self.disk.lock().rows.insert(key);
                restored.is_some()
            });
            unread += usize::from(!restored);
        }
        unread
    }

    /// All traffics, and whether a configured upstream is theirs.
    fn all(&self) -> Vec<(bool, Arc<UpstreamState>)> {
        let named: Vec<_> = self.named.lock().values().cloned().collect();
        let unnamed: Vec<_> = self.unnamed.lock().values().cloned().collect();
        let named = named.into_iter().map(|traffic| (true, traffic));
        named.chain(unnamed.into_iter().map(|traffic| (false, traffic))).collect()
    }
}

fn restored(
    state: &mut LimiterState,
    what: RowKind,
    value: &[u8],
    date: SystemTime,
    now: Instant,
) -> Option<()> {
    match what {
        RowKind::Window(credential) => {
            let kept = row::read_window(value, date)?;
            let (window, _) =
                entry(&mut state.windows, credential, now, || SlidingWindow::new(kept.rate));
            window.adopt(&kept, now);
            // By this larder's clock, should it differ from the one that the row was dated by.
            state.unsaved.windows.insert(credential);
        }
        RowKind::Guard => {
            state.guard.adopt(&row::read_guard(value, date)?, now);
            state.unsaved.guard = true;
        }
        RowKind::Holds => {
            let SavedCooldowns { all, shapes } = row::read_holds(value, date)?;
            for kept in &all {
                state.holds.adopt(kept, now);
            }
            for (shape, bucket) in shapes {
                state.buckets.entry(shape).or_insert(bucket);
            }
            state.unsaved.holds = true;
        }
    }
    Some(())
}

impl LimiterState {
    /// The rows of the last time are on disk.
    fn flushed(&mut self) {
        for credential in std::mem::take(&mut self.unsaved.written) {
            if let Some((window, _)) = self.windows.get_mut(&credential) {
                window.flushed();
            }
        }
    }

    /// The rows to write; `None`: the row is to go.
    fn written(
        &mut self,
        last: bool,
        date: SystemTime,
        now: Instant,
    ) -> Vec<(RowKind, Option<Vec<u8>>)> {
        let mut rows = Vec::new();
        for credential in std::mem::take(&mut self.unsaved.windows) {
            let window = self.windows.get_mut(&credential);
            let kept = window.and_then(|(window, _)| window.kept(last, now));
            rows.push((RowKind::Window(credential), kept.map(|kept| row::window(&kept, date))));
            self.unsaved.written.push(credential);
        }
        if std::mem::take(&mut self.unsaved.guard) {
            let kept = self.guard.kept(now);
            rows.push((RowKind::Guard, kept.map(|kept| row::guard(&kept, date))));
        }
        if std::mem::take(&mut self.unsaved.holds) {
            let kept = self.kept_holds(now);
            let any = !kept.all.is_empty();
            rows.push((RowKind::Holds, any.then(|| row::holds(&kept, date))));
        }
        rows
    }

    /// Which rows are of any use.
    fn alive(&self, now: Instant) -> Vec<RowKind> {
        let windows = self.windows.iter().filter(|(_, (window, _))| !window.is_over(now));
        let mut alive: Vec<_> =
            windows.map(|(credential, _)| RowKind::Window(*credential)).collect();
        alive.extend(self.guard.kept(now).map(|_| RowKind::Guard));
        let holds = self.holds.kept(1, now);
        alive.extend(holds.first().map(|_| RowKind::Holds));
        alive
    }

    /// Calls of this shape belong to a bucket that is held.
    pub(super) fn held_after(&mut self, bucket: u128, shape: u64) {
        if self.held_shapes.len() >= MOST {
            let holds = &self.holds;
            self.held_shapes.retain(|bucket, _| holds.is_firm(CooldownScope::Bucket(*bucket)));
        }
        if self.held_shapes.len() < MOST {
            self.held_shapes.insert(bucket, shape);
        }
    }

    /// The holds to be kept. That of a bucket is of use only with the calls that belong to it.
    fn kept_holds(&mut self, now: Instant) -> SavedCooldowns {
        let all = self.holds.kept(MOST_HOLDS, now);
        let is_held =
            |bucket: &u128| all.iter().any(|one| one.reach == CooldownScope::Bucket(*bucket));
        self.held_shapes.retain(|bucket, _| is_held(bucket));
        let shape = |shape: &u64| Some((*shape, self.buckets.get(shape)?.clone()));
        let shapes: BTreeSet<_> = self.held_shapes.values().copied().collect();
        let shapes = shapes.iter().filter_map(shape).collect();
        SavedCooldowns { all, shapes }
    }
}

#[cfg(test)]
mod tests;
