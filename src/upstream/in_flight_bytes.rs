//! Bodies that are held in memory on their way: how many bytes they may have together
//! (`limits.in_flight`).
//!
//! Owns: the count, over fills, recordings and what rules read; that whoever holds bytes gives them back;
//! how long a client that takes nothing, or little, may keep them.
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

/// A body of this length, inflated, is read by rules however much is held: who holds much must not have others'
/// errors taken for answers.
pub const READ_ALWAYS: usize = 64 * 1024;

/// What a piece costs beside its bytes.
pub const EACH: usize = 64;

/// What a client that takes nothing makes larder hold beside the pieces that are counted one by one: the
/// buffers of its connections, and the piece that it is being given.
pub const WAITED_FOR: usize = 128 * 1024;

/// Who holds no more than this, with all its answers, is borne until twice as much is held as for others: a
/// slow client with one answer is no reason for memory to be short.
const MODEST: usize = 1024 * 1024;

/// How much of an answer may come on a stream of HTTP/2 before it is read.
pub const SENT_AHEAD: u32 = 512 * 1024;

/// How long a client may take nothing while memory is just short; where twice as much is held, half as long.
/// One that is slow and steady seems to take nothing until a third of its socket's buffer is free.
const SHORT: Duration = Duration::from_secs(15);

/// How often that is looked at. Every client has that long.
const LOOK: Duration = Duration::from_secs(1);

/// The bytes a second that a client takes at least while memory is just short; where twice as much is
/// held, twice as many.
const SLOWEST: usize = 16 * 1024;

/// The bytes of all bodies that are held.
#[derive(Debug)]
pub struct InFlightBytes {
    used: AtomicUsize,
    /// What clients that are waited for make larder hold.
    waited_for: AtomicUsize,
    /// What the connections of clients have taken over and not sent.
    unsent: AtomicUsize,
    /// What the store has let go of and clients still have.
    lent: Arc<AtomicUsize>,
    cap: usize,
}

impl InFlightBytes {
    /// Room for `cap` bytes.
    pub fn new(cap: usize) -> Arc<Self> {
        Self::beside(cap, Arc::default())
    }

    /// The same; `lent` counts the bytes that the store has let go of and clients still have.
    pub fn beside(cap: usize, lent: Arc<AtomicUsize>) -> Arc<Self> {
        let [used, waited_for, unsent] = [0; 3].map(AtomicUsize::new);
        Arc::new(Self { used, waited_for, unsent, lent, cap })
    }

    /// All that is held, for clients that are waited for too.
    fn held(&self) -> usize {
        let parts = [&self.used, &self.waited_for, &self.unsent, &*self.lent];
        let add = |sum: usize, part: &AtomicUsize| sum.saturating_add(part.load(Ordering::Relaxed));
        parts.into_iter().fold(0, add)
    }

    /// From what on that is held in all a client counts as one that memory is short for; `own`: what it holds.
    fn enough_for(&self, own: usize) -> usize {
        if own <= MODEST { self.most().saturating_mul(2) } else { self.most() }
    }

    /// How long a client that holds `own` bytes may take nothing now, of the `usual` time: less where so much
    /// is held that bodies can no longer be kept whole, or soon cannot be.
    fn patience(&self, usual: Duration, own: usize) -> Duration {
        let (held, most) = (self.held(), self.enough_for(own));
        if held <= most {
            return usual;
        }
        let short = SHORT.as_millis() * most as u128 / held as u128;
        Duration::from_millis(u64::try_from(short).unwrap_or(u64::MAX))
            .clamp(LOOK.min(usual), usual)
    }

    /// Whether a client that holds `own` bytes may be waited for, when it has taken so many while it was
    /// `waited` for. The more is held in all, the more it must take.
    pub fn bears(&self, taken: usize, waited: Duration, own: usize) -> bool {
        let (held, most) = (self.held(), self.enough_for(own).max(1));
        let least = (held / 1024).saturating_mul(SLOWEST) / most.div_ceil(1024);
        let seconds = usize::try_from(waited.as_secs()).unwrap_or(usize::MAX);
        held <= most || taken >= least.saturating_mul(seconds)
    }

    /// What `taken` comes to; `None`: a client has taken nothing for the `usual` time, or for less where
    /// there is no room for what it keeps.
    pub async fn patiently<T>(&self, usual: Duration, taken: impl Future<Output = T>) -> Option<T> {
        self.patiently_for(Waiting { counted: WAITED_FOR, held: 0 }, None, usual, taken).await
    }

    /// The same for a client that is waiting so. `all`: where what it makes larder hold by all its answers is
    /// counted, if it has several.
    pub async fn patiently_for<T>(
        &self,
        waiting: Waiting,
        all: Option<&AtomicUsize>,
        usual: Duration,
        taken: impl Future<Output = T>,
    ) -> Option<T> {
        let mut taken = std::pin::pin!(taken);
        let _wait = HeldBytes::new(&self.waited_for, waiting.counted);
        let _own = all.map(|all| HeldBytes::new(all, waiting.counted));
        let since = clock::of_timers();
        loop {
            if let Ok(taken) = timeout(usual.min(LOOK), taken.as_mut()).await {
                return Some(taken);
            }
            let own = all.map_or(waiting.counted, |all| all.load(Ordering::Relaxed));
            if since.elapsed() >= self.patience(usual, own.saturating_add(waiting.held)) {
                return None;
            }
        }
    }

    /// Counts bytes that a client's connection has taken over, until they are [sent](Self::sent).
    pub fn unsent(&self, bytes: usize) {
        self.unsent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They are sent, or never will be.
    pub fn sent(&self, bytes: usize) {
        self.unsent.fetch_sub(bytes, Ordering::Relaxed);
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

    /// The bytes up to which pieces are gathered of a body that is then read. That takes its length twice
    /// again, and in memory that lies in one piece: what others have given back in small ones is of no use
    /// for it.
    fn most_to_read(&self) -> usize {
        self.cap / 3
    }

    /// Counts bytes if no more than `most` are held with them.
    fn take_within(&self, bytes: usize, most: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let within = used <= most;
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

/// A client that takes nothing for the moment.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// What it makes larder hold, as far as it is counted nowhere else.
    pub counted: usize,
    /// What else it holds: a body that it is given in one piece.
    pub held: usize,
}

/// What a client that is waited for makes larder hold.
struct HeldBytes<'a>(&'a AtomicUsize, usize);

impl<'a> HeldBytes<'a> {
    fn new(count: &'a AtomicUsize, bytes: usize) -> Self {
        count.fetch_add(bytes, Ordering::Relaxed);
        Self(count, bytes)
    }
}

impl Drop for HeldBytes<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Bytes that are held; given back when this is dropped.
#[derive(Debug)]
pub struct BytesPermit {
    of: Arc<InFlightBytes>,
    bytes: usize,
}

impl BytesPermit {
    /// None yet.
    pub fn new(of: &Arc<InFlightBytes>) -> Self {
        Self { of: Arc::clone(of), bytes: 0 }
    }

    /// More; false, and as many as before, where there is no room.
    pub fn add(&mut self, bytes: usize) -> bool {
        self.add_up_to(bytes, self.of.most())
    }

    /// More, whether or not there is room.
    pub fn take(&mut self, bytes: usize) {
        self.of.take(bytes);
        self.bytes += bytes;
    }

    /// More, where no more than `most` are held with them.
    fn add_up_to(&mut self, bytes: usize, most: usize) -> bool {
        let within = self.of.take_within(bytes, most);
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

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.of.give_back(self.bytes);
    }
}

/// Pieces of one body, held.
#[derive(Debug)]
pub struct BufferedPieces {
    pieces: VecDeque<Bytes>,
    length: usize,
    share: BytesPermit,
    most: usize,
    /// So much is gathered whether or not there is room.
    always: usize,
}

impl BufferedPieces {
    /// None yet.
    pub fn new(of: &Arc<InFlightBytes>) -> Self {
        Self::within(of, of.most(), 0)
    }

    /// None yet of a body that is read once all of it is there: there is less room for that, but always some
    /// for a [short one](READ_ALWAYS).
    pub fn to_read(of: &Arc<InFlightBytes>) -> Self {
        Self::within(of, of.most_to_read(), READ_ALWAYS)
    }

    fn within(of: &Arc<InFlightBytes>, most: usize, always: usize) -> Self {
        Self { pieces: VecDeque::new(), length: 0, share: BytesPermit::new(of), most, always }
    }

    /// Adds a piece; gives it back where there is no room.
    pub fn push(&mut self, piece: Bytes) -> Result<(), Bytes> {
        if piece.is_empty() {
            return Ok(());
        }
        if self.length + piece.len() <= self.always {
            self.share.take(piece.len() + EACH);
        } else if !self.share.add_up_to(piece.len() + EACH, self.most) {
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
    /// There always is for short ones.
    pub fn joined_within(&self, more: usize) -> Option<(Bytes, BytesPermit)> {
        let mut share = BytesPermit::new(&self.share.of);
        if self.length + more <= self.always {
            share.take(self.length + more);
            return Some((self.joined(), share));
        }
        share.add(self.length.saturating_add(more)).then(|| (self.joined(), share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_and_given_back() {
        let room = InFlightBytes::new((10_000 + 2 * EACH) * 4 / 3 + 1);
        let mut held = BufferedPieces::new(&room);
        assert!(held.push(Bytes::from(vec![1; 6000])).is_ok());
        let mut other = BufferedPieces::new(&room);
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
    async fn waited(room: Arc<InFlightBytes>) -> Duration {
        let (since, never) = (clock::of_timers(), std::future::pending::<()>());
        let waiting = Waiting { counted: WAITED_FOR, held: MODEST };
        assert_eq!(room.patiently_for(waiting, None, Duration::from_secs(60), never).await, None);
        since.elapsed()
    }

    async fn waited_beside(room: &Arc<InFlightBytes>) -> Duration {
        waited(Arc::clone(room)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_waited_for_as_long_as_there_is_room() {
        let lent = Arc::new(AtomicUsize::new(0));
        let room = InFlightBytes::beside(3 * WAITED_FOR, Arc::clone(&lent));
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
        assert!(waited[0] <= SHORT && waited[1] >= usual, "{waited:?}");
        // It is looked at again while it waits. Where ten times as much is held it has a tenth of the time.
        for lent_now in [2, 22] {
            let waiting = wait();
            tokio::time::sleep(SHORT).await;
            lent.store(lent_now * WAITED_FOR, Ordering::Relaxed);
            assert!(waiting.await.unwrap() <= SHORT + LOOK + Duration::from_millis(10));
            let short = waited_beside(&room).await;
            assert!(
                short <= SHORT * 3 / (u32::try_from(lent_now).unwrap() + 1) + LOOK,
                "{short:?}"
            );
            lent.store(0, Ordering::Relaxed);
        }
        assert_eq!(room.patience(usual, 0), usual, "nobody is waited for");
        assert_eq!(room.patiently(usual, async { 7 }).await, Some(7));
    }

    #[test]
    fn the_more_is_held_the_more_a_client_must_take() {
        let (room, mib) = (InFlightBytes::new(4 << 20), 1 << 20);
        let bears = |taken| room.bears(taken, Duration::from_secs(15), MODEST + 1);
        room.unsent(3 * mib);
        assert!(bears(0), "there is room");
        for (held, wanted) in [(4, 4), (6, 6), (30, 30)] {
            room.unsent((held - 3) * mib);
            let least = SLOWEST * 15 * wanted / 3;
            assert!(!bears(least - 1024) && bears(least), "{held} MiB: {least}");
            assert_eq!(room.bears(0, Duration::from_secs(15), MODEST), held <= 6, "{held} MiB");
            room.sent((held - 3) * mib);
        }
        room.sent(3 * mib);
        assert_eq!(room.held(), 0);
    }

    /// A chunk of one byte may come in a buffer that four kilobytes of extensions filled.
    #[test]
    fn a_small_piece_that_is_held_holds_no_large_buffer() {
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        let mut held = BufferedPieces::new(&InFlightBytes::new(1000));
        assert!(held.push(buffer.slice(..10)).is_ok());
        assert!(buffer.is_unique());
    }
}
