//! The disk tier: what is stored outlives the process, in an embedded database with larger bodies in
//! files beside it.
//!
//! Owns: its handle: look-ups at once on the caller's thread, everything that writes on a thread of
//! its own behind a bounded queue. Whatever happens to the files costs hits, never an answer and
//! never a wrong byte. Never touches: generations and freshness; it keeps the mark and gives it back.
//!
//! The way down: `thread` obeys `queue`; `keeper` writes, `sweep` and `check` tidy up,
//! `room` watches the volume; `recovery` climbs the ladder; `codec`, `variants` and `keys`
//! say what lies in the `database`, `bodies` and `layout` where files lie.

mod body_file;
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
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock::{self, Clock};
use crate::key::CacheKey;
use crate::semantics::vary::VariantId;
use crate::store::disk::body_file::BodyFileName;
use crate::store::disk::codec::{BodyLocation, Entry};
use crate::store::disk::database::{Database, Fault, caught};
use crate::store::disk::encryption::FieldCipher;
use crate::store::disk::free_space::Measure;
use crate::store::disk::keys::{ENTRIES, ExpiresAt};
use crate::store::disk::lookup::value_hash;
use crate::store::disk::queue::{Command, NotQueued, PutCommand, Queue};
use crate::store::disk::usage::DiskUsage;
use crate::store::disk::worker::{CLOSE_WITHIN, Worker};
use crate::store::disk::writer::DiskWriter;
use crate::store::generations::Epoch;
use crate::store::presence::PresenceGuard;
use crate::store::state_db::Secret;
use crate::store::{EntryId, EntryInfo, Health, StoreQuery, StoreUsage};
use crate::stored::StoredResponse;
use crate::telemetry::{StoreOp, Telemetry};

pub(super) use crate::store::disk::layout::remove_old;
pub use crate::store::disk::lookup::DiskEntry;

/// Why nothing is written though the database is open.
const FULL: &str = "the volume of the store is nearly full: what comes is kept in memory alone until there is room";

/// How long after the start requests wait for what is on disk.
const OPENING: Duration = Duration::from_secs(2);

/// What tests set otherwise.
#[derive(Debug, Clone, Copy)]
struct Hooks {
    /// How the volume is measured.
    measure: Measure,
    /// How long an opening may take before the next rung is tried.
    open_within: Duration,
    /// How often the ladder is tried again when no rung held.
    retry_every: Duration,
}

const MEANS: Hooks = Hooks {
    measure: free_space::measure,
    open_within: Duration::from_secs(30),
    retry_every: Duration::from_secs(60),
};

/// What a disk tier is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `cache` within `store.path`. Nobody else may use it: hold a [`Lock`](crate::store::lock::Lock).
    pub dir: PathBuf,
    /// Bytes it may take.
    pub bytes: u64,
    /// Bytes that may wait to be written.
    pub waiting: usize,
    /// How often what is of no use any more is removed.
    pub sweep_every: Duration,
    /// The secret from which the key for fields is derived: with another one nothing stored is read.
    pub secret: Secret,
}

/// What a look-up found.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a hit would pay for a box, and no two are kept")]
pub enum DiskLookup {
    /// The variant that the request selects.
    Found(DiskEntry),
    /// Other variants only; the request's own would be this one.
    OtherVariants(VariantId),
    /// Nothing under this key.
    Nothing,
}

/// An entry in a listing.
#[derive(Debug, Clone)]
pub struct EntryPage {
    /// The answer without its body.
    pub listed: EntryInfo,
    /// The mark it was stored with.
    pub mark: Epoch,
}

/// What whoever uses a disk is told of.
pub trait DiskObserver: Send + Sync {
    /// An answer will not be written, and an older version may be on disk.
    fn lost(&self, key: &CacheKey, stored: &Arc<StoredResponse>, mark: Epoch);

    /// What is on disk can be looked at, for the first time or again. Holds up the store thread.
    fn opened(&self);
}

/// The disk tier. Dropping it closes it in the background; [`Disk::close`] waits for that.
pub struct Disk {
    shared: Arc<Shared>,
}

/// What callers and the store thread share.
struct Shared {
    settings: Settings,
    means: Hooks,
    clock: Clock,
    account: Arc<Telemetry>,
    open: ArcSwapOption<Database>,
    /// Whether the first opening is over.
    settled: watch::Sender<bool>,
    /// Until when requests wait for it.
    patience: Instant,
    queue: Queue,
    sizes: Arc<DiskUsage>,
    at_rest: Arc<FieldCipher>,
    /// How the database is.
    condition: Mutex<Health>,
    /// Whether nothing is written for want of room on the volume.
    full: AtomicBool,
    events: Box<dyn DiskObserver>,
}

impl Disk {
    /// Starts the store thread, which opens what is in the directory, and returns at once. Until it
    /// is open nothing is found, and what is put waits.
    pub fn start(
        settings: Settings,
        clock: Clock,
        account: Arc<Telemetry>,
        events: Box<dyn DiskObserver>,
    ) -> Arc<Self> {
        Self::start_with(settings, MEANS, clock, account, events)
    }

    fn start_with(
        settings: Settings,
        means: Hooks,
        clock: Clock,
        account: Arc<Telemetry>,
        events: Box<dyn DiskObserver>,
    ) -> Arc<Self> {
        let shared = Shared::new(settings, means, clock, account, events);
        let own = Arc::clone(&shared);
        let run = move || Worker::new(own).run();
        let spawned = std::thread::Builder::new().name("larder-store".to_owned()).spawn(run);
        if let Err(error) = spawned {
            shared.out_of_order(format!("no thread for the store: {error}"));
        }
        Arc::new(Self { shared })
    }

    /// Waits until the first opening is over, well or ill, but not much longer than a healthy one
    /// takes: what is on disk then is found by the first requests after a restart, too.
    pub async fn opened(&self) {
        if !*self.shared.settled.borrow() {
            let mut settled = self.shared.settled.subscribe();
            let _late =
                timeout_at(self.shared.patience, settled.wait_for(|settled| *settled)).await;
        }
    }

    /// How it is.
    pub fn condition(&self) -> Health {
        self.shared.condition()
    }

    /// What was put and is not written yet: newer than whatever is found.
    pub fn awaiting(
        &self,
        wanted: StoreQuery<'_>,
        so_far: u64,
    ) -> Option<(Arc<StoredResponse>, Epoch)> {
        self.shared.queue.find(wanted, so_far)
    }

    /// Looks up what is known without reading a body: microseconds, on the caller's thread. `so_far`: where the
    /// order of what is asked for has got to.
    pub fn find(&self, wanted: StoreQuery<'_>, so_far: u64) -> DiskLookup {
        let Some(database) = self.shared.open.load_full() else { return DiskLookup::Nothing };
        match caught(|| lookup::find(&database, wanted, so_far)) {
            Ok((found, damaged)) => {
                for (place, hash) in damaged {
                    self.shared.remove_damaged(place, hash);
                }
                found
            }
            Err(fault) => {
                self.shared.account.store_error(StoreOp::Read, &fault);
                DiskLookup::Nothing
            }
        }
    }

    /// The response with its body, both found whole; `None`: there is none any more, or it is damaged
    /// and will be removed. Reads a file unless [`DiskEntry::is_inline`]: then call it off the workers.
    pub fn read(&self, record: &DiskEntry) -> Option<Arc<StoredResponse>> {
        let database = self.shared.open.load_full()?;
        match caught(|| Ok(read(&database, record, &self.shared.at_rest)?)) {
            Ok(Some(stored)) => Some(Arc::new(stored)),
            Ok(None) => {
                // Or replaced between finding and reading: then its file is gone by right. Where it
                // is still the same entry it is counted and removed.
                self.shared.remove_damaged(record.place, value_hash(&record.value));
                None
            }
            Err(fault) => {
                self.shared.account.store_error(StoreOp::Read, &fault);
                None
            }
        }
    }

    /// Writes a response behind the caller's back, in place of the same variant unless that was
    /// asked for later. Where too much waits already it is counted, and said to be [lost](DiskObserver::lost). `until`: when it will be of
    /// no use any more; `None`: never.
    pub fn put(
        &self,
        key: &CacheKey,
        stored: &Arc<StoredResponse>,
        (mark, so_far): (Epoch, u64),
        until: Option<SystemTime>,
        presence: PresenceGuard,
    ) {
        let until = ExpiresAt::of(until);
        let put = PutCommand {
            key: key.clone(),
            stored: Arc::clone(stored),
            mark,
            so_far,
            until,
            _presence: presence,
        };
        let queued = self.shared.queue.put(put);
        self.shared.count_dropped(&queued);
        if queued.is_err() {
            self.shared.events.lost(key, stored, mark);
        }
    }

    /// Whether what is here can be looked at.
    pub fn is_open(&self) -> bool {
        self.shared.open.load().is_some()
    }

    /// Whether an entry of this target may be here: where that cannot be told, one may.
    pub fn may_hold(&self, target: u128) -> bool {
        let Some(database) = self.shared.open.load_full() else { return true };
        caught(|| database.scan(&keys::of_target(target), None, 1))
            .map_or(true, |found| !found.is_empty())
    }

    /// Whether an answer of this key waits to be written, or is being written.
    pub fn is_to_hold(&self, key: &CacheKey) -> bool {
        self.shared.queue.has(key)
    }

    /// Whether an entry of this target may be here that is older than `mark`: where that cannot be told,
    /// one may.
    pub fn may_hold_before(&self, target: u128, mark: Epoch) -> bool {
        const LOOKED_AT: usize = 16;
        let Some(database) = self.shared.open.load_full() else { return true };
        let Ok(found) = caught(|| database.scan(&keys::of_target(target), None, LOOKED_AT)) else {
            return true;
        };
        let older = |value: &[u8]| Entry::decode(value).is_none_or(|entry| entry.head.mark < mark);
        found.len() == LOOKED_AT || found.iter().any(|(_, value)| older(value))
    }

    /// Removes every entry of a target, behind the caller's back.
    pub fn remove_target(&self, target: u128) {
        self.shared.count_dropped(&self.shared.queue.push(Command::Reclaim(target)));
    }

    /// Removes everything, behind the caller's back.
    pub fn clear(&self) {
        self.shared.count_dropped(&self.shared.queue.push_always(Command::Clear));
    }

    /// At most `limit` entries behind `after`, in the order of [`EntryId`], of one target or of all.
    /// Damaged ones are left out. Blocks.
    pub fn page(
        &self,
        after: Option<EntryId>,
        limit: usize,
        target: Option<u128>,
    ) -> Vec<EntryPage> {
        let Some(database) = self.shared.open.load_full() else { return Vec::new() };
        let at_rest = &self.shared.at_rest;
        caught(|| page(&database, at_rest, after, limit, target)).unwrap_or_else(|fault| {
            self.shared.account.store_error(StoreOp::Read, &fault);
            Vec::new()
        })
    }

    /// What is held now, its bytes as they count against the bound.
    pub fn totals(&self) -> StoreUsage {
        self.shared.sizes.totals()
    }

    /// Waits until what was queued before is on disk.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.shared.queue.push_always(Command::Flush(done)).is_ok() {
            // Dropped unsent when the thread ends: then nothing is left to wait for.
            let _done = flushed.await;
        }
    }

    /// Writes what is queued and closes, in 5 s at most. From then on nothing is found and nothing
    /// kept.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.shared.queue.push_always(Command::Close(done)).is_ok() {
            let _late = timeout(CLOSE_WITHIN, closed).await;
        }
        self.shared.withdraw();
    }

    /// Holds the store thread until something comes, for measuring what goes on meanwhile.
    #[doc(hidden)]
    pub fn stall(&self, until: Receiver<()>) {
        self.shared.count_dropped(&self.shared.queue.push_always(Command::Stall(until)));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let (done, _nobody_waits) = oneshot::channel();
        let _closed_before = self.shared.queue.push_always(Command::Close(done));
    }
}

impl Shared {
    fn new(
        settings: Settings,
        means: Hooks,
        clock: Clock,
        account: Arc<Telemetry>,
        events: Box<dyn DiskObserver>,
    ) -> Arc<Self> {
        let at_rest = Arc::new(FieldCipher::new(&settings.secret));
        let queue = Queue::of(settings.waiting);
        Arc::new(Self {
            settings,
            means,
            clock,
            account,
            open: ArcSwapOption::empty(),
            settled: watch::Sender::new(false),
            patience: Instant::from_std(clock::monotonic()) + OPENING,
            queue,
            sizes: Arc::default(),
            at_rest,
            condition: Mutex::new(Health::Good),
            full: AtomicBool::new(false),
            events,
        })
    }

    /// Makes a database the open one.
    fn publish(&self, database: Database, sizes: &DiskUsage) -> DiskWriter {
        let database = Arc::new(database);
        self.sizes.replace(sizes);
        self.open.store(Some(Arc::clone(&database)));
        self.set_condition(Health::Good);
        DiskWriter {
            database,
            sizes: Arc::clone(&self.sizes),
            at_rest: Arc::clone(&self.at_rest),
            account: Arc::clone(&self.account),
            bound: self.settings.bytes,
            so_far: 0,
            check: None,
        }
    }

    /// No database is open any more.
    fn withdraw(&self) {
        self.open.store(None);
        self.sizes.replace(&DiskUsage::default());
    }

    /// Memory only, for this reason.
    fn out_of_order(&self, why: String) {
        tracing::error!(why, "The store on disk cannot be used: larder goes on with memory only");
        self.set_condition(Health::MemoryOnly(why));
        self.settled.send_replace(true);
    }

    fn condition(&self) -> Health {
        let condition = self.condition.lock().clone();
        if condition == Health::Good && self.full.load(Ordering::Relaxed) {
            return Health::MemoryOnly(FULL.to_owned());
        }
        condition
    }

    fn set_condition(&self, condition: Health) {
        *self.condition.lock() = condition;
    }

    fn remove_damaged(&self, place: EntryId, hash: u64) {
        self.count_dropped(&self.queue.push(Command::Remove(place, hash)));
    }

    fn count_dropped(&self, queued: &Result<(), NotQueued>) {
        if *queued == Err(NotQueued::Full) {
            self.account.store_error(StoreOp::Drop, &"too much waits to be written");
        }
    }
}

/// The response of a record, its body found whole; `None` where it is not.
fn read(
    database: &Database,
    record: &DiskEntry,
    at_rest: &FieldCipher,
) -> io::Result<Option<StoredResponse>> {
    let Some(entry) = Entry::decode(&record.value) else { return Ok(None) };
    match entry.head.body_in {
        BodyLocation::Entry => Ok(entry.with_own_body(at_rest)),
        BodyLocation::File(number) => {
            let name = BodyFileName { id: record.place.id, number };
            let body = database.bodies.read(name, entry.head.body_len)?;
            Ok(body.and_then(|body| entry.with_body(Bytes::from(body), at_rest)))
        }
    }
}

fn page(
    database: &Database,
    at_rest: &FieldCipher,
    after: Option<EntryId>,
    limit: usize,
    target: Option<u128>,
) -> Result<Vec<EntryPage>, Fault> {
    let prefix = target.map_or_else(|| ENTRIES.to_vec(), keys::of_target);
    let mut after = after.map(|after| keys::entry(&after));
    let mut paged = Vec::new();
    // Once more where damaged ones were left out: an empty page says that nothing follows.
    while paged.is_empty() {
        let pairs = database.scan(&prefix, after.as_deref(), limit)?;
        let Some((last, _)) = pairs.last() else { break };
        after = Some(last.to_vec());
        paged.extend(pairs.iter().filter_map(|(key, value)| shown(key, value, at_rest)));
    }
    Ok(paged)
}

/// An entry as a listing shows it; `None` where it is damaged.
fn shown(key: &[u8], value: &[u8], at_rest: &FieldCipher) -> Option<EntryPage> {
    let place = keys::parse_entry(key)?;
    let entry = Entry::decode(value)?;
    let listed = EntryInfo {
        place,
        canonical: entry.canonical.into(),
        stored: Arc::new(entry.without_body(at_rest)?),
        body: entry.head.body_len,
        in_memory: false,
        on_disk: true,
    };
    Some(EntryPage { listed, mark: entry.head.mark })
}
