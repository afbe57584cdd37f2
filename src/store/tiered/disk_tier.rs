//! The disk tier of a store: a directory that one larder at a time uses.
//!
//! Owns: waiting for the lock, the order of opening and closing. Never touches: entries.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use crate::key::CacheKey;
use crate::store::disk::{self, Disk, DiskObserver};
use crate::store::generations::{Epoch, Generations, Snapshot, Validity};
use crate::store::lock::{Lock, LockError};
use crate::store::state_db::{OpenError, RowOwner, RowSource, StateDb};
use crate::store::tiered::{Settings, TieredStore};
use crate::store::{EntryId, EntryInfo, Health};
use crate::stored::StoredResponse;
use crate::telemetry::Telemetry;

/// Number of unwritten keys that are handled as soon as the disk is open: they must fit the write queue.
const CATCH_UP_ON_OPEN: usize = 1_024;

/// A locked directory.
pub(super) struct DiskTier {
    pub(super) disk: Arc<Disk>,
    pub(super) state: StateDb,
    lock: Mutex<Option<Lock>>,
}

/// Removes caches of other versions of larder where no disk tier does it; they may contain secrets in the
/// clear. If another larder has locked the directory, that one removes them.
pub(super) fn remove_old_versions(path: &Path, now: SystemTime) {
    remove_old_caches(path, || Lock::try_take(path, now));
}

fn remove_old_caches<L, E: fmt::Display>(path: &Path, lock: impl FnOnce() -> Result<L, E>) {
    let cache = path.join("cache");
    if let Err(reason) = disk::remove_old(&cache, lock) {
        tracing::warn!(
            reason = reason,
            place = %cache.display(),
            "A cache of another larder version stays on disk, and may hold secrets in the clear: \
             remove this directory while no larder uses it"
        );
    }
}

/// Locks and opens the directory: now, or as soon as another larder releases it.
pub(super) fn open_or_wait(
    store: &Arc<TieredStore>,
    settings: Settings,
    telemetry: &Arc<Telemetry>,
    row_sources: Vec<(RowOwner, Arc<dyn RowSource>)>,
) {
    match Lock::try_take(&settings.path, store.clock.now()) {
        Ok(lock) => open(store, lock, &settings, telemetry, row_sources),
        Err(in_use @ LockError::InUse { .. }) => {
            if settings.takes_over {
                tracing::info!(
                    "The previous larder still uses the store: running memory-only until it exits"
                );
            } else {
                tracing::warn!("{in_use}: running memory-only until it is free");
            }
            store.set_memory_only(in_use.to_string());
            let (weak, telemetry) = (Arc::downgrade(store), Arc::clone(telemetry));
            let waiter = thread::Builder::new()
                .name("larder-lock".to_owned())
                .spawn(move || wait(&weak, &settings, &telemetry, row_sources));
            if let Err(error) = waiter {
                tracing::error!(%error, "Cannot wait for the store: running memory-only");
                store.run_memory_only(error.to_string());
            }
        }
        Err(failed @ LockError::Io { .. }) => {
            tracing::error!("{failed}: running memory-only");
            store.run_memory_only(failed.to_string());
        }
    }
}

fn wait(
    store: &Weak<TieredStore>,
    settings: &Settings,
    telemetry: &Arc<Telemetry>,
    row_sources: Vec<(RowOwner, Arc<dyn RowSource>)>,
) {
    let now = || store.upgrade().map(|store| store.clock.now());
    match Lock::wait(&settings.path, || now().unwrap_or(std::time::UNIX_EPOCH)) {
        Ok(lock) => {
            // This larder may have stopped meanwhile: the next one that waits takes the lock.
            let Some(store) = store.upgrade() else { return };
            tracing::info!("The store is free: entries on disk are used from now on");
            open(&store, lock, settings, telemetry, row_sources);
        }
        Err(error) => lock_failed(store, &error),
    }
}

fn lock_failed(store: &Weak<TieredStore>, error: &io::Error) {
    tracing::error!(%error, "Cannot wait for the store: running memory-only");
    if let Some(store) = store.upgrade() {
        store.run_memory_only(error.to_string());
    }
}

/// First the purges, then the entries: a purged entry is never served.
fn open(
    store: &Arc<TieredStore>,
    lock: Lock,
    settings: &Settings,
    telemetry: &Arc<Telemetry>,
    row_sources: Vec<(RowOwner, Arc<dyn RowSource>)>,
) {
    let opened = StateDb::open(&settings.path.join("state"), store.clock.now());
    let (state, persisted): (StateDb, Snapshot) = match opened {
        Ok(opened) => opened,
        Err(
            error
            @ (OpenError::NewerFormat { .. } | OpenError::Unavailable { .. } | OpenError::Broken { .. }),
        ) => {
            tracing::error!("{error}: running memory-only");
            remove_old_caches(&settings.path, || Ok::<_, Infallible>(lock));
            return store.run_memory_only(error.to_string());
        }
    };
    restore_costs(&state, telemetry);
    for (owner, row_source) in row_sources {
        restore_rows(&state, owner, row_source);
    }
    let settings = disk::Settings {
        dir: settings.path.join("cache"),
        bytes: settings.disk,
        waiting: queue_bytes(settings),
        sweep_every: settings.sweep_every,
        secret: settings.secret.clone(),
    };
    let weak = Arc::downgrade(store);
    let observer = Box::new(UpperTiers(weak));
    let disk = Disk::start(settings, store.clock.clone(), Arc::clone(telemetry), observer);
    let disk_tier = DiskTier { disk, state, lock: Mutex::new(Some(lock)) };
    store.attach_disk(Arc::new(disk_tier), persisted);
}

/// Forwards events of a disk to the tiers above it.
struct UpperTiers(Weak<TieredStore>);

impl DiskObserver for UpperTiers {
    fn lost(&self, key: &CacheKey, stored: &Arc<StoredResponse>, epoch: Epoch) {
        if let Some(store) = self.0.upgrade() {
            store.lost(key, stored, epoch);
        }
    }

    fn opened(&self) {
        if let Some(store) = self.0.upgrade() {
            store.catch_up(CATCH_UP_ON_OPEN);
        }
    }
}

/// Bytes of the write queue: in proportion to the memory tier, but always enough for the largest response.
fn queue_bytes(settings: &Settings) -> usize {
    const LIMIT: usize = 64 << 20;
    const FIELDS: usize = 128 << 10;
    (settings.memory / 4).min(LIMIT).max(settings.max_object + FIELDS)
}

/// Adds the costs persisted in the state to those counted without it, and persists changes from now on.
fn restore_costs(state: &StateDb, telemetry: &Arc<Telemetry>) {
    let rows = state.take_cost_rows();
    let unreadable = telemetry.cost().restore(rows.iter().map(|(key, value)| (&key[..], &value[..])));
    if unreadable > 0 {
        tracing::error!(
            unread = unreadable,
            "Some of the persisted costs are damaged: budgets have more left than they should"
        );
    }
    let telemetry = Arc::clone(telemetry);
    state.watch_cost_rows(move || telemetry.cost().take_changed_rows());
}

/// Restores the rows that an earlier larder persisted, and persists changes from now on.
fn restore_rows(state: &StateDb, owner: RowOwner, row_source: Arc<dyn RowSource>) {
    let unreadable = row_source.restore(&state.take_rows(owner));
    if unreadable > 0 {
        let subject = match owner {
            RowOwner::Limits => "the cooldowns and counts of upstreams",
            RowOwner::Engine => "the persistent facts about stored responses",
        };
        tracing::warn!(unread = unreadable, "Some of {subject} are damaged: they start empty");
    }
    state.watch_rows(owner, move || row_source.changed());
}

impl DiskTier {
    /// Health of disk and state.
    pub(super) fn health(&self) -> Health {
        match self.state.write_failure() {
            Some(reason) => Health::MemoryOnly(reason),
            None => self.disk.health(),
        }
    }

    /// At most `limit` usable entries after `after`. Blocks.
    pub(super) fn list(
        &self,
        generations: &Generations,
        after: Option<EntryId>,
        limit: usize,
        target: Option<u128>,
    ) -> Vec<EntryInfo> {
        let mut usable = Vec::new();
        let mut after = after;
        while usable.len() < limit {
            let page = self.disk.page(after, limit, target);
            let Some(last) = page.last() else { break };
            after = Some(last.info.id);
            for found in page {
                match generations.validity(found.info.id.target, found.epoch) {
                    Validity::Current => usable.push(found.info),
                    Validity::Outdated(at) => {
                        let stored = Arc::new(found.info.stored.outdated(at));
                        usable.push(EntryInfo { stored, ..found.info });
                    }
                    Validity::Gone => {}
                }
            }
        }
        usable.truncate(limit);
        usable
    }

    /// Writes everything queued, closes, and releases the lock.
    pub(super) async fn close(self: Arc<Self>) {
        self.disk.close().await;
        let closing = spawn_blocking(move || {
            self.state.close();
            drop(self.lock.lock().take());
        });
        if closing.await.is_err() {
            tracing::error!("The state was not closed: what was acknowledged is safe");
        }
    }
}
