//! Limits that are stored across restarts: windows of a minute and more, the counts of ban guards, firm
//! cooldowns.
//!
//! Owns: which rows changed, which can be deleted, and that a call in a long window is counted on disk before
//! it goes out. Never touches: the disk; when a call goes out.

pub(super) mod row;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;

use crate::telemetry::cost::StateRow;
use crate::upstream::admission::MAX_LIMITS;
use crate::upstream::admission::cooldown::CooldownScope;
use crate::upstream::admission::limit_map::entry;
use crate::upstream::admission::limit_store::LimitStore;
use crate::upstream::admission::persistence::row::{RowKey, RowKind, SavedCooldowns};
use crate::upstream::admission::rate_limiter::SlidingWindow;
use crate::upstream::admission::registry::UpstreamRegistry;
use crate::upstream::admission::state::{LimiterState, UpstreamState};

/// The maximum number of cooldowns of an upstream that are stored.
const MAX_COOLDOWNS: usize = 512;

/// The interval between searches for rows to delete.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How long a call waits for the disk. If the disk hangs, limits may be lost at a restart, but no response
/// is.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

impl UpstreamRegistry {
    /// Sets the storage for limits.
    pub fn set_store(&self, store: Arc<dyn LimitStore>) {
        // A process has one storage.
        let _already_set = self.store.set(store);
    }

    /// Returns once the changes are on disk, or after a timeout if the disk is slow.
    pub(super) async fn flush(&self) {
        let Some(store) = self.store.get() else { return };
        let flushed = timeout(FLUSH_TIMEOUT, store.flush()).await;
        if flushed.is_err() && !std::mem::replace(&mut self.disk.lock().warned_slow, true) {
            tracing::warn!("The disk is slow: calls go out before their counts are on disk");
        }
    }

    /// Requests that the changes are written soon.
    pub(super) fn flush_soon(&self) {
        if let Some(store) = self.store.get() {
            store.flush_soon();
        }
    }

    /// Releases the storage: the next rows are the last ones and count no calls ahead.
    pub fn close(&self) {
        self.disk.lock().closing = true;
        for (_, upstream) in self.all() {
            let mut state = upstream.limiter.lock();
            let LimiterState { windows, unsaved, .. } = &mut *state;
            unsaved.windows.extend(windows.keys());
        }
    }

    /// The rows that changed since the last call of this function. The rows of the last call are on disk by
    /// now.
    pub fn changed_rows(&self, date: SystemTime, now: Instant) -> Vec<StateRow> {
        let mut disk = self.disk.lock();
        let sweep_due =
            disk.last_sweep.is_none_or(|last_sweep| now.saturating_duration_since(last_sweep) >= SWEEP_EVERY);
        let (mut rows, mut live) = (Vec::new(), BTreeSet::new());
        for (configured, upstream) in self.all() {
            let key = |kind| RowKey { configured, name: Arc::clone(&upstream.name), kind };
            let mut state = upstream.limiter.lock();
            state.mark_flushed();
            for (kind, value) in state.rows_to_write(disk.closing, date, now) {
                rows.push((key(kind), value));
            }
            if sweep_due {
                live.extend(state.live_rows(now).into_iter().map(key));
            }
        }
        if sweep_due {
            disk.last_sweep = Some(now);
            rows.extend(disk.rows.difference(&live).map(|key| (key.clone(), None)));
        }
        for (key, value) in &rows {
            match value {
                Some(_) => drop(disk.rows.insert(key.clone())),
                None => drop(disk.rows.remove(key)),
            }
        }
        rows.into_iter().map(|(key, value)| StateRow { key: key.encode(), value }).collect()
    }

    /// Adds the rows of an earlier process to the state of this one. Returns the number of unreadable rows.
    pub fn restore<'a>(
        &self,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        date: SystemTime,
        now: Instant,
    ) -> usize {
        let mut unreadable = 0;
        for (key, value) in rows {
            let restored = RowKey::decode(key).is_some_and(|key| {
                let upstream = self.by_name(&key.name, key.configured, now);
                let restored = restore_row(&mut upstream.limiter.lock(), key.kind, value, date, now);
                self.disk.lock().rows.insert(key);
                restored.is_some()
            });
            unreadable += usize::from(!restored);
        }
        unreadable
    }

    /// All upstream states, and whether each belongs to a configured upstream.
    fn all(&self) -> Vec<(bool, Arc<UpstreamState>)> {
        let named: Vec<_> = self.named.lock().values().cloned().collect();
        let unnamed: Vec<_> = self.unnamed.lock().values().cloned().collect();
        let named = named.into_iter().map(|upstream| (true, upstream));
        named.chain(unnamed.into_iter().map(|upstream| (false, upstream))).collect()
    }
}

fn restore_row(
    state: &mut LimiterState,
    kind: RowKind,
    value: &[u8],
    date: SystemTime,
    now: Instant,
) -> Option<()> {
    match kind {
        RowKind::Window(credential) => {
            let saved = row::decode_window(value, date)?;
            let (window, _) = entry(&mut state.windows, credential, now, || SlidingWindow::new(saved.rate));
            window.restore(&saved, now);
            // The row is written again with the date of this process's clock, which may differ from the
            // row's.
            state.unsaved.windows.insert(credential);
        }
        RowKind::BanGuard => {
            state.ban_guard.restore(&row::decode_ban_guard(value, date)?, now);
            state.unsaved.ban_guard = true;
        }
        RowKind::Cooldowns => {
            let SavedCooldowns { all, shapes } = row::decode_cooldowns(value, date)?;
            for saved in &all {
                state.cooldowns.restore(saved, now);
            }
            for (shape, bucket) in shapes {
                state.buckets.entry(shape).or_insert(bucket);
            }
            state.unsaved.cooldowns = true;
        }
    }
    Some(())
}

impl LimiterState {
    /// The rows of the last write are on disk.
    fn mark_flushed(&mut self) {
        for credential in std::mem::take(&mut self.unsaved.last_written) {
            if let Some((window, _)) = self.windows.get_mut(&credential) {
                window.mark_flushed();
            }
        }
    }

    /// The rows to write. `None`: the row is to be deleted.
    fn rows_to_write(
        &mut self,
        closing: bool,
        date: SystemTime,
        now: Instant,
    ) -> Vec<(RowKind, Option<Vec<u8>>)> {
        let mut rows = Vec::new();
        for credential in std::mem::take(&mut self.unsaved.windows) {
            let window = self.windows.get_mut(&credential);
            let saved = window.and_then(|(window, _)| window.take_unsaved(closing, now));
            rows.push((RowKind::Window(credential), saved.map(|saved| row::encode_window(&saved, date))));
            self.unsaved.last_written.push(credential);
        }
        if std::mem::take(&mut self.unsaved.ban_guard) {
            let saved = self.ban_guard.to_save(now);
            rows.push((RowKind::BanGuard, saved.map(|saved| row::encode_ban_guard(&saved, date))));
        }
        if std::mem::take(&mut self.unsaved.cooldowns) {
            let saved = self.cooldowns_to_save(now);
            let any = !saved.all.is_empty();
            rows.push((RowKind::Cooldowns, any.then(|| row::encode_cooldowns(&saved, date))));
        }
        rows
    }

    /// The rows that are still needed.
    fn live_rows(&self, now: Instant) -> Vec<RowKind> {
        let windows = self.windows.iter().filter(|(_, (window, _))| !window.is_over(now));
        let mut live: Vec<_> = windows.map(|(credential, _)| RowKind::Window(*credential)).collect();
        live.extend(self.ban_guard.to_save(now).map(|_| RowKind::BanGuard));
        let cooldowns = self.cooldowns.to_save(1, now);
        live.extend(cooldowns.first().map(|_| RowKind::Cooldowns));
        live
    }

    /// Records that calls of this shape belong to a bucket in a cooldown.
    pub(super) fn remember_bucket_shape(&mut self, bucket: u128, shape: u64) {
        if self.bucket_shapes.len() >= MAX_LIMITS {
            let cooldowns = &self.cooldowns;
            self.bucket_shapes.retain(|bucket, _| cooldowns.is_firm(CooldownScope::Bucket(*bucket)));
        }
        if self.bucket_shapes.len() < MAX_LIMITS {
            self.bucket_shapes.insert(bucket, shape);
        }
    }

    /// The cooldowns to store. The cooldown of a bucket is stored only with the shape of its calls.
    fn cooldowns_to_save(&mut self, now: Instant) -> SavedCooldowns {
        let all = self.cooldowns.to_save(MAX_COOLDOWNS, now);
        let is_saved = |bucket: &u128| all.iter().any(|one| one.scope == CooldownScope::Bucket(*bucket));
        self.bucket_shapes.retain(|bucket, _| is_saved(bucket));
        let shape = |shape: &u64| Some((*shape, self.buckets.get(shape)?.clone()));
        let shapes: BTreeSet<_> = self.bucket_shapes.values().copied().collect();
        let shapes = shapes.iter().filter_map(shape).collect();
        SavedCooldowns { all, shapes }
    }
}

#[cfg(test)]
mod tests;
