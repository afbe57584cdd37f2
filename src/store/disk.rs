//! The disk tier: stored responses outlive the process, in an embedded database with larger bodies in files
//! beside it.
//!
//! Owns: its handle. Lookups run on the caller's thread; all writes run on a separate thread behind a bounded
//! queue. A fault of the files costs hits, never a response and never a wrong byte. Never touches:
//! generations and freshness; it only stores the epoch and returns it.
//!
//! Modules: `worker` executes the commands of `queue`; `writer` writes, `sweep` and `consistency` clean up,
//! `free_space` watches the volume; `recovery` opens the database after damage; `codec`, `variants` and
//! `keys` define what is in the `database`; `body_file` and `layout` define where files are.

mod body_file;
mod check_state;
mod codec;
mod consistency;
mod database;
mod encryption;
mod envelope;
mod free_space;
mod keys;
mod layout;
mod lookup;
mod pending_writes;
mod queue;
mod recovery;
mod sweep;
#[cfg(test)]
mod tests;
mod usage;
mod variants;
mod worker;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock::Clock;
use crate::key::CacheKey;
use crate::semantics::vary::VariantId;
use crate::store::disk::body_file::BodyFileName;
use crate::store::disk::codec::{BodyLocation, Entry};
use crate::store::disk::database::{Database, Fault, caught};
use crate::store::disk::encryption::FieldCipher;
use crate::store::disk::free_space::Measure;
use crate::store::disk::keys::ENTRIES;
use crate::store::disk::lookup::value_hash;
pub use crate::store::disk::queue::PutCommand;
use crate::store::disk::queue::{Command, NotQueued, Queue};
use crate::store::disk::usage::DiskUsage;
use crate::store::disk::worker::{CLOSE_WITHIN, Worker};
use crate::store::disk::writer::DiskWriter;
use crate::store::generations::Epoch;
use crate::store::state_db::Secret;
use crate::store::{EntryId, EntryInfo, Health, StoreQuery, StoreUsage};
use crate::stored::StoredResponse;
use crate::telemetry::{StoreOp, Telemetry};

pub(super) use crate::store::disk::layout::remove_old;
pub use crate::store::disk::lookup::DiskEntry;

/// Reason why nothing is written although the database is open.
const FULL: &str =
    "the volume of the store is nearly full: new responses are kept in memory only until there is room";

/// How long requests wait after the start for the disk to open.
const OPEN_WAIT: Duration = Duration::from_secs(2);

/// Settings that tests replace.
#[derive(Debug, Clone, Copy)]
struct Hooks {
    /// Measures the volume.
    measure: Measure,
    /// How long an opening may take before the next recovery step is tried.
    open_within: Duration,
    /// How often recovery is tried again after every step failed.
    retry_every: Duration,
}

const DEFAULT_HOOKS: Hooks = Hooks {
    measure: free_space::measure,
    open_within: Duration::from_secs(30),
    retry_every: Duration::from_secs(60),
};

/// Settings of a disk tier.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `cache` within `store.path`. No other process may use it: hold a [`Lock`](crate::store::lock::Lock).
    pub dir: PathBuf,
    /// Bytes that the tier may take.
    pub bytes: u64,
    /// Bytes that may wait to be written.
    pub waiting: usize,
    /// How often expired entries are removed.
    pub sweep_every: Duration,
    /// The secret from which the key for fields is derived. Entries written with another secret cannot be
    /// read.
    pub secret: Secret,
}

/// The result of a lookup.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a hit would pay for a box, and no two are kept")]
pub enum DiskLookup {
    /// The variant that the request selects.
    Found(DiskEntry),
    /// Only other variants are stored; the request's own would be this one.
    OtherVariants(VariantId),
    /// Nothing is stored under this key.
    Nothing,
}

/// An entry in a listing.
#[derive(Debug, Clone)]
pub struct EntryPage {
    /// The entry; its response has no body.
    pub info: EntryInfo,
    /// The epoch it was stored with.
    pub epoch: Epoch,
}

/// Receives events of a disk tier.
pub trait DiskObserver: Send + Sync {
    /// A response will not be written, and an older version of it may be on disk.
    fn lost(&self, key: &CacheKey, stored: &Arc<StoredResponse>, epoch: Epoch);

    /// The disk can be read, for the first time or again. The store thread waits for this call.
    fn opened(&self);
}

/// The disk tier. Dropping it closes it in the background; [`Disk::close`] waits for that.
pub struct Disk {
    shared: Arc<Shared>,
}

/// State that callers and the store thread share.
struct Shared {
    settings: Settings,
    hooks: Hooks,
    clock: Clock,
    telemetry: Arc<Telemetry>,
    open: ArcSwapOption<Database>,
    /// Whether the first opening has finished.
    first_open_done: watch::Sender<bool>,
    /// Requests wait for the first opening until then.
    open_deadline: Instant,
    queue: Queue,
    usage: Arc<DiskUsage>,
    cipher: Arc<FieldCipher>,
    /// State of the database.
    health: Mutex<Health>,
    /// Whether writes are suspended because the volume is nearly full.
    full: AtomicBool,
    events: Box<dyn DiskObserver>,
}

impl Disk {
    /// Starts the store thread, which opens the directory, and returns at once. Until it is open lookups find
    /// nothing, and puts are queued.
    pub fn start(
        settings: Settings,
        clock: Clock,
        telemetry: Arc<Telemetry>,
        events: Box<dyn DiskObserver>,
    ) -> Arc<Self> {
        Self::start_with(settings, DEFAULT_HOOKS, clock, telemetry, events)
    }

    fn start_with(
        settings: Settings,
        hooks: Hooks,
        clock: Clock,
        telemetry: Arc<Telemetry>,
        events: Box<dyn DiskObserver>,
    ) -> Arc<Self> {
        let shared = Shared::new(settings, hooks, clock, telemetry, events);
        let own = Arc::clone(&shared);
        let run = move || Worker::new(own).run();
        let spawned = std::thread::Builder::new().name("larder-store".to_owned()).spawn(run);
        if let Err(error) = spawned {
            shared.set_memory_only(format!("no thread for the store: {error}"));
        }
        Arc::new(Self { shared })
    }

    /// Waits until the first opening has finished, with or without success, but not much longer than a normal
    /// opening takes. The first requests after a restart then find entries on disk, too.
    pub async fn wait_until_open(&self) {
        if !*self.shared.first_open_done.borrow() {
            let mut first_open_done = self.shared.first_open_done.subscribe();
            let _late = timeout_at(
                self.shared.open_deadline,
                first_open_done.wait_for(|first_open_done| *first_open_done),
            )
            .await;
        }
    }

    /// State of the tier.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Finds a response that was put and is not written yet. It is newer than any entry on disk.
    pub fn find_pending(
        &self,
        query: StoreQuery<'_>,
        latest_order: u64,
    ) -> Option<(Arc<StoredResponse>, Epoch)> {
        self.shared.queue.find(query, latest_order)
    }

    /// Looks up the metadata of an entry without reading a body file: microseconds, on the caller's thread.
    /// `latest_order`: the newest order number given out.
    pub fn find(&self, query: StoreQuery<'_>, latest_order: u64) -> DiskLookup {
        let Some(database) = self.shared.open.load_full() else { return DiskLookup::Nothing };
        match caught(|| lookup::find(&database, query, latest_order)) {
            Ok((found, damaged)) => {
                for (entry_id, hash) in damaged {
                    self.shared.remove_damaged(entry_id, hash);
                }
                found
            }
            Err(fault) => {
                self.shared.telemetry.store_error(StoreOp::Read, &fault);
                DiskLookup::Nothing
            }
        }
    }

    /// The response with its body, both verified. `None`: the entry is gone, or it is damaged and will be
    /// removed. Reads a file unless [`DiskEntry::is_inline`]: then call it on a blocking thread.
    pub fn read(&self, record: &DiskEntry) -> Option<Arc<StoredResponse>> {
        let database = self.shared.open.load_full()?;
        match caught(|| Ok(read(&database, record, &self.shared.cipher)?)) {
            Ok(Some(stored)) => Some(Arc::new(stored)),
            Ok(None) => {
                // The entry may also have been replaced between finding and reading; then its file was
                // removed correctly. If it is still the same entry it is damaged: it is counted and removed.
                self.shared.remove_damaged(record.id, value_hash(&record.value));
                None
            }
            Err(fault) => {
                self.shared.telemetry.store_error(StoreOp::Read, &fault);
                None
            }
        }
    }

    /// Writes a response in the background. It replaces the same variant unless that was requested later. If
    /// the queue is full the response is counted as dropped and reported to [`DiskObserver::lost`].
    pub fn put(&self, put: PutCommand) {
        let (key, stored, epoch) = (put.key.clone(), Arc::clone(&put.stored), put.epoch);
        let queued = self.shared.queue.put(put);
        self.shared.count_dropped(&queued);
        if queued.is_err() {
            self.shared.events.lost(&key, &stored, epoch);
        }
    }

    /// Whether the database can be read.
    pub fn is_open(&self) -> bool {
        self.shared.open.load().is_some()
    }

    /// Whether an entry of this target may be on disk; true if the database cannot be read.
    pub fn may_contain(&self, target: u128) -> bool {
        let Some(database) = self.shared.open.load_full() else { return true };
        caught(|| database.scan(&keys::target_prefix(target), None, 1))
            .map_or(true, |found| !found.is_empty())
    }

    /// Whether a response of this key is queued or being written.
    pub fn has_pending(&self, key: &CacheKey) -> bool {
        self.shared.queue.has(key)
    }

    /// Whether an entry of this target that is older than `epoch` may be on disk; true if the database cannot
    /// be read.
    pub fn may_contain_older(&self, target: u128, epoch: Epoch) -> bool {
        const SCAN_LIMIT: usize = 16;
        let Some(database) = self.shared.open.load_full() else { return true };
        let Ok(found) = caught(|| database.scan(&keys::target_prefix(target), None, SCAN_LIMIT)) else {
            return true;
        };
        let older = |value: &[u8]| Entry::decode(value).is_none_or(|entry| entry.meta.epoch < epoch);
        found.len() == SCAN_LIMIT || found.iter().any(|(_, value)| older(value))
    }

    /// Removes every entry of a target, in the background.
    pub fn remove_target(&self, target: u128) {
        self.shared.count_dropped(&self.shared.queue.push(Command::RemoveTarget(target)));
    }

    /// Removes everything, in the background.
    pub fn clear(&self) {
        self.shared.count_dropped(&self.shared.queue.push_always(Command::Clear));
    }

    /// At most `limit` entries after `after`, in the order of [`EntryId`], of one target or of all. Damaged
    /// entries are left out. Blocks.
    pub fn page(&self, after: Option<EntryId>, limit: usize, target: Option<u128>) -> Vec<EntryPage> {
        let Some(database) = self.shared.open.load_full() else { return Vec::new() };
        let cipher = &self.shared.cipher;
        caught(|| page(&database, cipher, after, limit, target)).unwrap_or_else(|fault| {
            self.shared.telemetry.store_error(StoreOp::Read, &fault);
            Vec::new()
        })
    }

    /// Current usage, in bytes as they count against the bound.
    pub fn totals(&self) -> StoreUsage {
        self.shared.usage.totals()
    }

    /// Waits until everything queued before is on disk.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.shared.queue.push_always(Command::Flush(done)).is_ok() {
            // The sender is dropped unsent when the thread ends: then nothing is left to wait for.
            let _done = flushed.await;
        }
    }

    /// Writes everything queued and closes, in 5 s at most. After that lookups find nothing and puts are not
    /// stored.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.shared.queue.push_always(Command::Close(done)).is_ok() {
            let _late = timeout(CLOSE_WITHIN, closed).await;
        }
        self.shared.unpublish();
    }

    /// Blocks the store thread until `until` receives a message, to measure what happens meanwhile.
    #[doc(hidden)]
    pub fn stall(&self, until: Receiver<()>) {
        self.shared.count_dropped(&self.shared.queue.push_always(Command::Stall(until)));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let (done, _receiver) = oneshot::channel();
        let _closed_before = self.shared.queue.push_always(Command::Close(done));
    }
}

impl Shared {
    fn new(
        settings: Settings,
        hooks: Hooks,
        clock: Clock,
        telemetry: Arc<Telemetry>,
        events: Box<dyn DiskObserver>,
    ) -> Arc<Self> {
        let cipher = Arc::new(FieldCipher::new(&settings.secret));
        let queue = Queue::with_capacity(settings.waiting);
        Arc::new(Self {
            settings,
            hooks,
            clock,
            telemetry,
            open: ArcSwapOption::empty(),
            first_open_done: watch::Sender::new(false),
            open_deadline: Clock::timer_now() + OPEN_WAIT,
            queue,
            usage: Arc::default(),
            cipher,
            health: Mutex::new(Health::Good),
            full: AtomicBool::new(false),
            events,
        })
    }

    /// Makes this the open database.
    fn publish(&self, database: Database, usage: &DiskUsage) -> DiskWriter {
        let database = Arc::new(database);
        self.usage.replace(usage);
        self.open.store(Some(Arc::clone(&database)));
        self.set_health(Health::Good);
        DiskWriter {
            database,
            usage: Arc::clone(&self.usage),
            cipher: Arc::clone(&self.cipher),
            telemetry: Arc::clone(&self.telemetry),
            bound: self.settings.bytes,
            latest_order: 0,
            check: None,
        }
    }

    /// Removes the open database.
    fn unpublish(&self) {
        self.open.store(None);
        self.usage.replace(&DiskUsage::default());
    }

    /// Continues with memory only, for this reason.
    fn set_memory_only(&self, reason: String) {
        tracing::error!(reason = reason, "The store on disk cannot be used: running memory-only");
        self.set_health(Health::MemoryOnly(reason));
        self.first_open_done.send_replace(true);
    }

    fn health(&self) -> Health {
        let health = self.health.lock().clone();
        if health == Health::Good && self.full.load(Ordering::Relaxed) {
            return Health::MemoryOnly(FULL.to_owned());
        }
        health
    }

    fn set_health(&self, health: Health) {
        *self.health.lock() = health;
    }

    fn remove_damaged(&self, entry_id: EntryId, hash: u64) {
        self.count_dropped(&self.queue.push(Command::Remove(entry_id, hash)));
    }

    fn count_dropped(&self, queued: &Result<(), NotQueued>) {
        if *queued == Err(NotQueued::Full) {
            self.telemetry.store_error(StoreOp::Drop, &"the write queue is full");
        }
    }
}

/// The response of a record with its verified body; `None` if the body is missing or damaged.
fn read(database: &Database, record: &DiskEntry, cipher: &FieldCipher) -> io::Result<Option<StoredResponse>> {
    let Some(entry) = Entry::decode(&record.value) else { return Ok(None) };
    match entry.meta.body_in {
        BodyLocation::Entry => Ok(entry.with_own_body(cipher)),
        BodyLocation::File(number) => {
            let name = BodyFileName { id: record.id.id, number };
            let body = database.bodies.read(name, entry.meta.body_len)?;
            Ok(body.and_then(|body| entry.with_body(Bytes::from(body), cipher)))
        }
    }
}

fn page(
    database: &Database,
    cipher: &FieldCipher,
    after: Option<EntryId>,
    limit: usize,
    target: Option<u128>,
) -> Result<Vec<EntryPage>, Fault> {
    let prefix = target.map_or_else(|| ENTRIES.to_vec(), keys::target_prefix);
    let mut after = after.map(|after| keys::entry(&after));
    let mut paged = Vec::new();
    // Reads the next page if all entries of this one were damaged: an empty result means that no entries
    // follow.
    while paged.is_empty() {
        let pairs = database.scan(&prefix, after.as_deref(), limit)?;
        let Some((last, _)) = pairs.last() else { break };
        after = Some(last.to_vec());
        paged.extend(pairs.iter().filter_map(|(key, value)| page_entry(key, value, cipher)));
    }
    Ok(paged)
}

/// An entry as a listing shows it; `None` where it is damaged.
fn page_entry(key: &[u8], value: &[u8], cipher: &FieldCipher) -> Option<EntryPage> {
    let entry_id = keys::parse_entry(key)?;
    let entry = Entry::decode(value)?;
    let listed = EntryInfo {
        id: entry_id,
        canonical: entry.canonical.into(),
        stored: Arc::new(entry.without_body(cipher)?),
        body: entry.meta.body_len,
        in_memory: false,
        on_disk: true,
    };
    Some(EntryPage { info: listed, epoch: entry.meta.epoch })
}
