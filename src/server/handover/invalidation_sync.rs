//! What one of two larders invalidates, the other invalidates too, for as long as both answer: a write
//! that still goes through the old one, a purge that the new one acknowledges.
//!
//! Owns: the lines that the two tell each other, and that a purge waits for the other's word.
//! Never touches: what is invalidated, and why.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::key::CacheKey;
use crate::store::generations::{Epoch, InvalidationWatch, PurgeKind, PurgeScope};
use crate::store::tiered::TieredStore;
use crate::store::{EntryId, EntryInfo, Health, Lookup, Store, StoreQuery};
use crate::stored::StoredResponse;

/// How long a purge waits for the other larder; one that does not answer is about to end.
const WAIT: Duration = Duration::from_secs(2);

/// How long an answer that is kept waits for it.
const SOON: Duration = Duration::from_millis(50);

/// How many lines may wait for the other's word.
const UNCONFIRMED: u64 = 262_144;

/// A store whose invalidations another larder hears of.
pub(in crate::server) struct SyncedStore {
    store: Arc<TieredStore>,
    other: Mutex<Option<mpsc::UnboundedSender<Invalidation>>>,
    /// How many were told.
    told: AtomicU64,
    /// How many the other has confirmed.
    done: watch::Sender<u64>,
    /// The other has once left an answer waiting for its word: an earlier larder knows only some of the lines.
    silent: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct Invalidation {
    number: u64,
    reach: PurgeScope,
    kind: PurgeKind,
}

impl SyncedStore {
    pub(in crate::server) fn new(store: Arc<TieredStore>) -> Arc<Self> {
        let (other, told) = (Mutex::new(None), AtomicU64::new(0));
        let (done, silent) = (watch::Sender::new(0), AtomicBool::new(false));
        Arc::new(Self { store, other, told, done, silent })
    }

    /// The store itself.
    pub(in crate::server) fn tiers(&self) -> &TieredStore {
        &self.store
    }

    /// From now on whatever is invalidated is kept for the other larder, until what is returned ends.
    pub(in crate::server) fn open(self: &Arc<Self>) -> InvalidationSync {
        let (sender, told) = mpsc::unbounded_channel();
        *self.other.lock() = Some(sender);
        self.silent.store(false, Ordering::Relaxed);
        InvalidationSync { store: Arc::clone(self), told }
    }

    /// Waits for the other larder to have confirmed all that it was told so far.
    async fn confirmed(&self) {
        let told = self.told.load(Ordering::Relaxed);
        let mut done = self.done.subscribe();
        // It is this store's own sender: it is not gone.
        let _done = done.wait_for(|done| *done >= told).await.map(|done| *done);
    }

    fn note(&self, reach: PurgeScope, kind: PurgeKind) {
        let other = self.other.lock();
        let Some(sender) = &*other else { return };
        let unconfirmed = self.told.load(Ordering::Relaxed).saturating_sub(*self.done.borrow());
        if kind == PurgeKind::Superseded && unconfirmed > UNCONFIRMED {
            // It does not hear. It is told no more of what is stored here; of purges and writes it is.
            return;
        }
        let number = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        // Whoever would receive it is just ending: see `InvalidationSync::drop`.
        let _ended = sender.send(Invalidation { number, reach, kind });
    }
}

/// The line to the other larder.
pub(in crate::server) struct InvalidationSync {
    store: Arc<SyncedStore>,
    told: mpsc::UnboundedReceiver<Invalidation>,
}

impl Drop for InvalidationSync {
    fn drop(&mut self) {
        *self.store.other.lock() = None;
        // Nobody is left to confirm anything.
        self.store.done.send_replace(self.store.told.load(Ordering::Relaxed));
    }
}

impl InvalidationSync {
    /// Tells and hears over `stream` until the other larder has ended.
    pub(in crate::server) async fn run(mut self, stream: UnixStream) {
        if let Err(error) = self.converse(stream).await {
            tracing::debug!(%error, "The other larder is gone");
        }
    }

    async fn converse(&mut self, stream: UnixStream) -> io::Result<()> {
        let (reader, writer) = stream.into_split();
        let (heard, confirming) = mpsc::unbounded_channel();
        let store = Arc::clone(&self.store);
        // Neither waits for the other: both ends may be busy telling.
        tokio::select! {
            heard = hear(&store, reader, heard) => heard,
            told = tell(&mut self.told, confirming, writer) => told,
        }
    }
}

/// Invalidates what the other larder says, and notes what it has confirmed.
async fn hear(
    store: &SyncedStore,
    reader: OwnedReadHalf,
    heard: mpsc::UnboundedSender<u64>,
) -> io::Result<()> {
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(told) = Invalidation::parse(&line) {
            // Not told back: it came from there.
            store.store.invalidate(told.reach, told.kind);
            // Whoever would confirm it ends together with this.
            let _ended = heard.send(told.number);
        } else if let Some(Ok(done)) = line.strip_prefix("done ").map(str::parse::<u64>) {
            store.done.send_modify(|known| *known = done.max(*known));
            if done >= store.told.load(Ordering::Relaxed) {
                store.silent.store(false, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// Says what is invalidated here, and confirms what was heard.
async fn tell(
    told: &mut mpsc::UnboundedReceiver<Invalidation>,
    mut confirming: mpsc::UnboundedReceiver<u64>,
    mut writer: OwnedWriteHalf,
) -> io::Result<()> {
    loop {
        let line = tokio::select! {
            Some(told) = told.recv() => told.line(),
            Some(number) = confirming.recv() => format!("done {number}\n"),
            else => return Ok(()),
        };
        writer.write_all(line.as_bytes()).await?;
    }
}

impl Invalidation {
    fn line(self) -> String {
        let Self { number, reach, kind } = self;
        let kind = match kind {
            PurgeKind::Hard => "hard",
            PurgeKind::Soft => "soft",
            PurgeKind::Superseded => "superseded",
        };
        match reach {
            PurgeScope::All => format!("invalidate {number} all {kind}\n"),
            PurgeScope::Target(target) => format!("invalidate {number} {target:032x} {kind}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("invalidate ")?.split(' ');
        let number = words.next()?.parse().ok()?;
        let reach = match words.next()? {
            "all" => PurgeScope::All,
            target => PurgeScope::Target(u128::from_str_radix(target, 16).ok()?),
        };
        let kind = match words.next()? {
            "hard" => PurgeKind::Hard,
            "soft" => PurgeKind::Soft,
            "superseded" => PurgeKind::Superseded,
            _ => return None,
        };
        Some(Self { number, reach, kind })
    }
}

#[async_trait]
impl Store for SyncedStore {
    fn get(&self, wanted: StoreQuery<'_>) -> Lookup {
        self.store.get(wanted)
    }

    async fn load(&self, wanted: StoreQuery<'_>) -> Lookup {
        self.store.load(wanted).await
    }

    fn watch(&self, target: u128) -> InvalidationWatch {
        self.store.watch(target)
    }

    fn is_newer(&self, one: u64, other: u64) -> bool {
        self.store.is_newer(one, other)
    }

    fn is_current(&self, target: u128, mark: Epoch) -> bool {
        self.store.is_current(target, mark)
    }

    fn put(
        &self,
        key: &CacheKey,
        stored: Arc<StoredResponse>,
        mark: Epoch,
        until: Option<SystemTime>,
    ) -> bool {
        let is_newest = self.store.put(key, stored, mark, until);
        if is_newest {
            // Clients may be given it: what the other larder has is older.
            self.note(PurgeScope::Target(key.target_id()), PurgeKind::Superseded);
        }
        is_newest
    }

    async fn told(&self) {
        let is_there = self.other.lock().is_some() && !self.silent.load(Ordering::Relaxed);
        if is_there && timeout(SOON, self.confirmed()).await.is_err() {
            self.silent.store(true, Ordering::Relaxed);
        }
    }

    fn invalidate(&self, reach: PurgeScope, kind: PurgeKind) -> bool {
        let is_here = self.store.invalidate(reach, kind);
        self.note(reach, kind);
        is_here
    }

    fn may_keep(&self, target: u128) -> bool {
        self.store.may_keep(target)
    }

    async fn flush(&self) -> Result<(), String> {
        let confirmed = timeout(WAIT, self.confirmed());
        let (settled, _in_time) = tokio::join!(self.store.flush(), confirmed);
        settled
    }

    async fn list(
        &self,
        after: Option<EntryId>,
        limit: usize,
        target: Option<u128>,
    ) -> Vec<EntryInfo> {
        self.store.list(after, limit, target).await
    }

    fn condition(&self) -> Health {
        self.store.condition()
    }

    async fn release(&self) {
        self.store.release().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_as_it_was_meant() {
        for reach in [
            PurgeScope::All,
            PurgeScope::Target(0),
            PurgeScope::Target(u128::MAX),
            PurgeScope::Target(77),
        ] {
            for kind in [PurgeKind::Hard, PurgeKind::Soft, PurgeKind::Superseded] {
                let line = Invalidation { number: 9, reach, kind }.line();
                let heard = Invalidation::parse(line.trim_end()).expect("it is a line");
                assert_eq!((heard.number, heard.reach, heard.kind), (9, reach, kind), "{line}");
            }
        }
        for other in ["", "done 5", "invalidate", "invalidate x all hard", "invalidate 1 all warm"]
        {
            assert!(Invalidation::parse(other).is_none(), "{other}");
        }
    }
}
