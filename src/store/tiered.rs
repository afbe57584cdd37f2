//! The store: memory over disk, and what was invalidated over both.
//!
//! Owns: which tier is asked when, taking hold of the directory and letting go of it.
//! Never touches: how a tier keeps what it keeps.

mod disk_tier;
mod unwritten;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use crate::clock::Clock;
use crate::key::CacheKey;
use crate::store::disk::DiskLookup;
use crate::store::generations::{
    Change, Epoch, Generations, InvalidationWatch, PurgeKind, PurgeScope, Snapshot, Validity,
};
use crate::store::memory::Memory;
use crate::store::presence::PresenceKind;
use crate::store::state_db::{RowOwner, RowSource, Secret};
use crate::store::tiered::disk_tier::DiskTier;
use crate::store::tiered::unwritten::UnwrittenEntries;
use crate::store::{EntryId, EntryInfo, Health, Lookup, Store, StoreQuery, StoreUsage, is_newer};
use crate::stored::StoredResponse;
use crate::stored::evicted_bodies::EvictedBodies;
use crate::telemetry::{Telemetry, TierTotals};

/// What a store is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory.
    pub path: PathBuf,
    /// Bytes of the memory tier.
    pub memory: usize,
    /// Bytes of the disk tier; zero: memory alone. Of the directory then only what another version of larder
    /// cached there is touched: it is removed.
    pub disk: u64,
    /// Bytes of the largest body.
    pub max_object: usize,
    /// How often what is of no more use is swept from the disk.
    pub sweep_every: Duration,
    /// [`disk::Settings::secret`](crate::store::disk::Settings::secret).
    pub secret: Secret,
}

/// How many body files are read at once.
const READERS: usize = 64;

/// Memory over disk.
pub struct TieredStore {
    memory: Memory,
    generations: Arc<Generations>,
    clock: Clock,
    /// Whether there is a disk that this larder has not opened yet and will: what was invalidated before
    /// must hold for it.
    to_be_opened: AtomicBool,
    /// Whoever reads a body file holds the one that its key leads to.
    readers: [tokio::sync::Mutex<()>; READERS],
    /// `None`: memory alone.
    deep: ArcSwapOption<DiskTier>,
    /// What the disk does not know of, while it cannot be asked.
    unwritten: UnwrittenEntries,
    /// Why memory is alone, where it should not be. Held while something is invalidated or the disk
    /// is taken hold of, so that no invalidation falls between the two.
    alone: Mutex<Option<String>>,
}

impl TieredStore {
    /// Opens a store. What is on disk is there at once, or once another larder lets go of it; until
    /// then memory serves alone.
    pub fn open(settings: Settings, clock: Clock, account: &Arc<Telemetry>) -> Arc<Self> {
        Self::beside(settings, clock, account, Vec::new())
    }

    /// The same, whose state keeps the rows of these too.
    pub fn beside(
        settings: Settings,
        clock: Clock,
        account: &Arc<Telemetry>,
        lasting: Vec<(RowOwner, Arc<dyn RowSource>)>,
    ) -> Arc<Self> {
        let generations = Arc::new(Generations::new(clock.now()));
        let memory = Memory::new(settings.memory, settings.max_object, Arc::clone(&generations));
        let (deep, alone) = (ArcSwapOption::empty(), Mutex::default());
        let readers = std::array::from_fn(|_| tokio::sync::Mutex::default());
        let has_disk = settings.disk > 0;
        let to_be_opened = AtomicBool::new(has_disk);
        let unwritten = UnwrittenEntries::default();
        let tiers = Arc::new(Self {
            memory,
            generations,
            clock,
            to_be_opened,
            readers,
            deep,
            unwritten,
            alone,
        });
        let weak = Arc::downgrade(&tiers);
        account.watch_condition(move || {
            weak.upgrade().is_none_or(|tiers| tiers.condition() == Health::Good)
        });
        tiers.report("memory", account, |tiers| tiers.memory.totals());
        if has_disk {
            tiers.report("disk", account, Self::disk_totals);
            disk_tier::open_or_wait(&tiers, settings, account, lasting);
        } else {
            disk_tier::leave_nothing_old(&settings.path, tiers.clock.now());
        }
        tiers
    }

    /// The bytes of bodies that memory has let go of and clients still have.
    pub fn lent(&self) -> EvictedBodies {
        self.memory.lent()
    }

    /// Has the state ask soon for the rows that changed.
    pub fn nudge(&self) {
        if let Some(deep) = &*self.deep.load() {
            deep.state.nudge();
        }
    }

    fn report(
        self: &Arc<Self>,
        tier: &'static str,
        account: &Telemetry,
        totals: impl Fn(&Self) -> StoreUsage + Send + Sync + 'static,
    ) {
        let tiers = Arc::downgrade(self);
        account.watch_store(tier, move || {
            let StoreUsage { entries, bytes, evictions } =
                tiers.upgrade().map(|tiers| totals(&tiers)).unwrap_or_default();
            TierTotals { entries, bytes, evictions }
        });
    }

    /// [`LimitStorage::stall`](crate::store::disk::LimitStorage::stall).
    #[doc(hidden)]
    pub fn stall(&self, until: Receiver<()>) {
        if let Some(deep) = &*self.deep.load() {
            deep.disk.stall(until);
        }
    }

    fn disk_totals(&self) -> StoreUsage {
        self.deep.load().as_ref().map(|deep| deep.disk.totals()).unwrap_or_default()
    }

    fn validity(&self, key: &CacheKey, mark: Epoch) -> Validity {
        self.generations.validity(key.target_id(), mark)
    }

    /// What was read from the disk, kept in memory too. Memory has the last word: it knows what was
    /// replaced or purged meanwhile. Where it had no room, what was read answers all the same.
    fn promote(
        &self,
        wanted: StoreQuery<'_>,
        mark: Epoch,
        read: Option<Arc<StoredResponse>>,
    ) -> Lookup {
        if let Some(stored) = &read {
            self.memory.put(wanted.key, Arc::clone(stored), mark);
        }
        match (self.memory.get(wanted), read, self.validity(wanted.key, mark)) {
            (found @ Lookup::Found(_), _, _) => found,
            (_, Some(stored), Validity::Current) => Lookup::Found(stored),
            (_, Some(stored), Validity::Outdated(at)) => Lookup::Found(stored.outdated(at).into()),
            (nothing, _, _) => nothing,
        }
    }

    /// What the disk holds is usable from now on.
    fn attach_disk(&self, deep: Arc<DiskTier>, kept: Snapshot) {
        let mut alone = self.alone.lock();
        let kept = self.generations.adopt(kept, self.clock.now());
        deep.state.replace(Snapshot { all: self.trusted(kept.all), ..kept });
        self.deep.store(Some(deep));
        *alone = None;
        drop(alone);
        self.catch_up(usize::MAX);
    }

    fn write(
        &self,
        deep: &DiskTier,
        key: &CacheKey,
        stored: &Arc<StoredResponse>,
        mark: Epoch,
        until: Option<SystemTime>,
    ) {
        let presence = self.generations.enter(key.target_id(), PresenceKind::Awaited);
        deep.disk.put(key, stored, (mark, self.generations.so_far()), until, presence);
    }

    /// Invalidates, and has that kept. Under the lock of `alone`.
    fn invalidated(&self, reach: PurgeScope, kind: PurgeKind, deep: Option<&DiskTier>) {
        let change = self.generations.invalidate(reach, kind, self.clock.now());
        let forgotten = self.generations.is_full().then(|| self.forget(deep));
        let Some(deep) = deep else { return };
        match forgotten {
            Some(all) => deep.state.replace(Snapshot { all: self.trusted(all.all), ..all }),
            None if reach == PurgeScope::All => {
                let generation = self.trusted(change.generation);
                deep.state.keep(Change { generation, ..change });
            }
            None => deep.state.keep(change),
        }
    }

    /// Whether anything of `target` is kept, waited for, or on a disk that cannot be looked at.
    fn may_hold(&self, target: u128, deep: Option<&DiskTier>) -> bool {
        let to_come = self.to_be_opened.load(Ordering::Relaxed);
        self.generations.is_present(target)
            || deep.map_or(to_come, |deep| deep.disk.may_hold(target))
    }

    fn forget(&self, deep: Option<&DiskTier>) -> Snapshot {
        self.memory.drop_gone();
        let to_come = self.to_be_opened.load(Ordering::Relaxed);
        // What memory holds after that is newer than its generation, unless that was soft.
        self.generations.forget(|target, generation| {
            let here = if generation.is_hard() {
                self.generations.is_awaited(target)
            } else {
                self.generations.is_present(target)
            };
            let newest = generation.newest();
            here || deep.map_or(to_come, |deep| deep.disk.may_hold_before(target, newest))
        })
    }

    /// Memory serves alone until the disk can be opened.
    fn wait_alone(&self, why: String) {
        *self.alone.lock() = Some(why);
    }

    /// Memory serves alone for as long as this larder lives.
    fn run_memory_only(&self, why: String) {
        self.to_be_opened.store(false, Ordering::Relaxed);
        self.wait_alone(why);
    }
}

#[async_trait]
impl Store for TieredStore {
    fn get(&self, wanted: StoreQuery<'_>) -> Lookup {
        match self.memory.get(wanted) {
            found @ Lookup::Found(_) => found,
            _ if self.deep.load().is_some() => Lookup::Deeper,
            nothing @ (Lookup::OtherVariants(_) | Lookup::Nothing | Lookup::Deeper) => nothing,
        }
    }

    async fn load(&self, wanted: StoreQuery<'_>) -> Lookup {
        let in_memory = self.memory.get(wanted);
        let Some(deep) = self.deep.load_full() else { return in_memory };
        // What is read is kept in memory: it must not be invalidated unseen between the two.
        let _watch = self.generations.enter(wanted.key.target_id(), PresenceKind::Awaited);
        deep.disk.opened().await;
        self.catch_up(unwritten::BATCH);
        let so_far = self.generations.so_far();
        if let Some((stored, mark)) = deep.disk.awaiting(wanted, so_far) {
            return self.promote(wanted, mark, Some(stored));
        }
        if self.unwritten.may_have(wanted.key) {
            return in_memory;
        }
        let record = match deep.disk.find(wanted, so_far) {
            DiskLookup::Found(record) => record,
            DiskLookup::OtherVariants(variant) if matches!(in_memory, Lookup::Nothing) => {
                return Lookup::OtherVariants(variant);
            }
            DiskLookup::OtherVariants(_) | DiskLookup::Nothing => return in_memory,
        };
        if self.validity(wanted.key, record.mark()) == Validity::Gone {
            return in_memory;
        }
        if record.is_inline() {
            let read = deep.disk.read(&record);
            return self.promote(wanted, record.mark(), read);
        }
        // Of many who want the same large body one reads the file.
        let turn = usize::try_from(wanted.key.id() % READERS as u128).unwrap_or_default();
        let _turn = self.readers[turn].lock().await;
        if let found @ Lookup::Found(_) = self.memory.get(wanted) {
            return found;
        }
        let mark = record.mark();
        let read = spawn_blocking(move || deep.disk.read(&record)).await;
        self.promote(wanted, mark, read.unwrap_or_default())
    }

    fn watch(&self, target: u128) -> InvalidationWatch {
        self.generations.watch(target, self.clock.now())
    }

    fn is_newer(&self, one: u64, other: u64) -> bool {
        self.generations.pass(self.clock.now());
        is_newer(one, other, self.generations.so_far())
    }

    fn is_current(&self, target: u128, mark: Epoch) -> bool {
        self.generations.validity(target, mark) == Validity::Current
    }

    fn put(
        &self,
        key: &CacheKey,
        stored: Arc<StoredResponse>,
        mark: Epoch,
        until: Option<SystemTime>,
    ) -> bool {
        self.generations.pass(self.clock.now());
        let is_newest = self.memory.put(key, Arc::clone(&stored), mark);
        match &*self.deep.load() {
            _ if !is_newest => {}
            Some(deep) => self.write(deep, key, &stored, mark, until),
            None => self.lost(key, &stored, mark),
        }
        is_newest
    }

    fn invalidate(&self, reach: PurgeScope, kind: PurgeKind) -> bool {
        let _alone = self.alone.lock();
        let deep = self.deep.load();
        let deep = deep.as_deref();
        if matches!(reach, PurgeScope::Target(target) if !self.may_hold(target, deep)) {
            return false;
        }
        self.invalidated(reach, kind, deep);
        let Some(deep) = deep else { return true };
        match (reach, kind) {
            (_, PurgeKind::Soft | PurgeKind::Superseded) => {}
            (PurgeScope::Target(target), PurgeKind::Hard) => deep.disk.remove_target(target),
            (PurgeScope::All, PurgeKind::Hard) => deep.disk.clear(),
        }
        true
    }

    fn may_keep(&self, target: u128) -> bool {
        let to_come = self.to_be_opened.load(Ordering::Relaxed);
        let on_disk = |deep: &Arc<DiskTier>| deep.disk.may_hold(target);
        self.generations.keeps(target) || self.deep.load().as_ref().map_or(to_come, on_disk)
    }

    async fn flush(&self) -> Result<(), String> {
        match self.deep.load_full() {
            Some(deep) => deep.state.flush().await,
            // Memory alone by choice: what is stored does not outlive the process either.
            None => self.alone.lock().clone().map_or(Ok(()), Err),
        }
    }

    async fn list(
        &self,
        after: Option<EntryId>,
        limit: usize,
        target: Option<u128>,
    ) -> Vec<EntryInfo> {
        let mut all: BTreeMap<EntryId, EntryInfo> = BTreeMap::new();
        if let Some(deep) = self.deep.load_full() {
            let generations = Arc::clone(&self.generations);
            let on_disk = spawn_blocking(move || deep.list(&generations, after, limit, target));
            for listed in on_disk.await.unwrap_or_default() {
                all.insert(listed.place, listed);
            }
        }
        for listed in self.memory.list(target) {
            if after.is_none_or(|after| listed.place > after) {
                let on_disk = all.contains_key(&listed.place);
                all.insert(listed.place, EntryInfo { on_disk, ..listed });
            }
        }
        all.into_values().take(limit).collect()
    }

    fn condition(&self) -> Health {
        let deep = self.deep.load();
        match (&*deep, &*self.alone.lock()) {
            (Some(deep), _) => deep.condition(),
            (None, Some(why)) => Health::MemoryOnly(why.clone()),
            (None, None) => Health::Good,
        }
    }

    async fn release(&self) {
        self.catch_up(usize::MAX);
        let deep = {
            let mut alone = self.alone.lock();
            let deep = self.deep.swap(None);
            self.to_be_opened.store(false, Ordering::Relaxed);
            if deep.is_some() || alone.is_some() {
                *alone = Some("this larder has let go of its store".to_owned());
            }
            deep
        };
        if let Some(deep) = deep {
            deep.close().await;
        }
    }
}

#[cfg(test)]
mod tests;
