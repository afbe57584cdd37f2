//! The store: memory over disk, and the invalidations of both.
//!
//! Owns: the order in which tiers are read, locking and releasing the directory. Never touches: the internals
//! of a tier.

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
use crate::semantics::vary::VariantId;
use crate::store::disk::{DiskLookup, PutCommand};
use crate::store::generations::{
    Change, Epoch, Generations, InvalidationWatch, PurgeKind, PurgeScope, Snapshot, Validity,
};
use crate::store::invalidation_feed::InvalidationFeed;
use crate::store::memory::Memory;
use crate::store::presence::PresenceKind;
use crate::store::state_db::{RowOwner, RowSource, Secret};
use crate::store::tiered::disk_tier::DiskTier;
use crate::store::tiered::unwritten::UnwrittenEntries;
use crate::store::{EntryId, EntryInfo, Health, Lookup, Store, StoreQuery, StoreUsage, is_newer};
use crate::stored::StoredResponse;
use crate::stored::evicted_bodies::EvictedBodies;
use crate::telemetry::{Telemetry, TierTotals};

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory.
    pub path: PathBuf,
    /// Bytes of the memory tier.
    pub memory: usize,
    /// Bytes of the disk tier; zero: memory only. Nothing in the directory is touched then, except that
    /// caches of other versions of larder are removed.
    pub disk: u64,
    /// Bytes of the largest body.
    pub max_object: usize,
    /// How often expired entries are swept from the disk.
    pub sweep_every: Duration,
    /// Whether the directory belongs to a larder that hands over to this one and releases it when it ends.
    pub takes_over: bool,
    /// [`disk::Settings::secret`](crate::store::disk::Settings::secret).
    pub secret: Secret,
}

/// Number of locks for reading body files.
const READERS: usize = 64;

/// Memory over disk.
pub struct TieredStore {
    memory: Memory,
    generations: Arc<Generations>,
    clock: Clock,
    /// Whether there is a disk that this larder has not opened yet and will open: invalidations before that
    /// must apply to it.
    disk_pending: AtomicBool,
    /// The reader of a body file holds the lock that its key maps to.
    read_locks: [tokio::sync::Mutex<()>; READERS],
    /// `None`: memory only.
    disk_tier: ArcSwapOption<DiskTier>,
    /// Entries that are not on disk while the disk cannot be used.
    unwritten: UnwrittenEntries,
    /// The reason for running memory-only although a disk is configured. Locked during an invalidation and
    /// while the disk is attached, so that no invalidation is lost between the two.
    memory_only_reason: Mutex<Option<String>>,
    invalidation_feed: Arc<InvalidationFeed>,
}

impl TieredStore {
    /// Opens a store. The disk is used at once, or as soon as another larder releases it; until then the
    /// store runs memory-only.
    pub fn open(settings: Settings, clock: Clock, telemetry: &Arc<Telemetry>) -> Arc<Self> {
        Self::open_with_rows(settings, clock, telemetry, Vec::new())
    }

    /// The same, with further sources of rows that the state persists.
    pub fn open_with_rows(
        settings: Settings,
        clock: Clock,
        telemetry: &Arc<Telemetry>,
        row_sources: Vec<(RowOwner, Arc<dyn RowSource>)>,
    ) -> Arc<Self> {
        let generations = Arc::new(Generations::new(clock.now()));
        let memory = Memory::new(settings.memory, settings.max_object, Arc::clone(&generations));
        let (disk_tier, memory_only_reason) = (ArcSwapOption::empty(), Mutex::default());
        let read_locks = std::array::from_fn(|_| tokio::sync::Mutex::default());
        let has_disk = settings.disk > 0;
        let disk_pending = AtomicBool::new(has_disk);
        let unwritten = UnwrittenEntries::default();
        let store = Arc::new(Self {
            memory,
            generations,
            clock,
            disk_pending,
            read_locks,
            disk_tier,
            unwritten,
            memory_only_reason,
            invalidation_feed: Arc::default(),
        });
        let weak = Arc::downgrade(&store);
        telemetry.watch_health(move || weak.upgrade().is_none_or(|store| store.health() == Health::Good));
        store.report("memory", telemetry, |store| store.memory.totals());
        if has_disk {
            store.report("disk", telemetry, Self::disk_totals);
            disk_tier::open_or_wait(&store, settings, telemetry, row_sources);
        } else {
            disk_tier::remove_old_versions(&settings.path, store.clock.now());
        }
        store
    }

    /// Bytes of bodies that memory evicted and clients still receive.
    pub fn evicted_bodies(&self) -> EvictedBodies {
        self.memory.evicted_bodies()
    }

    /// Reports every invalidation by [`Store::invalidate`] and [`Store::put`].
    pub fn invalidation_feed(&self) -> &Arc<InvalidationFeed> {
        &self.invalidation_feed
    }

    /// As [`Store::invalidate`], without a report: the subscriber made this invalidation itself.
    pub fn invalidate_unreported(&self, scope: PurgeScope, kind: PurgeKind) -> bool {
        let _guard = self.memory_only_reason.lock();
        let disk_tier = self.disk_tier.load();
        let disk_tier = disk_tier.as_deref();
        if matches!(scope, PurgeScope::Target(target) if !self.may_contain(target, disk_tier)) {
            return false;
        }
        self.invalidate_and_persist(scope, kind, disk_tier);
        let Some(disk_tier) = disk_tier else { return true };
        match (scope, kind) {
            (_, PurgeKind::Soft | PurgeKind::Superseded) => {}
            (PurgeScope::Target(target), PurgeKind::Hard) => disk_tier.disk.remove_target(target),
            (PurgeScope::All, PurgeKind::Hard) => disk_tier.disk.clear(),
        }
        true
    }

    /// Makes the state collect changed rows soon.
    pub fn nudge(&self) {
        if let Some(disk_tier) = &*self.disk_tier.load() {
            disk_tier.state.nudge();
        }
    }

    fn report(
        self: &Arc<Self>,
        tier: &'static str,
        telemetry: &Telemetry,
        totals: impl Fn(&Self) -> StoreUsage + Send + Sync + 'static,
    ) {
        let store = Arc::downgrade(self);
        telemetry.watch_store(tier, move || {
            let StoreUsage { entries, bytes, evictions } =
                store.upgrade().map(|store| totals(&store)).unwrap_or_default();
            TierTotals { entries, bytes, evictions }
        });
    }

    /// [`Disk::stall`](crate::store::disk::Disk::stall).
    #[doc(hidden)]
    pub fn stall(&self, until: Receiver<()>) {
        if let Some(disk_tier) = &*self.disk_tier.load() {
            disk_tier.disk.stall(until);
        }
    }

    /// Number of lookups in memory so far.
    #[cfg(test)]
    pub fn memory_lookups(&self) -> u64 {
        self.memory.lookups()
    }

    /// Waits until the state is on disk, whatever the subscriber of invalidations does.
    pub async fn flush_state(&self) -> Result<(), String> {
        match self.disk_tier.load_full() {
            Some(disk_tier) => disk_tier.state.flush().await,
            // Memory-only by configuration: stored entries do not outlive the process either.
            None => self.memory_only_reason.lock().clone().map_or(Ok(()), Err),
        }
    }

    fn disk_totals(&self) -> StoreUsage {
        self.disk_tier.load().as_ref().map(|disk_tier| disk_tier.disk.totals()).unwrap_or_default()
    }

    fn validity(&self, key: &CacheKey, epoch: Epoch) -> Validity {
        self.generations.validity(key.target_id(), epoch)
    }

    /// Stores an entry read from the disk in memory too. The result comes from memory, because a replacement
    /// or a purge may have happened meanwhile. If memory has no room, the entry read is returned all the
    /// same.
    fn promote(&self, query: StoreQuery<'_>, epoch: Epoch, read: Option<Arc<StoredResponse>>) -> Lookup {
        if let Some(stored) = &read {
            self.memory.put(query.key, Arc::clone(stored), epoch);
        }
        match (self.memory.get(query), read, self.validity(query.key, epoch)) {
            (found @ Lookup::Found(_), _, _) => found,
            (_, Some(stored), Validity::Current) => Lookup::Found(stored),
            (_, Some(stored), Validity::Outdated(at)) => Lookup::Found(stored.outdated(at).into()),
            (nothing, _, _) => nothing,
        }
    }

    /// Starts to use the disk.
    fn attach_disk(&self, disk_tier: Arc<DiskTier>, persisted: Snapshot) {
        let mut memory_only_reason = self.memory_only_reason.lock();
        let persisted = self.generations.adopt(persisted, self.clock.now());
        disk_tier.state.replace(Snapshot { all: self.generation_to_persist(persisted.all), ..persisted });
        self.disk_tier.store(Some(disk_tier));
        *memory_only_reason = None;
        drop(memory_only_reason);
        self.catch_up(usize::MAX);
    }

    fn write(
        &self,
        disk_tier: &DiskTier,
        (key, stored): (&CacheKey, &Arc<StoredResponse>),
        epoch: Epoch,
        until: Option<SystemTime>,
    ) {
        let presence = self.generations.present.register(key.target_id(), PresenceKind::Pending);
        let (key, stored) = (key.clone(), Arc::clone(stored));
        let latest_order = self.generations.latest_order();
        disk_tier.disk.put(PutCommand { key, stored, epoch, latest_order, until, presence });
    }

    /// Invalidates, and has the change persisted. Call with `memory_only_reason` locked.
    fn invalidate_and_persist(&self, scope: PurgeScope, kind: PurgeKind, disk_tier: Option<&DiskTier>) {
        let change = self.generations.invalidate(scope, kind, self.clock.now());
        let forgotten = self.generations.is_full().then(|| self.forget(disk_tier));
        let Some(disk_tier) = disk_tier else { return };
        match forgotten {
            Some(all) => {
                disk_tier.state.replace(Snapshot { all: self.generation_to_persist(all.all), ..all });
            }
            None if scope == PurgeScope::All => {
                let generation = self.generation_to_persist(change.generation);
                disk_tier.state.persist(Change { generation, ..change });
            }
            None => disk_tier.state.persist(change),
        }
    }

    /// Whether a response of `target` is in memory, pending, or on a disk that cannot be read.
    fn may_contain(&self, target: u128, disk_tier: Option<&DiskTier>) -> bool {
        let disk_pending = self.disk_pending.load(Ordering::Relaxed);
        self.generations.present.has(target)
            || disk_tier.map_or(disk_pending, |disk_tier| disk_tier.disk.may_contain(target))
    }

    fn forget(&self, disk_tier: Option<&DiskTier>) -> Snapshot {
        self.memory.remove_invalidated();
        let disk_pending = self.disk_pending.load(Ordering::Relaxed);
        // Entries that memory holds after that are newer than their generation, unless that was soft.
        self.generations.forget(|target, generation| {
            let here = if generation.is_hard() {
                self.generations.present.is_pending(target)
            } else {
                self.generations.present.has(target)
            };
            let newest = generation.newest();
            here || disk_tier
                .map_or(disk_pending, |disk_tier| disk_tier.disk.may_contain_older(target, newest))
        })
    }

    /// Runs memory-only until the disk can be opened.
    fn set_memory_only(&self, reason: String) {
        *self.memory_only_reason.lock() = Some(reason);
    }

    /// Runs memory-only for as long as this larder lives.
    fn run_memory_only(&self, reason: String) {
        self.disk_pending.store(false, Ordering::Relaxed);
        self.set_memory_only(reason);
    }
}

#[async_trait]
impl Store for TieredStore {
    fn get(&self, query: StoreQuery<'_>) -> Lookup {
        let found = self.memory.get(query);
        if matches!(found, Lookup::Found(_)) || self.disk_tier.load().is_none() {
            return found;
        }
        match found {
            Lookup::OtherVariants(variant) => Lookup::CheckDisk(Some(variant)),
            Lookup::Nothing => Lookup::CheckDisk(None),
            found @ (Lookup::Found(_) | Lookup::CheckDisk(_)) => found,
        }
    }

    async fn load(&self, query: StoreQuery<'_>, in_memory: Option<VariantId>) -> Lookup {
        let in_memory = in_memory.map_or(Lookup::Nothing, Lookup::OtherVariants);
        let Some(disk_tier) = self.disk_tier.load_full() else { return in_memory };
        // The entry read is stored in memory: an invalidation of it in between must be recorded.
        let _watch = self.generations.present.register(query.key.target_id(), PresenceKind::Pending);
        disk_tier.disk.wait_until_open().await;
        self.catch_up(unwritten::BATCH);
        let latest_order = self.generations.latest_order();
        if let Some((stored, epoch)) = disk_tier.disk.find_pending(query, latest_order) {
            return self.promote(query, epoch, Some(stored));
        }
        if self.unwritten.may_have(query.key) {
            return in_memory;
        }
        let record = match disk_tier.disk.find(query, latest_order) {
            DiskLookup::Found(record) => record,
            DiskLookup::OtherVariants(variant) if matches!(in_memory, Lookup::Nothing) => {
                return Lookup::OtherVariants(variant);
            }
            DiskLookup::OtherVariants(_) | DiskLookup::Nothing => return in_memory,
        };
        if self.validity(query.key, record.epoch()) == Validity::Gone {
            return in_memory;
        }
        if record.is_inline() {
            let read = disk_tier.disk.read(&record);
            return self.promote(query, record.epoch(), read);
        }
        // Of several requests for the same large body only one reads the file.
        let lock_index = usize::try_from(query.key.id() % READERS as u128).unwrap_or_default();
        let _lock = self.read_locks[lock_index].lock().await;
        if let found @ Lookup::Found(_) = self.memory.get(query) {
            return found;
        }
        let epoch = record.epoch();
        let read = spawn_blocking(move || disk_tier.disk.read(&record)).await;
        self.promote(query, epoch, read.unwrap_or_default())
    }

    fn puts(&self) -> u64 {
        self.memory.puts()
    }

    fn has_parts_in_memory(&self) -> bool {
        self.memory.has_parts()
    }

    fn watch(&self, target: u128) -> InvalidationWatch {
        self.generations.watch(target, self.clock.now())
    }

    fn is_newer(&self, one: u64, other: u64) -> bool {
        self.generations.advance_order_to(self.clock.now());
        is_newer(one, other, self.generations.latest_order())
    }

    fn is_current(&self, target: u128, epoch: Epoch) -> bool {
        self.generations.validity(target, epoch) == Validity::Current
    }

    fn put(
        &self,
        key: &CacheKey,
        stored: Arc<StoredResponse>,
        epoch: Epoch,
        until: Option<SystemTime>,
    ) -> bool {
        self.generations.advance_order_to(self.clock.now());
        let is_newest = self.memory.put(key, Arc::clone(&stored), epoch);
        match &*self.disk_tier.load() {
            _ if !is_newest => {}
            Some(disk_tier) => self.write(disk_tier, (key, &stored), epoch, until),
            None => self.lost(key, &stored, epoch),
        }
        if is_newest {
            // Clients may get this response now; the subscriber's is older.
            let scope = PurgeScope::Target(key.target_id());
            self.invalidation_feed.report(scope, PurgeKind::Superseded);
        }
        is_newest
    }

    async fn sync_peer(&self) {
        self.invalidation_feed.wait_for_put().await;
    }

    fn invalidate(&self, scope: PurgeScope, kind: PurgeKind) -> bool {
        let has_effect = self.invalidate_unreported(scope, kind);
        self.invalidation_feed.report(scope, kind);
        has_effect
    }

    fn may_contain(&self, target: u128) -> bool {
        let disk_pending = self.disk_pending.load(Ordering::Relaxed);
        let on_disk = |disk_tier: &Arc<DiskTier>| disk_tier.disk.may_contain(target);
        self.generations.present.is_in_memory(target)
            || self.disk_tier.load().as_ref().map_or(disk_pending, on_disk)
    }

    async fn flush(&self) -> Result<(), String> {
        tokio::join!(self.flush_state(), self.invalidation_feed.wait_for_purge()).0
    }

    async fn list(&self, after: Option<EntryId>, limit: usize, target: Option<u128>) -> Vec<EntryInfo> {
        let mut all: BTreeMap<EntryId, EntryInfo> = BTreeMap::new();
        if let Some(disk_tier) = self.disk_tier.load_full() {
            let generations = Arc::clone(&self.generations);
            let on_disk = spawn_blocking(move || disk_tier.list(&generations, after, limit, target));
            for listed in on_disk.await.unwrap_or_default() {
                all.insert(listed.id, listed);
            }
        }
        for listed in self.memory.list(target) {
            if after.is_none_or(|after| listed.id > after) {
                let on_disk = all.contains_key(&listed.id);
                all.insert(listed.id, EntryInfo { on_disk, ..listed });
            }
        }
        all.into_values().take(limit).collect()
    }

    fn health(&self) -> Health {
        let disk_tier = self.disk_tier.load();
        match (&*disk_tier, &*self.memory_only_reason.lock()) {
            (Some(disk_tier), _) => disk_tier.health(),
            (None, Some(reason)) => Health::MemoryOnly(reason.clone()),
            (None, None) => Health::Good,
        }
    }

    async fn release(&self) {
        self.catch_up(usize::MAX);
        let disk_tier = {
            let mut memory_only_reason = self.memory_only_reason.lock();
            let disk_tier = self.disk_tier.swap(None);
            self.disk_pending.store(false, Ordering::Relaxed);
            if disk_tier.is_some() || memory_only_reason.is_some() {
                *memory_only_reason = Some("this larder has released its store".to_owned());
            }
            disk_tier
        };
        if let Some(disk_tier) = disk_tier {
            disk_tier.close().await;
        }
    }
}

#[cfg(test)]
mod tests;
