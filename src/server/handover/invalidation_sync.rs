//! Synchronises invalidations between two larder processes while both serve: a write that still passes
//! through the old one, a purge that the new one acknowledges.
//!
//! Owns: the lines that the two processes exchange; waiting for the peer's confirmation of a purge.
//! Never touches: which responses are invalidated, and why.

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

/// Maximum time that a purge waits for the peer; a peer that does not reply is about to exit.
const PURGE_WAIT: Duration = Duration::from_secs(2);

/// Maximum time that a response to be stored waits for the peer.
const STORE_WAIT: Duration = Duration::from_millis(50);

/// Maximum number of unconfirmed lines.
const MAX_UNCONFIRMED: u64 = 262_144;

/// A store that reports its invalidations to a peer process.
pub(in crate::server) struct SyncedStore {
    store: Arc<TieredStore>,
    peer: Mutex<Option<mpsc::UnboundedSender<Invalidation>>>,
    /// Number of invalidations sent.
    sent: AtomicU64,
    /// Number of invalidations that the peer has confirmed.
    confirmed: watch::Sender<u64>,
    /// Whether the peer once failed to confirm in time: an earlier version knows only some of the lines.
    is_unresponsive: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct Invalidation {
    number: u64,
    scope: PurgeScope,
    kind: PurgeKind,
}

impl SyncedStore {
    pub(in crate::server) fn new(store: Arc<TieredStore>) -> Arc<Self> {
        let (peer, sent) = (Mutex::new(None), AtomicU64::new(0));
        let (confirmed, is_unresponsive) = (watch::Sender::new(0), AtomicBool::new(false));
        Arc::new(Self { store, peer, sent, confirmed, is_unresponsive })
    }

    /// The underlying store.
    pub(in crate::server) fn tiered_store(&self) -> &TieredStore {
        &self.store
    }

    /// Starts queueing invalidations for the peer, until the returned value is dropped.
    pub(in crate::server) fn start_sync(self: &Arc<Self>) -> InvalidationSync {
        let (sender, invalidations) = mpsc::unbounded_channel();
        *self.peer.lock() = Some(sender);
        self.is_unresponsive.store(false, Ordering::Relaxed);
        InvalidationSync { store: Arc::clone(self), invalidations }
    }

    /// Waits until the peer has confirmed everything sent so far.
    async fn wait_for_confirmation(&self) {
        let sent = self.sent.load(Ordering::Relaxed);
        let mut confirmed = self.confirmed.subscribe();
        // The sender belongs to this store, so it cannot be closed.
        let _confirmed = confirmed.wait_for(|number| *number >= sent).await.map(|number| *number);
    }

    fn send_to_peer(&self, scope: PurgeScope, kind: PurgeKind) {
        let peer = self.peer.lock();
        let Some(sender) = &*peer else { return };
        let unconfirmed =
            self.sent.load(Ordering::Relaxed).saturating_sub(*self.confirmed.borrow());
        if kind == PurgeKind::Superseded && unconfirmed > MAX_UNCONFIRMED {
            // The peer does not confirm. It gets no more superseded entries; purges and writes are still
            // sent.
            return;
        }
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        // The receiver is just being dropped: see `InvalidationSync::drop`.
        let _ended = sender.send(Invalidation { number, scope, kind });
    }
}

/// The connection to the peer.
pub(in crate::server) struct InvalidationSync {
    store: Arc<SyncedStore>,
    invalidations: mpsc::UnboundedReceiver<Invalidation>,
}

impl Drop for InvalidationSync {
    fn drop(&mut self) {
        *self.store.peer.lock() = None;
        // No peer is left to confirm.
        self.store.confirmed.send_replace(self.store.sent.load(Ordering::Relaxed));
    }
}

impl InvalidationSync {
    /// Sends and receives over `stream` until the peer has exited.
    pub(in crate::server) async fn run(mut self, stream: UnixStream) {
        if let Err(error) = self.exchange(stream).await {
            tracing::debug!(%error, "Connection to the other larder closed");
        }
    }

    async fn exchange(&mut self, stream: UnixStream) -> io::Result<()> {
        let (reader, writer) = stream.into_split();
        let (received, confirmations) = mpsc::unbounded_channel();
        let store = Arc::clone(&self.store);
        // Both directions run concurrently, because both peers may be busy sending.
        tokio::select! {
            result = receive(&store, reader, received) => result,
            result = send(&mut self.invalidations, confirmations, writer) => result,
        }
    }
}

/// Applies the peer's invalidations and records its confirmations.
async fn receive(
    store: &SyncedStore,
    reader: OwnedReadHalf,
    received: mpsc::UnboundedSender<u64>,
) -> io::Result<()> {
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(invalidation) = Invalidation::parse(&line) {
            // Applied to the inner store, so that it is not sent back to the peer.
            store.store.invalidate(invalidation.scope, invalidation.kind);
            // The receiver ends together with this task.
            let _ended = received.send(invalidation.number);
        } else if let Some(Ok(number)) = line.strip_prefix("done ").map(str::parse::<u64>) {
            store.confirmed.send_modify(|known| *known = number.max(*known));
            if number >= store.sent.load(Ordering::Relaxed) {
                store.is_unresponsive.store(false, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// Sends local invalidations and confirms those of the peer.
async fn send(
    invalidations: &mut mpsc::UnboundedReceiver<Invalidation>,
    mut confirmations: mpsc::UnboundedReceiver<u64>,
    mut writer: OwnedWriteHalf,
) -> io::Result<()> {
    loop {
        let line = tokio::select! {
            Some(invalidation) = invalidations.recv() => invalidation.line(),
            Some(number) = confirmations.recv() => format!("done {number}\n"),
            else => return Ok(()),
        };
        writer.write_all(line.as_bytes()).await?;
    }
}

impl Invalidation {
    fn line(self) -> String {
        let Self { number, scope, kind } = self;
        let kind = match kind {
            PurgeKind::Hard => "hard",
            PurgeKind::Soft => "soft",
            PurgeKind::Superseded => "superseded",
        };
        match scope {
            PurgeScope::All => format!("invalidate {number} all {kind}\n"),
            PurgeScope::Target(target) => format!("invalidate {number} {target:032x} {kind}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("invalidate ")?.split(' ');
        let number = words.next()?.parse().ok()?;
        let scope = match words.next()? {
            "all" => PurgeScope::All,
            target => PurgeScope::Target(u128::from_str_radix(target, 16).ok()?),
        };
        let kind = match words.next()? {
            "hard" => PurgeKind::Hard,
            "soft" => PurgeKind::Soft,
            "superseded" => PurgeKind::Superseded,
            _ => return None,
        };
        Some(Self { number, scope, kind })
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

    fn is_current(&self, target: u128, epoch: Epoch) -> bool {
        self.store.is_current(target, epoch)
    }

    fn put(
        &self,
        key: &CacheKey,
        stored: Arc<StoredResponse>,
        epoch: Epoch,
        until: Option<SystemTime>,
    ) -> bool {
        let is_newest = self.store.put(key, stored, epoch, until);
        if is_newest {
            // Clients may get this response now; the peer's is older.
            self.send_to_peer(PurgeScope::Target(key.target_id()), PurgeKind::Superseded);
        }
        is_newest
    }

    async fn sync_peer(&self) {
        let has_peer = self.peer.lock().is_some() && !self.is_unresponsive.load(Ordering::Relaxed);
        if has_peer && timeout(STORE_WAIT, self.wait_for_confirmation()).await.is_err() {
            self.is_unresponsive.store(true, Ordering::Relaxed);
        }
    }

    fn invalidate(&self, scope: PurgeScope, kind: PurgeKind) -> bool {
        let has_effect = self.store.invalidate(scope, kind);
        self.send_to_peer(scope, kind);
        has_effect
    }

    fn may_contain(&self, target: u128) -> bool {
        self.store.may_contain(target)
    }

    async fn flush(&self) -> Result<(), String> {
        let confirmed = timeout(PURGE_WAIT, self.wait_for_confirmation());
        let (flushed, _in_time) = tokio::join!(self.store.flush(), confirmed);
        flushed
    }

    async fn list(
        &self,
        after: Option<EntryId>,
        limit: usize,
        target: Option<u128>,
    ) -> Vec<EntryInfo> {
        self.store.list(after, limit, target).await
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    async fn release(&self) {
        self.store.release().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalidation_line_parses_back_to_the_same_invalidation() {
        for scope in [
            PurgeScope::All,
            PurgeScope::Target(0),
            PurgeScope::Target(u128::MAX),
            PurgeScope::Target(77),
        ] {
            for kind in [PurgeKind::Hard, PurgeKind::Soft, PurgeKind::Superseded] {
                let line = Invalidation { number: 9, scope, kind }.line();
                let parsed = Invalidation::parse(line.trim_end()).expect("the line is valid");
                assert_eq!((parsed.number, parsed.scope, parsed.kind), (9, scope, kind), "{line}");
            }
        }
        for other in ["", "done 5", "invalidate", "invalidate x all hard", "invalidate 1 all warm"]
        {
            assert!(Invalidation::parse(other).is_none(), "{other}");
        }
    }
}
