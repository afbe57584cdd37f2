//! The limit on bytes of bodies that are buffered in transit (`limits.in_flight`).
//!
//! Owns: the count over fills, captured and inspected bodies; the release of counted bytes; how long a client
//! that reads nothing, or little, may keep bytes buffered.
//! Never touches: the purpose of a buffered body, or the handling of a body that exceeds the limit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::clock::Clock;

/// Smaller pieces are copied when they are buffered, because a piece keeps the whole buffer alive that it was
/// read into, and that buffer may have contained much else.
pub const COPY_THRESHOLD: usize = 4 * 1024;

/// Rules inspect a body up to this length (inflated) even if the limit is reached: clients that occupy much
/// memory must not cause the errors of other clients to be taken for successful responses.
pub const ALWAYS_INSPECTED: usize = 64 * 1024;

/// Memory overhead of a buffered piece in addition to its bytes.
pub const PIECE_OVERHEAD: usize = 64;

/// Memory that a stalled client occupies in addition to the pieces that are counted one by one: the buffers
/// of its connections, and the piece that is being written to it.
pub const STALLED_CLIENT_BYTES: usize = 128 * 1024;

/// Clients that occupy no more than this with all their responses have twice the threshold of others: a slow
/// client with one response is no reason for memory pressure.
const SMALL_CLIENT: usize = 1024 * 1024;

/// Flow-control window of an HTTP/2 stream: bytes of a response that an origin may send before they are read.
pub const RECEIVE_WINDOW: u32 = 512 * 1024;

/// How long a client may read nothing at the onset of memory pressure; at twice the threshold half as long. A
/// slow but steady client seems to read nothing until a third of its socket buffer is free.
const PRESSURE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often the deadline is checked, and the minimum that every client gets.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes per second that a client must read at the onset of memory pressure; at twice the threshold twice as
/// many.
const MIN_RATE: usize = 16 * 1024;

/// Counts the bytes of all buffered bodies.
#[derive(Debug)]
pub struct InFlightBytes {
    used: AtomicUsize,
    /// Memory that stalled clients occupy.
    stalled: AtomicUsize,
    /// Bytes that client connections have accepted and not yet sent.
    unsent: AtomicUsize,
    /// Bytes of bodies that the store has evicted and clients still read.
    evicted: Arc<AtomicUsize>,
    cap: usize,
}

impl InFlightBytes {
    /// A limit of `cap` bytes.
    pub fn new(cap: usize) -> Arc<Self> {
        Self::with_evicted(cap, Arc::default())
    }

    /// The same; `evicted` counts the bytes of bodies that the store has evicted and clients still read.
    pub fn with_evicted(cap: usize, evicted: Arc<AtomicUsize>) -> Arc<Self> {
        let [used, stalled, unsent] = [0; 3].map(AtomicUsize::new);
        Arc::new(Self { used, stalled, unsent, evicted, cap })
    }

    /// All memory in use, including that of stalled clients.
    fn total(&self) -> usize {
        let parts = [&self.used, &self.stalled, &self.unsent, &*self.evicted];
        let add = |sum: usize, part: &AtomicUsize| sum.saturating_add(part.load(Ordering::Relaxed));
        parts.into_iter().fold(0, add)
    }

    /// The total above which memory pressure applies to a client that occupies `own` bytes.
    fn pressure_threshold(&self, own: usize) -> usize {
        if own <= SMALL_CLIENT {
            self.whole_body_limit().saturating_mul(2)
        } else {
            self.whole_body_limit()
        }
    }

    /// How long a client that occupies `own` bytes may read nothing: `usual`, or less if there is no longer,
    /// or soon will be no, memory to keep bodies whole.
    fn stall_timeout(&self, usual: Duration, own: usize) -> Duration {
        let (total, threshold) = (self.total(), self.pressure_threshold(own));
        if total <= threshold {
            return usual;
        }
        let short = PRESSURE_TIMEOUT.as_millis() * threshold as u128 / total as u128;
        Duration::from_millis(u64::try_from(short).unwrap_or(u64::MAX))
            .clamp(CHECK_INTERVAL.min(usual), usual)
    }

    /// Whether a client that occupies `own` bytes is fast enough to be waited for: it has read `taken` bytes
    /// within `waited`. The higher the total, the more it must have read.
    pub fn is_fast_enough(&self, taken: usize, waited: Duration, own: usize) -> bool {
        let (total, threshold) = (self.total(), self.pressure_threshold(own).max(1));
        let least = (total / 1024).saturating_mul(MIN_RATE) / threshold.div_ceil(1024);
        let seconds = usize::try_from(waited.as_secs()).unwrap_or(usize::MAX);
        total <= threshold || taken >= least.saturating_mul(seconds)
    }

    /// The result of `taken`; `None`: the client has read nothing for the `usual` time, or for less under
    /// memory pressure.
    pub async fn with_stall_timeout<T>(
        &self,
        usual: Duration,
        taken: impl Future<Output = T>,
    ) -> Option<T> {
        self.with_stall_timeout_for(
            StalledClient { counted: STALLED_CLIENT_BYTES, body_bytes: 0 },
            None,
            usual,
            taken,
        )
        .await
    }

    /// The same for a stalled client. `all` counts the memory that all of its responses occupy, if it has
    /// several.
    pub async fn with_stall_timeout_for<T>(
        &self,
        client: StalledClient,
        all: Option<&AtomicUsize>,
        usual: Duration,
        taken: impl Future<Output = T>,
    ) -> Option<T> {
        let mut taken = std::pin::pin!(taken);
        let _wait = CountedBytes::new(&self.stalled, client.counted);
        let _own = all.map(|all| CountedBytes::new(all, client.counted));
        let since = Clock::timer_now();
        loop {
            if let Ok(taken) = timeout(usual.min(CHECK_INTERVAL), taken.as_mut()).await {
                return Some(taken);
            }
            let own = all.map_or(client.counted, |all| all.load(Ordering::Relaxed));
            if since.elapsed() >= self.stall_timeout(usual, own.saturating_add(client.body_bytes)) {
                return None;
            }
        }
    }

    /// Counts bytes that a client connection has accepted, until [`Self::remove_unsent`].
    pub fn add_unsent(&self, bytes: usize) {
        self.unsent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Removes bytes that have been sent, or never will be.
    pub fn remove_unsent(&self, bytes: usize) {
        self.unsent.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether no further body can be kept whole.
    pub fn is_full(&self) -> bool {
        self.used() >= self.whole_body_limit()
    }

    /// The limit for bodies that are kept whole until they are stored, read or dropped. A quarter of the
    /// total is left to streamed bodies, which are counted without a check.
    fn whole_body_limit(&self) -> usize {
        self.cap - self.cap / 4
    }

    /// The bytes of buffered bodies.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts bytes without checking the limit.
    pub fn reserve(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The limit for a body that is buffered to be inspected. Inspection needs twice the length again, in
    /// contiguous memory, for which small pieces that others have released are of no use.
    fn inspection_limit(&self) -> usize {
        self.cap / 3
    }

    /// Counts bytes if the count then stays within `limit`.
    fn try_reserve(&self, bytes: usize, limit: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let within = used <= limit;
        if !within {
            self.release(bytes);
        }
        within
    }

    /// Removes bytes from the count.
    pub fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A client that currently reads nothing.
#[derive(Debug, Clone, Copy)]
pub struct StalledClient {
    /// The memory that it occupies and that is not counted elsewhere.
    pub counted: usize,
    /// Further memory that it occupies: a body that is written to it in one piece.
    pub body_bytes: usize,
}

/// Counts bytes in a counter until it is dropped.
struct CountedBytes<'a>(&'a AtomicUsize, usize);

impl<'a> CountedBytes<'a> {
    fn new(count: &'a AtomicUsize, bytes: usize) -> Self {
        count.fetch_add(bytes, Ordering::Relaxed);
        Self(count, bytes)
    }
}

impl Drop for CountedBytes<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Counted bytes; they are released on drop.
#[derive(Debug)]
pub struct BytesPermit {
    in_flight: Arc<InFlightBytes>,
    bytes: usize,
}

impl BytesPermit {
    /// A permit for no bytes yet.
    pub fn new(in_flight: &Arc<InFlightBytes>) -> Self {
        Self { in_flight: Arc::clone(in_flight), bytes: 0 }
    }

    /// Adds bytes; false: the limit is reached and nothing was added.
    pub fn try_reserve(&mut self, bytes: usize) -> bool {
        self.try_reserve_within(bytes, self.in_flight.whole_body_limit())
    }

    /// Adds bytes without checking the limit.
    pub fn reserve(&mut self, bytes: usize) {
        self.in_flight.reserve(bytes);
        self.bytes += bytes;
    }

    /// Adds bytes if the count then stays within `limit`.
    fn try_reserve_within(&mut self, bytes: usize, limit: usize) -> bool {
        let within = self.in_flight.try_reserve(bytes, limit);
        self.bytes += if within { bytes } else { 0 };
        within
    }

    /// Releases all bytes.
    pub fn release_all(&mut self) {
        self.release(self.bytes);
    }

    fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.in_flight.release(bytes);
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.in_flight.release(self.bytes);
    }
}

/// Buffered pieces of one body; their bytes are counted.
#[derive(Debug)]
pub struct BufferedPieces {
    pieces: VecDeque<Bytes>,
    length: usize,
    permit: BytesPermit,
    limit: usize,
    /// Bytes that are buffered without checking the limit.
    unchecked: usize,
}

impl BufferedPieces {
    /// No pieces yet.
    pub fn new(in_flight: &Arc<InFlightBytes>) -> Self {
        Self::with_limit(in_flight, in_flight.whole_body_limit(), 0)
    }

    /// No pieces yet of a body that is inspected once it is complete. The limit is lower, but a body of up to
    /// [`ALWAYS_INSPECTED`] bytes always fits.
    pub fn for_inspection(in_flight: &Arc<InFlightBytes>) -> Self {
        Self::with_limit(in_flight, in_flight.inspection_limit(), ALWAYS_INSPECTED)
    }

    fn with_limit(in_flight: &Arc<InFlightBytes>, limit: usize, unchecked: usize) -> Self {
        Self {
            pieces: VecDeque::new(),
            length: 0,
            permit: BytesPermit::new(in_flight),
            limit,
            unchecked,
        }
    }

    /// Adds a piece; returns it as the error if the limit is reached.
    pub fn push(&mut self, piece: Bytes) -> Result<(), Bytes> {
        if piece.is_empty() {
            return Ok(());
        }
        if self.length + piece.len() <= self.unchecked {
            self.permit.reserve(piece.len() + PIECE_OVERHEAD);
        } else if !self.permit.try_reserve_within(piece.len() + PIECE_OVERHEAD, self.limit) {
            return Err(piece);
        }
        let small = piece.len() < COPY_THRESHOLD;
        self.length += piece.len();
        self.pieces.push_back(if small { Bytes::copy_from_slice(&piece) } else { piece });
        Ok(())
    }

    /// Removes the first piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.length -= piece.len();
        self.permit.release(piece.len() + PIECE_OVERHEAD);
        Some(piece)
    }

    /// Total length of all pieces.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first byte.
    pub fn first(&self) -> Option<u8> {
        self.pieces.iter().find_map(|piece| piece.first().copied())
    }

    /// A copy of the body in one piece.
    pub fn joined(&self) -> Bytes {
        let mut joined = BytesMut::with_capacity(self.length);
        self.pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        joined.freeze()
    }

    /// The same with a permit for the copy and `more` bytes; `None`: that would exceed the limit. A short
    /// body always fits.
    pub fn try_joined(&self, more: usize) -> Option<(Bytes, BytesPermit)> {
        let mut permit = BytesPermit::new(&self.permit.in_flight);
        if self.length + more <= self.unchecked {
            permit.reserve(self.length + more);
            return Some((self.joined(), permit));
        }
        permit.try_reserve(self.length.saturating_add(more)).then(|| (self.joined(), permit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffered_pieces_are_counted_and_released() {
        let in_flight = InFlightBytes::new((10_000 + 2 * PIECE_OVERHEAD) * 4 / 3 + 1);
        let mut pieces = BufferedPieces::new(&in_flight);
        assert!(pieces.push(Bytes::from(vec![1; 6000])).is_ok());
        let mut other = BufferedPieces::new(&in_flight);
        let refused = other.push(Bytes::from(vec![2; 6000]));
        assert_eq!(refused.map_err(|piece| piece.len()), Err(6000));
        assert!(other.push(Bytes::from(vec![2; 4000])).is_ok());
        assert!(in_flight.used() <= in_flight.whole_body_limit() && !other.permit.try_reserve(2));
        assert!(pieces.try_joined(0).is_none(), "a copy exceeds the limit");
        drop(other);
        assert_eq!(in_flight.used(), 6000 + PIECE_OVERHEAD);
        assert_eq!((pieces.len(), pieces.first(), pieces.joined().len()), (6000, Some(1), 6000));
        assert_eq!(pieces.pop().map(|piece| piece.len()), Some(6000));
        assert_eq!((in_flight.used(), pieces.is_empty(), pieces.pop()), (0, true, None));
    }

    /// How long larder waits for a stalled client if the usual time is a minute.
    async fn time_until_stalled(in_flight: Arc<InFlightBytes>) -> Duration {
        let (since, never) = (Clock::timer_now(), std::future::pending::<()>());
        let waiting = StalledClient { counted: STALLED_CLIENT_BYTES, body_bytes: SMALL_CLIENT };
        assert_eq!(
            in_flight.with_stall_timeout_for(waiting, None, Duration::from_secs(60), never).await,
            None
        );
        since.elapsed()
    }

    async fn time_until_stalled_now(in_flight: &Arc<InFlightBytes>) -> Duration {
        time_until_stalled(Arc::clone(in_flight)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_client_gets_the_usual_time_while_memory_suffices() {
        let evicted = Arc::new(AtomicUsize::new(0));
        let in_flight = InFlightBytes::with_evicted(3 * STALLED_CLIENT_BYTES, Arc::clone(&evicted));
        let usual = Duration::from_secs(60);
        let wait = || tokio::spawn(time_until_stalled(Arc::clone(&in_flight)));
        for waiting in [wait(), wait()] {
            assert!(waiting.await.unwrap() >= usual);
        }
        let mut waited = Vec::new();
        for waiting in [wait(), wait(), wait()] {
            waited.push(waiting.await.unwrap());
        }
        waited.sort();
        // Only as many clients are dropped as necessary.
        assert!(waited[0] <= PRESSURE_TIMEOUT && waited[1] >= usual, "{waited:?}");
        // The deadline is recomputed while the client waits. At ten times the threshold it has a tenth of the
        // time.
        for evicted_now in [2, 22] {
            let waiting = wait();
            tokio::time::sleep(PRESSURE_TIMEOUT).await;
            evicted.store(evicted_now * STALLED_CLIENT_BYTES, Ordering::Relaxed);
            assert!(
                waiting.await.unwrap()
                    <= PRESSURE_TIMEOUT + CHECK_INTERVAL + Duration::from_millis(10)
            );
            let short = time_until_stalled_now(&in_flight).await;
            assert!(
                short
                    <= PRESSURE_TIMEOUT * 3 / (u32::try_from(evicted_now).unwrap() + 1)
                        + CHECK_INTERVAL,
                "{short:?}"
            );
            evicted.store(0, Ordering::Relaxed);
        }
        assert_eq!(in_flight.stall_timeout(usual, 0), usual, "no client is stalled");
        assert_eq!(in_flight.with_stall_timeout(usual, async { 7 }).await, Some(7));
    }

    #[test]
    fn the_required_rate_grows_with_the_total() {
        let (in_flight, mib) = (InFlightBytes::new(4 << 20), 1 << 20);
        let fast_enough =
            |taken| in_flight.is_fast_enough(taken, Duration::from_secs(15), SMALL_CLIENT + 1);
        in_flight.add_unsent(3 * mib);
        assert!(fast_enough(0), "below the threshold");
        for (total, factor) in [(4, 4), (6, 6), (30, 30)] {
            in_flight.add_unsent((total - 3) * mib);
            let least = MIN_RATE * 15 * factor / 3;
            assert!(!fast_enough(least - 1024) && fast_enough(least), "{total} MiB: {least}");
            assert_eq!(
                in_flight.is_fast_enough(0, Duration::from_secs(15), SMALL_CLIENT),
                total <= 6,
                "{total} MiB"
            );
            in_flight.remove_unsent((total - 3) * mib);
        }
        in_flight.remove_unsent(3 * mib);
        assert_eq!(in_flight.total(), 0);
    }

    /// A chunk of one byte may arrive in a buffer with four kilobytes of chunk extensions.
    #[test]
    fn a_small_buffered_piece_keeps_no_large_buffer_alive() {
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        let mut pieces = BufferedPieces::new(&InFlightBytes::new(1000));
        assert!(pieces.push(buffer.slice(..10)).is_ok());
        assert!(buffer.is_unique());
    }
}
