//! The limit on bytes of bodies that are buffered in transit (`limits.in_flight`).
//!
//! Owns: the count over fills, captured and inspected bodies; the release of counted bytes.
//! Never touches: the purpose of a buffered body, or the handling of a body that exceeds the limit.

mod buffered_pieces;
mod stalled_client;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use crate::upstream::in_flight_bytes::buffered_pieces::BufferedPieces;
pub use crate::upstream::in_flight_bytes::stalled_client::StalledClient;

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

/// Flow-control window of an HTTP/2 stream: bytes of a response that an origin may send before they are read.
pub const RECEIVE_WINDOW: u32 = 512 * 1024;

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
