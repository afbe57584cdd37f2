//! The directory of a store: held by one larder at a time.
//!
//! Owns: waiting for the lock, the order of opening and closing. Never touches: what is kept.

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

/// Of what the disk does not know so much is seen to as soon as it is open: it must fit what may wait for the disk.
const CAUGHT_UP: usize = 1_024;

/// A directory that is held.
pub(super) struct DiskTier {
    pub(super) disk: Arc<Disk>,
    pub(super) state: StateDb,
    lock: Mutex<Option<Lock>>,
}

/// Without a disk tier nothing would remove what another version of larder cached, secrets in the clear
/// perhaps. Another larder that holds the directory sees to it itself.
pub(super) fn leave_nothing_old(path: &Path, now: SystemTime) {
    remove_old(path, || Lock::try_take(path, now));
}

fn remove_old<H, E: fmt::Display>(path: &Path, hold: impl FnOnce() -> Result<H, E>) {
    let cache = path.join("cache");
    if let Err(why) = disk::remove_old(&cache, hold) {
        tracing::warn!(
            why,
            place = %cache.display(),
            "What another version of larder cached stays on disk, and may hold secrets in the clear: \
             remove this directory while no larder uses it"
        );
    }
}

/// Takes hold of the directory: now, or once another larder lets go of it.
pub(super) fn open_or_wait(
    tiers: &Arc<TieredStore>,
    settings: Settings,
    account: &Arc<Telemetry>,
    lasting: Vec<(RowOwner, Arc<dyn RowSource>)>,
) {
    match Lock::try_take(&settings.path, tiers.clock.now()) {
        Ok(lock) => open(tiers, lock, &settings, account, lasting),
        Err(held @ LockError::Held { .. }) => {
            tracing::warn!("{held}: memory serves alone until then");
            tiers.wait_alone(held.to_string());
            let (weak, account) = (Arc::downgrade(tiers), Arc::clone(account));
            let waiting = thread::Builder::new()
                .name("larder-lock".to_owned())
                .spawn(move || wait(&weak, &settings, &account, lasting));
            if let Err(error) = waiting {
                tracing::error!(%error, "Cannot wait for the store: memory serves alone");
                tiers.run_memory_only(error.to_string());
            }
        }
        Err(failed @ LockError::Io { .. }) => {
            tracing::error!("{failed}: memory serves alone");
            tiers.run_memory_only(failed.to_string());
        }
    }
}

fn wait(
    tiers: &Weak<TieredStore>,
    settings: &Settings,
    account: &Arc<Telemetry>,
    lasting: Vec<(RowOwner, Arc<dyn RowSource>)>,
) {
    let now = || tiers.upgrade().map(|tiers| tiers.clock.now());
    match Lock::wait(&settings.path, || now().unwrap_or(std::time::UNIX_EPOCH)) {
        Ok(lock) => {
            // The larder may be gone by now: the next one in line takes it.
            let Some(tiers) = tiers.upgrade() else { return };
            tracing::info!("The store is free: what is on disk is used from now on");
            open(&tiers, lock, settings, account, lasting);
        }
        Err(error) => not_held(tiers, &error),
    }
}

fn not_held(tiers: &Weak<TieredStore>, error: &io::Error) {
    tracing::error!(%error, "Cannot wait for the store: memory serves alone");
    if let Some(tiers) = tiers.upgrade() {
        tiers.run_memory_only(error.to_string());
    }
}

/// First what was purged, then what is stored: nothing purged is ever served.
fn open(
    tiers: &Arc<TieredStore>,
    lock: Lock,
    settings: &Settings,
    account: &Arc<Telemetry>,
    lasting: Vec<(RowOwner, Arc<dyn RowSource>)>,
) {
    let opened = StateDb::open(&settings.path.join("state"), tiers.clock.now());
    let (state, kept): (StateDb, Snapshot) = match opened {
        Ok(opened) => opened,
        Err(
            error @ (OpenError::Later { .. }
            | OpenError::Unavailable { .. }
            | OpenError::Broken { .. }),
        ) => {
            tracing::error!("{error}: memory serves alone");
            remove_old(&settings.path, || Ok::<_, Infallible>(lock));
            return tiers.run_memory_only(error.to_string());
        }
    };
    keep_ledger(&state, account);
    for (whose, rows) in lasting {
        keep_rows(&state, whose, rows);
    }
    let settings = disk::Settings {
        dir: settings.path.join("cache"),
        bytes: settings.disk,
        waiting: waiting(settings),
        sweep_every: settings.sweep_every,
        secret: settings.secret.clone(),
    };
    let weak = Arc::downgrade(tiers);
    let above = Box::new(UpperTiers(weak));
    let disk = Disk::start(settings, tiers.clock.clone(), Arc::clone(account), above);
    let deep = DiskTier { disk, state, lock: Mutex::new(Some(lock)) };
    tiers.attach_disk(Arc::new(deep), kept);
}

/// The tiers above a disk, as that tells them of itself.
struct UpperTiers(Weak<TieredStore>);

impl DiskObserver for UpperTiers {
    fn lost(&self, key: &CacheKey, stored: &Arc<StoredResponse>, mark: Epoch) {
        if let Some(tiers) = self.0.upgrade() {
            tiers.lost(key, stored, mark);
        }
    }

    fn opened(&self) {
        if let Some(tiers) = self.0.upgrade() {
            tiers.catch_up(CAUGHT_UP);
        }
    }
}

/// Bytes that may wait to be written: in proportion to what memory keeps, but always the largest answer.
fn waiting(settings: &Settings) -> usize {
    const MOST: usize = 64 << 20;
    const FIELDS: usize = 128 << 10;
    (settings.memory / 4).min(MOST).max(settings.max_object + FIELDS)
}

/// What was spent under the state is added to what was spent without it, and kept from now on.
fn keep_ledger(state: &StateDb, account: &Arc<Telemetry>) {
    let rows = state.ledger();
    let unread = account.ledger().restore(rows.iter().map(|(key, value)| (&key[..], &value[..])));
    if unread > 0 {
        tracing::error!(
            unread,
            "Some of what was spent is damaged: budgets have more left than they should"
        );
    }
    let account = Arc::clone(account);
    state.keep_ledger(move || account.ledger().changed());
}

/// What an earlier larder kept goes on, and its changes are kept from now on.
fn keep_rows(state: &StateDb, whose: RowOwner, lasting: Arc<dyn RowSource>) {
    let unread = lasting.restore(&state.rows(whose));
    if unread > 0 {
        let what = match whose {
            RowOwner::Limits => "what was held or counted of upstreams",
            RowOwner::Engine => "what is remembered of stored answers",
        };
        tracing::warn!(unread, "Some of {what} is damaged: it begins anew");
    }
    state.keep_rows(whose, move || lasting.changed());
}

impl DiskTier {
    /// How disk and state are.
    pub(super) fn condition(&self) -> Health {
        match self.state.illness() {
            Some(why) => Health::MemoryOnly(why),
            None => self.disk.condition(),
        }
    }

    /// At most `limit` usable answers behind `after`. Blocks.
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
            after = Some(last.listed.place);
            for found in page {
                match generations.validity(found.listed.place.target, found.mark) {
                    Validity::Current => usable.push(found.listed),
                    Validity::Outdated(at) => {
                        let stored = Arc::new(found.listed.stored.outdated(at));
                        usable.push(EntryInfo { stored, ..found.listed });
                    }
                    Validity::Gone => {}
                }
            }
        }
        usable.truncate(limit);
        usable
    }

    /// Writes what is queued, closes, and lets another larder in.
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
