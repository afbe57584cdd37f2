//! Bodies that are held in memory on their way: how many bytes they may have together
//! (`limits.in_flight`).
//!
//! Owns: the count, over fills, recordings and what rules read; that whoever holds bytes gives them back;
//! how long a client that takes nothing may keep them.
//! Never touches: what the bodies are held for, or what becomes of one for which there is no room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::clock;

/// Smaller pieces are copied where they are held: each holds the whole buffer that it was read into, which
/// may have held much else.
pub const SMALL: usize = 4 * 1024;

/// What a piece costs beside its bytes.
pub const EACH: usize = 64;

/// What a client that takes nothing makes larder hold beside the pieces that are counted one by one: the
/// buffers of its connections, and the piece that it is being given.
const WAITED_FOR: usize = 128 * 1024;

/// How long a client may take nothing while more is held than there is room for. One that is slow and
/// steady seems to take nothing until a third of its socket's buffer is free.
const SHORT: Duration = Duration::from_secs(15);

/// The bytes of all bodies that are held.
#[derive(Debug)]
pub struct InFlight {
    used: AtomicUsize,
    /// Clients that are waited for.
    waits: AtomicUsize,
    /// What the store has let go of and clients still have.
    lent: Arc<AtomicUsize>,
    cap: usize,
}

impl InFlight {
    /// Room for `cap` bytes.
    pub fn new(cap: usize) -> Arc<Self> {
        Self::beside(cap, Arc::default())
    }

    /// The same; `lent` counts the bytes that the store has let go of and clients still have.
    pub fn beside(cap: usize, lent: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), waits: AtomicUsize::new(0), lent, cap })
    }

    /// Whether more is held, for clients that are waited for too, than there is room for.
    fn is_over(&self) -> bool {
        let waits = self.waits.load(Ordering::Relaxed).saturating_mul(WAITED_FOR);
        let lent = self.lent.load(Ordering::Relaxed);
        self.used().saturating_add(waits).saturating_add(lent) > self.cap
    }

    /// How long a client may take nothing now, of the `usual` time.
    pub fn patience(&self, usual: Duration) -> Duration {
        if self.is_over() { usual.min(SHORT) } else { usual }
    }

    /// What `taken` comes to; `None`: a client has taken nothing for the `usual` time, or for less where
    /// there is no room for what it keeps.
    pub async fn patiently<T>(&self, usual: Duration, taken: impl Future<Output = T>) -> Option<T> {
        let mut taken = std::pin::pin!(taken);
        let _wait = Wait::begin(&self.waits);
        let since = clock::of_timers();
        loop {
            if let Ok(taken) = timeout(usual.min(SHORT), taken.as_mut()).await {
                return Some(taken);
            }
            if since.elapsed() >= self.patience(usual) {
                return None;
            }
        }
    }

    /// Whether there is room for no more bodies that are kept whole.
    pub fn is_spent(&self) -> bool {
        self.used() >= self.most()
    }

    /// The bytes of bodies that are kept whole, until they are stored, read or let go. A quarter is left to
    /// bodies that flow: those are counted whether or not there is room.
    fn most(&self) -> usize {
        self.cap - self.cap / 4
    }

    /// The bytes that are held.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts bytes whether or not there is room.
    pub fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes if there is room for them.
    fn take_within(&self, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let within = used <= self.most();
        if !within {
            self.give_back(bytes);
        }
        within
    }

    /// They are held no longer.
    pub fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A client that is waited for.
struct Wait<'a>(&'a AtomicUsize);

impl<'a> Wait<'a> {
    fn begin(waits: &'a AtomicUsize) -> Self {
        waits.fetch_add(1, Ordering::Relaxed);
        Self(waits)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that are held; given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<InFlight>,
    bytes: usize,
}

impl Share {
    /// None yet.
    pub fn new(of: &Arc<InFlight>) -> Self {
        Self { of: Arc::clone(of), bytes: 0 }
    }

    /// More; false, and as many as before, where there is no room.
    pub fn add(&mut self, bytes: usize) -> bool {
        let within = self.of.take_within(bytes);
        self.bytes += if within { bytes } else { 0 };
        within
    }

    /// All of it is held no longer.
    pub fn give_all_back(&mut self) {
        self.give_back(self.bytes);
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.of.give_back(bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.give_back(self.bytes);
    }
}

/// Pieces of one body, held.
#[derive(Debug)]
pub struct Gathered {
    pieces: VecDeque<Bytes>,
    length: usize,
    share: Share,
}

impl Gathered {
    /// None yet.
    pub fn new(of: &Arc<InFlight>) -> Self {
        Self { pieces: VecDeque::new(), length: 0, share: Share::new(of) }
    }

    /// Adds a piece; gives it back where there is no room.
    pub fn push(&mut self, piece: Bytes) -> Result<(), Bytes> {
        if piece.is_empty() {
            return Ok(());
        }
        if !self.share.add(piece.len() + EACH) {
            return Err(piece);
        }
        let small = piece.len() < SMALL;
        self.length += piece.len();
        self.pieces.push_back(if small { Bytes::copy_from_slice(&piece) } else { piece });
        Ok(())
    }

    /// Takes the first piece out.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.length -= piece.len();
        self.share.give_back(piece.len() + EACH);
        Some(piece)
    }

    /// The bytes of all pieces.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first byte.
    pub fn first(&self) -> Option<u8> {
        self.pieces.iter().find_map(|piece| piece.first().copied())
    }

    /// All of it in one piece, which the pieces do not share.
    pub fn joined(&self) -> Bytes {
        let mut joined = BytesMut::with_capacity(self.length);
        self.pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        joined.freeze()
    }

    /// The same, if there is room for it beside the pieces, and for `more` bytes: with what holds that room.
    pub fn joined_within(&self, more: usize) -> Option<(Bytes, Share)> {
        let mut share = Share::new(&self.share.of);
        share.add(self.length.saturating_add(more)).then(|| (self.joined(), share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_and_given_back() {
        let room = InFlight::new((10_000 + 2 * EACH) * 4 / 3 + 1);
        let mut held = Gathered::new(&room);
        assert!(held.push(Bytes::from(vec![1; 6000])).is_ok());
        let mut other = Gathered::new(&room);
        let refused = other.push(Bytes::from(vec![2; 6000]));
        assert_eq!(refused.map_err(|piece| piece.len()), Err(6000));
        assert!(other.push(Bytes::from(vec![2; 4000])).is_ok());
        assert!(room.used() <= room.most() && !other.share.add(2));
        assert!(held.joined_within(0).is_none(), "no room for a copy");
        drop(other);
        assert_eq!(room.used(), 6000 + EACH);
        assert_eq!((held.len(), held.first(), held.joined().len()), (6000, Some(1), 6000));
        assert_eq!(held.pop().map(|piece| piece.len()), Some(6000));
        assert_eq!((room.used(), held.is_empty(), held.pop()), (0, true, None));
    }

    /// How long a client that takes nothing is waited for, where a minute is usual.
    async fn waited(room: Arc<InFlight>) -> Duration {
        let (since, never) = (clock::of_timers(), std::future::pending::<()>());
        assert_eq!(room.patiently(Duration::from_secs(60), never).await, None);
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_waited_for_as_long_as_there_is_room() {
        let lent = Arc::new(AtomicUsize::new(0));
        let room = InFlight::beside(2 * WAITED_FOR, Arc::clone(&lent));
        let usual = Duration::from_secs(60);
        let wait = || tokio::spawn(waited(Arc::clone(&room)));
        for waiting in [wait(), wait()] {
            assert!(waiting.await.unwrap() >= usual);
        }
        let mut waited = Vec::new();
        for waiting in [wait(), wait(), wait()] {
            waited.push(waiting.await.unwrap());
        }
        waited.sort();
        // No more of them than have to go.
        assert!(waited[0] <= SHORT + Duration::from_millis(10) && waited[1] >= usual, "{waited:?}");
        // It is looked at again while it waits.
        let waiting = wait();
        tokio::time::sleep(SHORT).await;
        lent.store(2 * WAITED_FOR, Ordering::Relaxed);
        assert!(waiting.await.unwrap() <= 2 * SHORT + Duration::from_millis(10));
        assert_eq!(room.patience(usual), usual, "nobody is waited for");
        assert_eq!(room.patiently(usual, async { 7 }).await, Some(7));
    }

    /// A chunk of one byte may come in a buffer that four kilobytes of extensions filled.
    #[test]
    fn a_small_piece_that_is_held_holds_no_large_buffer() {
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        let mut held = Gathered::new(&InFlight::new(1000));
        assert!(held.push(buffer.slice(..10)).is_ok());
        assert!(buffer.is_unique());
    }
}
