//! What the streams of one connection of HTTP/2 share.
//!
//! Owns: what each of them may know of the others, and ask of their connection. Never touches: frames
//! (`io`), streams (`session`), the connection itself (`multiplex`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock;
use crate::frontend::http1_only::Http1Candidate;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// How much of all answers on a connection may wait for its client to read on. Much of what is short enough
/// is done with so: an answer that is held back holds the origin's connection too.
const AHEAD: usize = 1024 * 1024;

/// What a stream of which nothing waits may give, however much the others have: it gets its turn.
const TURN: usize = 16 * 1024;

/// Each stream of a connection has one.
#[derive(Debug, Clone)]
pub struct SharedConnection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Where a connection is known to need HTTP/1; `None`: its client speaks HTTP/2 alone.
    http1: Option<Http1Candidate>,
    leaves: AtomicBool,
    kept_back: AtomicBool,
    /// What was told last of whether the client takes less than there is to send, and who is told.
    clogged: AtomicBool,
    tells: watch::Sender<bool>,
    /// The bytes that its client has taken, of answers and all else.
    written: AtomicUsize,
    /// What of answers it has not.
    ahead: AtomicUsize,
    /// What the streams that wait for it make larder hold.
    held: AtomicUsize,
    in_flight: Arc<InFlightBytes>,
    came: Mutex<BytesReceived>,
    /// How many of them have a body that larder does not read on, for its origin takes no more of it.
    stuck: AtomicUsize,
}

/// What has come of the bodies of all requests on a connection, also what nobody has read yet.
#[derive(Debug, Clone, Copy)]
pub struct BytesReceived {
    /// The bytes.
    pub bytes: u64,
    /// When the last of them came, or the connection began.
    pub last: Instant,
}

/// A stream whose body may be held up by its origin. Dropped, it is not.
#[derive(Debug)]
pub struct StalledUpload {
    siblings: SharedConnection,
    is_held: bool,
}

impl SharedConnection {
    /// Those of a connection whose client speaks HTTP/1 too, and may be sent there, or HTTP/2 alone. What
    /// it does not read counts in `in_flight`.
    pub(super) fn new(http1: Option<Http1Candidate>, in_flight: &Arc<InFlightBytes>) -> Self {
        Self(Arc::new(Inner {
            http1,
            leaves: AtomicBool::new(false),
            kept_back: AtomicBool::new(false),
            clogged: AtomicBool::new(false),
            tells: watch::Sender::new(false),
            written: AtomicUsize::new(0),
            ahead: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            in_flight: Arc::clone(in_flight),
            came: Mutex::new(BytesReceived { bytes: 0, last: clock::of_timers() }),
            stuck: AtomicUsize::new(0),
        }))
    }

    /// So much of the body of one of them has come.
    pub(super) fn comes(&self, bytes: usize) {
        let mut came = self.0.came.lock();
        came.bytes += bytes as u64;
        came.last = clock::of_timers();
    }

    /// What has come so far.
    pub fn came(&self) -> BytesReceived {
        *self.0.came.lock()
    }

    /// Whether the client can send no more of a body because its origin takes no more.
    pub fn is_any_held(&self) -> bool {
        self.0.stuck.load(Ordering::Relaxed) > 0
    }

    /// For a stream that may be held up.
    pub fn holding(&self) -> StalledUpload {
        StalledUpload { siblings: self.clone(), is_held: false }
    }

    /// What is asked here needs HTTP/1: from now on nothing else is offered. False: the client speaks HTTP/2
    /// alone.
    pub fn need_http1(&self) -> bool {
        if let Some(place) = &self.0.http1 {
            place.remember();
        }
        self.0.http1.is_some()
    }

    /// The connection is to take no further requests. What is written from here on is kept back until
    /// that can be said right behind it: a client reads both at once, and asks nothing in between.
    pub(super) fn leave(&self) {
        self.0.kept_back.store(true, Ordering::Release);
        self.0.leaves.store(true, Ordering::Release);
    }

    /// Whether one of them has asked for that.
    pub(super) fn has_left(&self) -> bool {
        self.0.leaves.load(Ordering::Acquire)
    }

    /// What was kept back may go.
    pub(super) fn let_go(&self) {
        self.0.kept_back.store(false, Ordering::Release);
    }

    /// Whether the client takes less than there is to send.
    pub(super) fn is_clogged(&self) -> bool {
        self.0.clogged.load(Ordering::Acquire)
    }

    /// It does, or does no more. Its connection says so at every write.
    pub(super) fn clogs(&self, clogged: bool) {
        if self.0.clogged.load(Ordering::Relaxed) != clogged {
            self.0.clogged.store(clogged, Ordering::Release);
            self.0.tells.send_replace(clogged);
        }
    }

    /// Tells when that changes.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.0.tells.subscribe()
    }

    /// The client has taken so many bytes.
    pub(super) fn wrote(&self, bytes: usize) {
        self.0.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many it has taken so far.
    pub(super) fn written(&self) -> usize {
        self.0.written.load(Ordering::Relaxed)
    }

    /// What all bodies on their way hold.
    pub(super) fn in_flight(&self) -> &InFlightBytes {
        &self.0.in_flight
    }

    /// What the streams that wait for the client make larder hold.
    pub(super) fn held(&self) -> &AtomicUsize {
        &self.0.held
    }

    /// For a stream: its part of what waits in the connection.
    pub(super) fn share(&self) -> StreamShare {
        StreamShare { siblings: self.clone(), own: Arc::default() }
    }

    /// Whether nothing is to be sent for the moment.
    pub(super) fn is_kept_back(&self) -> bool {
        self.0.kept_back.load(Ordering::Acquire)
    }
}

/// What a stream has given to its connection.
#[derive(Debug)]
pub(super) struct StreamShare {
    siblings: SharedConnection,
    own: Arc<StreamCounts>,
}

#[derive(Debug, Default)]
struct StreamCounts {
    /// What of it has not been sent.
    bytes: AtomicUsize,
    /// Who waits until it has.
    waker: Mutex<Option<Waker>>,
}

impl StreamShare {
    /// How much more it may give now.
    pub(super) fn room(&self) -> usize {
        if self.siblings.0.ahead.load(Ordering::Acquire) < AHEAD {
            usize::MAX
        } else if self.own.bytes.load(Ordering::Acquire) == 0 {
            TURN
        } else {
            0
        }
    }

    /// The same, ready when it is not nothing.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let room = self.room();
        if room > 0 {
            return Poll::Ready(room);
        }
        *self.own.waker.lock() = Some(cx.waker().clone());
        // Looked at again: whoever sends the last of it wakes whom it finds here behind this lock.
        match self.room() {
            0 => Poll::Pending,
            room => Poll::Ready(room),
        }
    }

    /// So many bytes more are given.
    pub(super) fn give(&self, bytes: usize) -> QueuedBytes {
        self.own.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.siblings.0.ahead.fetch_add(bytes, Ordering::AcqRel);
        self.siblings.0.in_flight.unsent(bytes);
        QueuedBytes { siblings: self.siblings.clone(), own: Arc::clone(&self.own), bytes }
    }
}

/// Bytes of an answer that its connection has taken over. Dropped, they are sent, or never will be.
#[derive(Debug)]
pub struct QueuedBytes {
    siblings: SharedConnection,
    own: Arc<StreamCounts>,
    bytes: usize,
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        let Inner { ahead, in_flight, .. } = &*self.siblings.0;
        in_flight.sent(self.bytes);
        ahead.fetch_sub(self.bytes, Ordering::AcqRel);
        if self.own.bytes.fetch_sub(self.bytes, Ordering::AcqRel) == self.bytes
            && let Some(waker) = self.own.waker.lock().take()
        {
            waker.wake();
        }
    }
}

impl StalledUpload {
    /// Whether it is held up from here on.
    pub fn is(&mut self, held: bool) {
        if std::mem::replace(&mut self.is_held, held) == held {
            return;
        }
        let count = &self.siblings.0.stuck;
        if held {
            count.fetch_add(1, Ordering::Relaxed);
        } else {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for StalledUpload {
    fn drop(&mut self) {
        self.is(false);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[test]
    fn what_is_held_counts_once_and_not_past_its_end() {
        let siblings = SharedConnection::new(None, &InFlightBytes::new(1 << 20));
        let (mut one, mut other) = (siblings.holding(), siblings.holding());
        for held in [true, true, false, false, true] {
            one.is(held);
            assert_eq!(siblings.is_any_held(), held);
        }
        other.is(true);
        drop(one);
        assert!(siblings.is_any_held());
        drop(other);
        assert!(!siblings.is_any_held());
    }

    /// A stream that waits; it knows whether it has been woken.
    struct WaitingStream(AtomicBool);

    impl Wake for WaitingStream {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_a_client_does_not_read_is_bounded_and_counted_and_every_stream_has_its_turn() {
        let in_flight = InFlightBytes::new(8 << 20);
        let siblings = SharedConnection::new(None, &in_flight);
        let stream = Arc::new(WaitingStream(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&stream));
        let mut cx = Context::from_waker(&waker);
        let (one, other) = (siblings.share(), siblings.share());
        let mut given = Vec::new();
        while one.room() > 0 {
            given.push(one.give(AHEAD / 8));
        }
        assert_eq!(given.len(), 8);
        assert!(one.poll_room(&mut cx).is_pending());
        // Another is not kept waiting for it.
        assert_eq!(other.poll_room(&mut cx), Poll::Ready(TURN));
        let turn = other.give(TURN);
        assert!(other.poll_room(&mut cx).is_pending());
        drop(turn);
        assert!(stream.0.swap(false, Ordering::Relaxed), "what it gave is sent");
        assert_eq!(other.room(), TURN);
        assert!(one.poll_room(&mut cx).is_pending());
        given.clear();
        assert!(stream.0.load(Ordering::Relaxed));
        assert_eq!((one.room(), other.room()), (usize::MAX, usize::MAX));
        assert_eq!(siblings.0.ahead.load(Ordering::Relaxed), 0);
    }
}
