//! A growing body with one writer and any number of readers. A truncated body never looks complete.
//!
//! Owns: the pieces, each reader's position, back-pressure once a body is no longer kept. Never touches:
//! heads, connections, the store.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::semantics::storability::NotStoredReason;
use crate::upstream::admission::call::CallAudience;
use crate::upstream::in_flight_bytes::{COPY_THRESHOLD, InFlightBytes, PIECE_OVERHEAD, StalledClient};
use crate::upstream::outcome::error::UpstreamError;

/// Bytes that a body that is not kept may run ahead of its slowest reader.
const WINDOW: usize = 64 * 1024;

/// Time such a body waits for a stalled reader while the in-flight budget has room for all buffered bytes.
const STALLED: Duration = Duration::from_secs(30);

/// The shared body.
pub(crate) struct SharedBody {
    inner: Mutex<SharedBodyState>,
    /// Notifies readers of a piece, the end, or a detachment.
    reader_notify: Notify,
    /// Notifies the writer when a piece was read or a reader left.
    writer_notify: Notify,
    /// Whether the body has readers; read by the upstream call.
    audience: Arc<CallAudience>,
    in_flight: Arc<InFlightBytes>,
    largest: usize,
    /// Bytes that the origin may send ahead of the slowest reader.
    read_ahead: AtomicUsize,
}

struct SharedBodyState {
    pieces: VecDeque<Bytes>,
    /// Number of pieces dropped from the front.
    dropped: usize,
    /// Bytes in `pieces`; `charged` adds the overhead of each piece.
    buffered: usize,
    charged: usize,
    /// Bytes written so far.
    written: usize,
    /// Whether every piece is kept until the end (for the store and for new readers).
    kept: bool,
    end: Option<Result<(), UpstreamError>>,
    /// The whole body, once it is stored. It replaces the pieces.
    stored: Option<Bytes>,
    /// The next piece of each reader; once the body is stored, the reader's next byte.
    readers: HashMap<u64, usize>,
    next_reader: u64,
}

impl SharedBody {
    /// Creates an empty body that keeps up to `largest` bytes. With `kept == false` it keeps none, and
    /// the slowest reader limits its rate.
    pub(crate) fn new(kept: bool, largest: usize, in_flight: Arc<InFlightBytes>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(SharedBodyState {
                pieces: VecDeque::new(),
                dropped: 0,
                buffered: 0,
                charged: 0,
                written: 0,
                kept,
                end: None,
                stored: None,
                readers: HashMap::new(),
                next_reader: 0,
            }),
            reader_notify: Notify::new(),
            writer_notify: Notify::new(),
            audience: Arc::new(CallAudience::background()),
            in_flight,
            largest,
            read_ahead: AtomicUsize::new(0),
        })
    }

    /// Attaches a reader at the beginning; `None` once the first piece was dropped.
    pub(crate) fn reader(self: &Arc<Self>) -> Option<BodyReader> {
        let mut inner = self.inner.lock();
        if inner.dropped > 0 {
            return None;
        }
        let id = inner.next_reader;
        inner.next_reader += 1;
        inner.readers.insert(id, 0);
        self.audience.set_present(true);
        Some(BodyReader { body: Arc::clone(self), id })
    }

    /// Attaches the first reader, before anything is written.
    pub(crate) fn first_reader(self: &Arc<Self>) -> BodyReader {
        self.reader().expect("no piece is dropped before one is written")
    }

    /// Whether the body has readers; the value changes as they attach and detach.
    pub(crate) fn audience(&self) -> Arc<CallAudience> {
        Arc::clone(&self.audience)
    }

    /// Number of readers, including those that still wait.
    pub(crate) fn readers(&self) -> usize {
        self.inner.lock().readers.len()
    }

    /// Whether the whole body is still kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.inner.lock().kept
    }

    /// Sets the number of bytes that the origin may send ahead of the slowest reader.
    pub(crate) fn set_read_ahead(&self, bytes: usize) {
        self.read_ahead.store(bytes, Ordering::Relaxed);
    }

    /// From now on, drops each piece once all readers have it.
    pub(crate) fn stop_keeping(&self) {
        self.inner.lock().stop_keeping(&self.in_flight);
    }

    /// The reason why the body is no longer kept.
    pub(crate) fn not_kept_reason(&self) -> NotStoredReason {
        let too_large = self.inner.lock().written > self.largest;
        if too_large { NotStoredReason::TooLarge } else { NotStoredReason::NoRoom }
    }

    /// Whether the body has no reader and will not be stored. `storing`: a body that is kept to its end
    /// will be stored.
    pub(crate) fn is_abandoned(&self, storing: bool) -> bool {
        let inner = self.inner.lock();
        !(inner.kept && storing) && inner.readers.is_empty()
    }

    /// Resolves when the body [is abandoned](Self::is_abandoned).
    pub(crate) async fn abandoned(&self, storing: bool) {
        loop {
            let detached = self.writer_notify.notified();
            tokio::pin!(detached);
            detached.as_mut().enable();
            if self.is_abandoned(storing) {
                return;
            }
            detached.await;
        }
    }

    /// Adds a piece. While the body is kept this never waits. Otherwise it waits for the slowest reader,
    /// and detaches that reader if it reads nothing for [`STALLED`].
    pub(crate) async fn push(&self, mut piece: Bytes) {
        {
            let mut inner = self.inner.lock();
            if piece.len() < COPY_THRESHOLD {
                piece = Bytes::copy_from_slice(&piece);
            }
            inner.written += piece.len();
            inner.buffered += piece.len();
            inner.charged += piece.len() + PIECE_OVERHEAD;
            self.in_flight.reserve(piece.len() + PIECE_OVERHEAD);
            inner.pieces.push_back(piece);
            if inner.kept && (inner.written > self.largest || self.in_flight.is_full()) {
                inner.stop_keeping(&self.in_flight);
            }
        }
        self.reader_notify.notify_waiters();
        self.wait_for_readers().await;
    }

    async fn wait_for_readers(&self) {
        loop {
            let room = self.writer_notify.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let inner = self.inner.lock();
                if inner.kept || inner.charged <= WINDOW || inner.readers.is_empty() {
                    return;
                }
            }
            // Both the bytes read ahead and the bytes buffered for readers are already counted.
            let waiting = StalledClient { counted: self.read_ahead.load(Ordering::Relaxed), body_bytes: 0 };
            if self.in_flight.with_stall_timeout(waiting, None, STALLED, room).await.is_none() {
                self.inner.lock().detach_slowest(&self.in_flight);
                self.reader_notify.notify_waiters();
            }
        }
    }

    /// The whole body followed by `last`, if the body was kept and the result is not too large.
    pub(crate) fn whole(&self, last: &Bytes) -> Option<Bytes> {
        let inner = self.inner.lock();
        let length = inner.buffered + last.len();
        (inner.kept && length <= self.largest).then(|| inner.whole(last))
    }

    /// Replaces the pieces by the stored body, so that the bytes are not in memory twice. Readers
    /// continue in `stored`.
    pub(crate) fn replace_with_stored(&self, stored: Bytes) {
        let mut inner = self.inner.lock();
        if !inner.kept {
            return;
        }
        let SharedBodyState { pieces, readers, .. } = &mut *inner;
        let read = |next: usize| pieces.iter().take(next).map(Bytes::len).sum();
        for next in readers.values_mut() {
            *next = read(*next);
        }
        inner.pieces.clear();
        self.in_flight.release(std::mem::take(&mut inner.charged));
        (inner.buffered, inner.stored) = (0, Some(stored));
        drop(inner);
        self.reader_notify.notify_waiters();
    }

    /// Ends the body. Only the first call has an effect.
    pub(crate) fn finish(&self, end: Result<(), UpstreamError>) {
        self.inner.lock().end.get_or_insert(end);
        self.reader_notify.notify_waiters();
    }
}

impl Drop for SharedBody {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        self.in_flight.release(inner.charged);
    }
}

impl SharedBodyState {
    fn stop_keeping(&mut self, in_flight: &InFlightBytes) {
        self.kept = false;
        self.drop_read_pieces(in_flight);
    }

    fn drop_read_pieces(&mut self, in_flight: &InFlightBytes) {
        if self.kept {
            return;
        }
        let slowest = self.readers.values().copied().min().unwrap_or(usize::MAX);
        while self.dropped < slowest {
            let Some(piece) = self.pieces.pop_front() else { break };
            self.dropped += 1;
            self.buffered -= piece.len();
            self.charged -= piece.len() + PIECE_OVERHEAD;
            in_flight.release(piece.len() + PIECE_OVERHEAD);
        }
    }

    fn detach_slowest(&mut self, in_flight: &InFlightBytes) {
        let first = self.dropped;
        self.readers.retain(|_, next| *next > first);
        self.drop_read_pieces(in_flight);
    }

    fn whole(&self, last: &Bytes) -> Bytes {
        // Copied even if there is only one piece: a piece references the whole buffer that it was read into.
        let mut whole = BytesMut::with_capacity(self.buffered + last.len());
        self.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.extend_from_slice(last);
        whole.freeze()
    }
}

/// One reader of a growing body.
pub struct BodyReader {
    body: Arc<SharedBody>,
    id: u64,
}

impl BodyReader {
    /// The next piece; `None` at the end of a complete body. An error means that the body was truncated
    /// or that this reader was too slow: the client's connection must not end cleanly.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let news = self.body.reader_notify.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(next) = self.take() {
                return next;
            }
            news.await;
        }
    }

    fn take(&self) -> Option<Result<Option<Bytes>, UpstreamError>> {
        let mut inner = self.body.inner.lock();
        let Some(&next) = inner.readers.get(&self.id) else {
            return Some(Err(UpstreamError::BodyTimeout));
        };
        if let Some(stored) = inner.stored.clone() {
            if next == stored.len() {
                return inner.end.map(|end| end.map(|()| None));
            }
            inner.readers.insert(self.id, stored.len());
            return Some(Ok(Some(stored.slice(next..))));
        }
        let Some(piece) = inner.pieces.get(next - inner.dropped).cloned() else {
            return inner.end.map(|end| end.map(|()| None));
        };
        inner.readers.insert(self.id, next + 1);
        if !inner.kept {
            inner.drop_read_pieces(&self.body.in_flight);
            self.body.writer_notify.notify_one();
        }
        Some(Ok(Some(piece)))
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let mut inner = self.body.inner.lock();
        inner.readers.remove(&self.id);
        self.body.audience.set_present(!inner.readers.is_empty());
        inner.drop_read_pieces(&self.body.in_flight);
        drop(inner);
        self.body.writer_notify.notify_waiters();
        self.body.writer_notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn body(kept: bool, largest: usize) -> Arc<SharedBody> {
        SharedBody::new(kept, largest, InFlightBytes::new(1 << 30))
    }

    async fn read_all(mut reader: BodyReader) -> Result<Vec<u8>, UpstreamError> {
        let mut all = Vec::new();
        while let Some(piece) = reader.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn every_reader_sees_every_byte_regardless_of_when_it_attached() {
        let body = body(true, 1000);
        let early = tokio::spawn(read_all(body.reader().unwrap()));
        body.push(Bytes::from_static(b"one ")).await;
        let late = tokio::spawn(read_all(body.reader().unwrap()));
        body.push(Bytes::from_static(b"two")).await;
        assert_eq!(body.whole(&Bytes::new()).unwrap(), "one two");
        body.finish(Ok(()));
        let after = read_all(body.reader().unwrap()).await;
        for seen in [early.await.unwrap(), late.await.unwrap(), after] {
            assert_eq!(seen.unwrap(), b"one two");
        }
    }

    #[tokio::test]
    async fn readers_continue_in_the_stored_body_from_any_position() {
        let budget = InFlightBytes::new(10_000);
        let body = SharedBody::new(true, 1000, Arc::clone(&budget));
        let (mut behind, mut ahead) = (body.reader().unwrap(), body.reader().unwrap());
        for piece in ["one ", "two "] {
            body.push(Bytes::from_static(piece.as_bytes())).await;
            assert_eq!(ahead.next().await.unwrap().unwrap(), piece);
        }
        assert_eq!(behind.next().await.unwrap().unwrap(), "one ");
        let stored = body.whole(&Bytes::from_static(b"three")).unwrap();
        body.replace_with_stored(stored);
        assert_eq!(budget.used(), 0, "the store counts the body");
        let late = body.reader().unwrap();
        body.finish(Ok(()));
        for (reader, left) in [(behind, "two three"), (ahead, "three"), (late, "one two three")] {
            assert_eq!(read_all(reader).await.unwrap(), left.as_bytes());
        }
        drop(body);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_truncated_body_is_an_error_for_every_reader() {
        let body = body(true, 1000);
        let reader = body.reader().unwrap();
        body.push(Bytes::from_static(b"half")).await;
        body.finish(Err(UpstreamError::Cut));
        assert_eq!(read_all(reader).await, Err(UpstreamError::Cut));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_passed_on_but_not_kept() {
        let body = body(true, 5);
        let reader = tokio::spawn(read_all(body.reader().unwrap()));
        body.push(Bytes::from_static(b"12345")).await;
        assert!(body.is_kept());
        body.push(Bytes::from_static(b"6")).await;
        assert!(!body.is_kept());
        assert_eq!(body.whole(&Bytes::new()), None);
        body.finish(Ok(()));
        assert_eq!(reader.await.unwrap().unwrap(), b"123456");
        assert!(body.reader().is_none(), "a new reader would miss the beginning");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_reader_is_detached_and_the_others_continue() {
        let body = body(false, 0);
        let mut stalled = body.reader().unwrap();
        let lively = tokio::spawn(read_all(body.reader().unwrap()));
        for _ in 0..4 {
            body.push(Bytes::from(vec![7; WINDOW / 2])).await;
        }
        body.finish(Ok(()));
        assert_eq!(lively.await.unwrap().unwrap().len(), WINDOW * 2);
        assert_eq!(stalled.next().await, Err(UpstreamError::BodyTimeout));
    }

    #[tokio::test]
    async fn all_bytes_are_released_to_the_budget() {
        let budget = InFlightBytes::new(10);
        let body = SharedBody::new(true, 1000, Arc::clone(&budget));
        let reader = body.reader().unwrap();
        body.push(Bytes::from_static(b"0123456789abc")).await;
        assert!(!body.is_kept(), "over the cap nothing more is kept");
        drop(reader);
        drop(body);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn an_unkept_body_without_readers_is_abandoned() {
        let body = body(false, 0);
        let reader = body.reader().unwrap();
        let watcher = {
            let body = Arc::clone(&body);
            tokio::spawn(async move { body.abandoned(true).await })
        };
        drop(reader);
        watcher.await.unwrap();
    }

    /// A chunk of one byte may arrive in a buffer that four kilobytes of chunk extensions filled.
    #[tokio::test]
    async fn a_small_kept_piece_does_not_reference_a_large_buffer() {
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        let body = body(true, 1000);
        body.push(buffer.slice(..10)).await;
        assert!(buffer.is_unique());
        let unkept = self::body(false, 0);
        let _reader = unkept.reader().unwrap();
        unkept.push(buffer.slice(..10)).await;
        assert!(buffer.is_unique());
    }

    #[tokio::test(start_paused = true)]
    async fn few_small_pieces_are_buffered_for_a_stalled_reader() {
        let body = body(false, 0);
        let _stalled = body.reader().unwrap();
        let pushed = timeout(Duration::from_secs(1), async {
            for _ in 0..WINDOW {
                body.push(Bytes::from_static(b"x")).await;
            }
        });
        assert!(pushed.await.is_err(), "the writer waits");
        assert!(body.inner.lock().pieces.len() <= WINDOW / PIECE_OVERHEAD + 1);
    }

    #[tokio::test]
    async fn small_pieces_are_charged_for_their_overhead() {
        let budget = InFlightBytes::new(1000);
        let body = SharedBody::new(true, 1 << 20, Arc::clone(&budget));
        for _ in 0..100 {
            body.push(Bytes::from_static(b"x")).await;
        }
        assert!(!body.is_kept());
        drop(body);
        assert_eq!(budget.used(), 0);
    }
}
