//! The state that the streams of one HTTP/2 connection share.
//!
//! Owns: the information that streams have of each other, and their requests to the connection. Never
//! touches: frames (`stream`), streams (`session`), the connection itself (`http2`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::frontend::http1_only::Http1Candidate;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// The bytes of all responses on a connection that may wait for its client. With this much most short
/// responses complete: a response that is held back also occupies the origin's connection.
const MAX_QUEUED: usize = 1024 * 1024;

/// The bytes that a stream with an empty queue may add, however much the others have queued, so that
/// each stream makes progress.
const MIN_QUEUED: usize = 16 * 1024;

/// A handle to the shared state; each stream of a connection has one.
#[derive(Debug, Clone)]
pub struct SharedConnection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Records that the host needs HTTP/1; `None`: the client supports only HTTP/2.
    http1: Option<Http1Candidate>,
    goaway_requested: AtomicBool,
    writes_held: AtomicBool,
    /// Whether the client accepts less than there is to send, as last reported, and the channel for
    /// changes of it.
    write_blocked: AtomicBool,
    write_blocked_sender: watch::Sender<bool>,
    /// The bytes that the client has accepted, of responses and of all other frames.
    written: AtomicUsize,
    /// The response bytes that it has not accepted.
    queued: AtomicUsize,
    /// The bytes that the streams that wait for the client keep in memory.
    held_bytes: AtomicUsize,
    in_flight: Arc<InFlightBytes>,
    received: Mutex<BytesReceived>,
    /// The number of streams whose request body larder does not read, because the origin accepts no
    /// more of it.
    stalled_uploads: AtomicUsize,
}

/// The received bytes of all request bodies on a connection, including unread ones.
#[derive(Debug, Clone, Copy)]
pub struct BytesReceived {
    /// The number of bytes.
    pub bytes: u64,
    /// When the last of them arrived, or the connection began.
    pub last: Instant,
}

/// The marker of a stream whose origin may stall its upload. Dropping it clears the mark.
#[derive(Debug)]
pub struct StalledUpload {
    shared: SharedConnection,
    is_stalled: bool,
}

impl SharedConnection {
    /// Creates the state of a connection. `http1`: set if the client also supports HTTP/1 and may be
    /// limited to it. Data that the client does not read counts in `in_flight`.
    pub(super) fn new(http1: Option<Http1Candidate>, in_flight: &Arc<InFlightBytes>) -> Self {
        Self(Arc::new(Inner {
            http1,
            goaway_requested: AtomicBool::new(false),
            writes_held: AtomicBool::new(false),
            write_blocked: AtomicBool::new(false),
            write_blocked_sender: watch::Sender::new(false),
            written: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            in_flight: Arc::clone(in_flight),
            received: Mutex::new(BytesReceived { bytes: 0, last: Clock::timer_now() }),
            stalled_uploads: AtomicUsize::new(0),
        }))
    }

    /// Counts received bytes of a request body.
    pub(super) fn record_received(&self, bytes: usize) {
        let mut received = self.0.received.lock();
        received.bytes += bytes as u64;
        received.last = Clock::timer_now();
    }

    /// The bytes received so far.
    pub fn received(&self) -> BytesReceived {
        *self.0.received.lock()
    }

    /// Whether the client cannot send more of some body because its origin accepts no more.
    pub fn is_any_upload_stalled(&self) -> bool {
        self.0.stalled_uploads.load(Ordering::Relaxed) > 0
    }

    /// Creates the marker for a stream whose upload may stall.
    pub fn stalled_upload(&self) -> StalledUpload {
        StalledUpload { shared: self.clone(), is_stalled: false }
    }

    /// Records that the host needs HTTP/1: from now on no other protocol is offered to its clients.
    /// Returns false if the client supports only HTTP/2.
    pub fn require_http1(&self) -> bool {
        if let Some(candidate) = &self.0.http1 {
            candidate.remember();
        }
        self.0.http1.is_some()
    }

    /// Requests that the connection accept no further requests. Data that is written from now on is
    /// held back until the GOAWAY frame can directly follow it: the client reads both at once and sends
    /// no request in between.
    pub(super) fn request_goaway(&self) {
        self.0.writes_held.store(true, Ordering::Release);
        self.0.goaway_requested.store(true, Ordering::Release);
    }

    /// Whether a stream has requested that.
    pub(super) fn is_goaway_requested(&self) -> bool {
        self.0.goaway_requested.load(Ordering::Acquire)
    }

    /// Releases the data that was held back.
    pub(super) fn release_writes(&self) {
        self.0.writes_held.store(false, Ordering::Release);
    }

    /// Whether the client accepts less than there is to send.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.0.write_blocked.load(Ordering::Acquire)
    }

    /// Sets whether the client accepts less than there is to send. The connection calls this at every write.
    pub(super) fn set_write_blocked(&self, write_blocked: bool) {
        if self.0.write_blocked.load(Ordering::Relaxed) != write_blocked {
            self.0.write_blocked.store(write_blocked, Ordering::Release);
            self.0.write_blocked_sender.send_replace(write_blocked);
        }
    }

    /// Subscribes to changes of this state.
    pub(super) fn watch_write_blocked(&self) -> watch::Receiver<bool> {
        self.0.write_blocked_sender.subscribe()
    }

    /// Counts bytes that the client has accepted.
    pub(super) fn record_written(&self, bytes: usize) {
        self.0.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The number of bytes that it has accepted so far.
    pub(super) fn written(&self) -> usize {
        self.0.written.load(Ordering::Relaxed)
    }

    /// Counts the bytes that all bodies in transit hold.
    pub(super) fn in_flight(&self) -> &InFlightBytes {
        &self.0.in_flight
    }

    /// The bytes that the streams that wait for the client keep in memory.
    pub(super) fn held_bytes(&self) -> &AtomicUsize {
        &self.0.held_bytes
    }

    /// Creates a stream's share of the connection's queue.
    pub(super) fn share(&self) -> StreamShare {
        StreamShare { shared: self.clone(), own: Arc::default() }
    }

    /// Whether writes are held back.
    pub(super) fn are_writes_held(&self) -> bool {
        self.0.writes_held.load(Ordering::Acquire)
    }
}

/// A stream's share of the connection's queue.
#[derive(Debug)]
pub(super) struct StreamShare {
    shared: SharedConnection,
    own: Arc<StreamCounts>,
}

#[derive(Debug, Default)]
struct StreamCounts {
    /// The queued bytes of the stream that have not been sent.
    bytes: AtomicUsize,
    /// The task that waits until they are sent.
    waker: Mutex<Option<Waker>>,
}

impl StreamShare {
    /// The number of bytes that the stream may queue now.
    pub(super) fn capacity(&self) -> usize {
        if self.shared.0.queued.load(Ordering::Acquire) < MAX_QUEUED {
            usize::MAX
        } else if self.own.bytes.load(Ordering::Acquire) == 0 {
            MIN_QUEUED
        } else {
            0
        }
    }

    /// Like [`StreamShare::capacity`]; ready when it is not zero.
    pub(super) fn poll_capacity(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let room = self.capacity();
        if room > 0 {
            return Poll::Ready(room);
        }
        *self.own.waker.lock() = Some(cx.waker().clone());
        // Checked again: the task that sends the last bytes wakes the task that it finds behind this lock.
        match self.capacity() {
            0 => Poll::Pending,
            room => Poll::Ready(room),
        }
    }

    /// Queues this many bytes.
    pub(super) fn enqueue(&self, bytes: usize) -> QueuedBytes {
        self.own.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.shared.0.queued.fetch_add(bytes, Ordering::AcqRel);
        self.shared.0.in_flight.add_unsent(bytes);
        QueuedBytes { shared: self.shared.clone(), own: Arc::clone(&self.own), bytes }
    }
}

/// Response bytes that the connection has queued. They are dropped when they are sent, or will never be sent.
#[derive(Debug)]
pub struct QueuedBytes {
    shared: SharedConnection,
    own: Arc<StreamCounts>,
    bytes: usize,
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        let Inner { queued, in_flight, .. } = &*self.shared.0;
        in_flight.remove_unsent(self.bytes);
        queued.fetch_sub(self.bytes, Ordering::AcqRel);
        if self.own.bytes.fetch_sub(self.bytes, Ordering::AcqRel) == self.bytes
            && let Some(waker) = self.own.waker.lock().take()
        {
            waker.wake();
        }
    }
}

impl StalledUpload {
    /// Sets whether the upload is stalled from now on.
    pub fn set_stalled(&mut self, stalled: bool) {
        if std::mem::replace(&mut self.is_stalled, stalled) == stalled {
            return;
        }
        let count = &self.shared.0.stalled_uploads;
        if stalled {
            count.fetch_add(1, Ordering::Relaxed);
        } else {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for StalledUpload {
    fn drop(&mut self) {
        self.set_stalled(false);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[test]
    fn a_stalled_upload_counts_once_until_it_is_dropped() {
        let shared = SharedConnection::new(None, &InFlightBytes::new(1 << 20));
        let (mut one, mut other) = (shared.stalled_upload(), shared.stalled_upload());
        for stalled in [true, true, false, false, true] {
            one.set_stalled(stalled);
            assert_eq!(shared.is_any_upload_stalled(), stalled);
        }
        other.set_stalled(true);
        drop(one);
        assert!(shared.is_any_upload_stalled());
        drop(other);
        assert!(!shared.is_any_upload_stalled());
    }

    /// A waiting stream that records whether it was woken.
    struct WaitingStream(AtomicBool);

    impl Wake for WaitingStream {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn queued_bytes_are_bounded_and_counted_and_every_stream_progresses() {
        let in_flight = InFlightBytes::new(8 << 20);
        let shared = SharedConnection::new(None, &in_flight);
        let stream = Arc::new(WaitingStream(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&stream));
        let mut cx = Context::from_waker(&waker);
        let (one, other) = (shared.share(), shared.share());
        let mut queue = Vec::new();
        while one.capacity() > 0 {
            queue.push(one.enqueue(MAX_QUEUED / 8));
        }
        assert_eq!(queue.len(), 8);
        assert!(one.poll_capacity(&mut cx).is_pending());
        // Another stream does not have to wait for it.
        assert_eq!(other.poll_capacity(&mut cx), Poll::Ready(MIN_QUEUED));
        let queued = other.enqueue(MIN_QUEUED);
        assert!(other.poll_capacity(&mut cx).is_pending());
        drop(queued);
        assert!(stream.0.swap(false, Ordering::Relaxed), "its bytes are sent");
        assert_eq!(other.capacity(), MIN_QUEUED);
        assert!(one.poll_capacity(&mut cx).is_pending());
        queue.clear();
        assert!(stream.0.load(Ordering::Relaxed));
        assert_eq!((one.capacity(), other.capacity()), (usize::MAX, usize::MAX));
        assert_eq!(shared.0.queued.load(Ordering::Relaxed), 0);
    }
}
