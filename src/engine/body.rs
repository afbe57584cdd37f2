//! A body that grows while many read it: one writer, any number of readers, nothing cut ever looks
//! complete.
//!
//! Owns: the pieces, who has read how far, back-pressure once a body is no longer kept. Never touches: heads,
//! connections, the store.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::semantics::storability::NotStoredReason;
use crate::upstream::admission::call::CallAudience;
use crate::upstream::error::UpstreamError;
use crate::upstream::in_flight_bytes::{EACH, InFlightBytes, SMALL, Waiting};

/// How far a body that is not kept may run ahead of its slowest reader.
const WINDOW: usize = 64 * 1024;

/// How long such a body waits for a reader that takes nothing, if there is room for all that is held.
const STALLED: Duration = Duration::from_secs(30);

/// The shared body.
pub(crate) struct SharedBody {
    inner: Mutex<SharedBodyState>,
    /// Something for readers: a piece, the end, a detachment.
    news: Notify,
    /// Something for the writer: a piece was read, a reader left.
    room: Notify,
    /// Whether there are readers, for the call that brings it.
    audience: Arc<CallAudience>,
    in_flight: Arc<InFlightBytes>,
    largest: usize,
    /// What its origin may send ahead of its slowest reader.
    ahead: AtomicUsize,
}

struct SharedBodyState {
    pieces: VecDeque<Bytes>,
    /// How many pieces were let go at the front.
    gone: usize,
    /// Bytes in `pieces`, and with what each costs beside them.
    held: usize,
    charged: usize,
    /// Bytes written so far.
    written: usize,
    /// Whether every piece is kept until the end (to be stored, for newcomers).
    kept: bool,
    end: Option<Result<(), UpstreamError>>,
    /// All of it, once it is stored: what the pieces were.
    stored: Option<Bytes>,
    /// The next piece of each reader; once it is stored, its next byte.
    readers: HashMap<u64, usize>,
    next_reader: u64,
}

impl SharedBody {
    /// An empty body of which up to `largest` bytes are kept; with `kept == false` none is, and it
    /// flows at the pace of its slowest reader.
    pub(crate) fn new(kept: bool, largest: usize, in_flight: Arc<InFlightBytes>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(SharedBodyState {
                pieces: VecDeque::new(),
                gone: 0,
                held: 0,
                charged: 0,
                written: 0,
                kept,
                end: None,
                stored: None,
                readers: HashMap::new(),
                next_reader: 0,
            }),
            news: Notify::new(),
            room: Notify::new(),
            audience: Arc::new(CallAudience::nobody()),
            in_flight,
            largest,
            ahead: AtomicUsize::new(0),
        })
    }

    /// Attaches a reader at the beginning; `None` once the beginning has been let go.
    pub(crate) fn reader(self: &Arc<Self>) -> Option<BodyReader> {
        let mut inner = self.inner.lock();
        if inner.gone > 0 {
            return None;
        }
        let id = inner.next_reader;
        inner.next_reader += 1;
        inner.readers.insert(id, 0);
        self.audience.is(true);
        Some(BodyReader { body: Arc::clone(self), id })
    }

    /// The reader of a body that nobody has written to yet.
    pub(crate) fn first_reader(self: &Arc<Self>) -> BodyReader {
        self.reader().expect("nothing is let go before anything is written")
    }

    /// Whether there are readers: it changes as they come and leave.
    pub(crate) fn audience(&self) -> Arc<CallAudience> {
        Arc::clone(&self.audience)
    }

    /// How many read or wait.
    pub(crate) fn readers(&self) -> usize {
        self.inner.lock().readers.len()
    }

    /// Whether the whole body is still kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.inner.lock().kept
    }

    /// Its origin may send so much ahead of its slowest reader.
    pub(crate) fn is_ahead(&self, bytes: usize) {
        self.ahead.store(bytes, Ordering::Relaxed);
    }

    /// From now on pieces are let go once all readers have them.
    pub(crate) fn stop_keeping(&self) {
        self.inner.lock().stop_keeping(&self.in_flight);
    }

    /// Why the body is no longer kept.
    pub(crate) fn why_not_kept(&self) -> NotStoredReason {
        let too_large = self.inner.lock().written > self.largest;
        if too_large { NotStoredReason::TooLarge } else { NotStoredReason::NoRoom }
    }

    /// Whether nobody reads it and it is kept for nobody; `storing`: it will be stored if it is kept
    /// to its end.
    pub(crate) fn is_abandoned(&self, storing: bool) -> bool {
        let inner = self.inner.lock();
        !(inner.kept && storing) && inner.readers.is_empty()
    }

    /// Resolves when the body [is abandoned](Self::is_abandoned).
    pub(crate) async fn abandoned(&self, storing: bool) {
        loop {
            let left = self.room.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.is_abandoned(storing) {
                return;
            }
            left.await;
        }
    }

    /// Adds a piece. While the body is kept this never waits; otherwise it waits for the slowest
    /// reader, and detaches it when it takes nothing for [`STALLED`].
    pub(crate) async fn push(&self, mut piece: Bytes) {
        {
            let mut inner = self.inner.lock();
            if piece.len() < SMALL {
                piece = Bytes::copy_from_slice(&piece);
            }
            inner.written += piece.len();
            inner.held += piece.len();
            inner.charged += piece.len() + EACH;
            self.in_flight.take(piece.len() + EACH);
            inner.pieces.push_back(piece);
            if inner.kept && (inner.written > self.largest || self.in_flight.is_spent()) {
                inner.stop_keeping(&self.in_flight);
            }
        }
        self.news.notify_waiters();
        self.wait_for_room().await;
    }

    async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let inner = self.inner.lock();
                if inner.kept || inner.charged <= WINDOW || inner.readers.is_empty() {
                    return;
                }
            }
            // What it has been given is counted, and so is whom it goes to.
            let waiting = Waiting { counted: self.ahead.load(Ordering::Relaxed), held: 0 };
            if self.in_flight.patiently_for(waiting, None, STALLED, room).await.is_none() {
                self.inner.lock().detach_slowest(&self.in_flight);
                self.news.notify_waiters();
            }
        }
    }

    /// The whole body with `last` behind it, if it was kept and is not too large with it.
    pub(crate) fn whole(&self, last: &Bytes) -> Option<Bytes> {
        let inner = self.inner.lock();
        let length = inner.held + last.len();
        (inner.kept && length <= self.largest).then(|| inner.whole(last))
    }

    /// It is whole, and `stored`: readers go on in that, for the pieces would be held beside it.
    pub(crate) fn settle(&self, stored: Bytes) {
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
        self.in_flight.give_back(std::mem::take(&mut inner.charged));
        (inner.held, inner.stored) = (0, Some(stored));
        drop(inner);
        self.news.notify_waiters();
    }

    /// Ends the body; the first end counts.
    pub(crate) fn finish(&self, end: Result<(), UpstreamError>) {
        self.inner.lock().end.get_or_insert(end);
        self.news.notify_waiters();
    }
}

impl Drop for SharedBody {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        self.in_flight.give_back(inner.charged);
    }
}

impl SharedBodyState {
    fn stop_keeping(&mut self, in_flight: &InFlightBytes) {
        self.kept = false;
        self.let_go(in_flight);
    }

    fn let_go(&mut self, in_flight: &InFlightBytes) {
        if self.kept {
            return;
        }
        let slowest = self.readers.values().copied().min().unwrap_or(usize::MAX);
        while self.gone < slowest {
            let Some(piece) = self.pieces.pop_front() else { break };
            self.gone += 1;
            self.held -= piece.len();
            self.charged -= piece.len() + EACH;
            in_flight.give_back(piece.len() + EACH);
        }
    }

    fn detach_slowest(&mut self, in_flight: &InFlightBytes) {
        let first = self.gone;
        self.readers.retain(|_, next| *next > first);
        self.let_go(in_flight);
    }

    fn whole(&self, last: &Bytes) -> Bytes {
        // Copied even if it is one: a piece holds the whole buffer that it was read into.
        let mut whole = BytesMut::with_capacity(self.held + last.len());
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
    /// The next piece; `None` at the end of a complete body. An error means that the body is cut,
    /// or that this reader was too slow: its client's connection must not end cleanly.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let news = self.body.news.notified();
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
        let Some(piece) = inner.pieces.get(next - inner.gone).cloned() else {
            return inner.end.map(|end| end.map(|()| None));
        };
        inner.readers.insert(self.id, next + 1);
        if !inner.kept {
            inner.let_go(&self.body.in_flight);
            self.body.room.notify_one();
        }
        Some(Ok(Some(piece)))
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let mut inner = self.body.inner.lock();
        inner.readers.remove(&self.id);
        self.body.audience.is(!inner.readers.is_empty());
        inner.let_go(&self.body.in_flight);
        drop(inner);
        self.body.room.notify_waiters();
        self.body.room.notify_one();
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
    async fn every_reader_sees_every_byte_whenever_it_attached() {
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
    async fn once_it_is_stored_readers_go_on_in_that_wherever_they_are() {
        let budget = InFlightBytes::new(10_000);
        let body = SharedBody::new(true, 1000, Arc::clone(&budget));
        let (mut behind, mut ahead) = (body.reader().unwrap(), body.reader().unwrap());
        for piece in ["one ", "two "] {
            body.push(Bytes::from_static(piece.as_bytes())).await;
            assert_eq!(ahead.next().await.unwrap().unwrap(), piece);
        }
        assert_eq!(behind.next().await.unwrap().unwrap(), "one ");
        let stored = body.whole(&Bytes::from_static(b"three")).unwrap();
        body.settle(stored);
        assert_eq!(budget.used(), 0, "the store counts it");
        let late = body.reader().unwrap();
        body.finish(Ok(()));
        for (reader, left) in [(behind, "two three"), (ahead, "three"), (late, "one two three")] {
            assert_eq!(read_all(reader).await.unwrap(), left.as_bytes());
        }
        drop(body);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_cut_body_is_an_error_for_every_reader() {
        let body = body(true, 1000);
        let reader = body.reader().unwrap();
        body.push(Bytes::from_static(b"half")).await;
        body.finish(Err(UpstreamError::Cut));
        assert_eq!(read_all(reader).await, Err(UpstreamError::Cut));
    }

    #[tokio::test]
    async fn a_body_that_outgrows_the_limit_flows_on_but_is_not_kept() {
        let body = body(true, 5);
        let reader = tokio::spawn(read_all(body.reader().unwrap()));
        body.push(Bytes::from_static(b"12345")).await;
        assert!(body.is_kept());
        body.push(Bytes::from_static(b"6")).await;
        assert!(!body.is_kept());
        assert_eq!(body.whole(&Bytes::new()), None);
        body.finish(Ok(()));
        assert_eq!(reader.await.unwrap().unwrap(), b"123456");
        assert!(body.reader().is_none(), "a newcomer would miss the beginning");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_reader_is_detached_and_the_others_go_on() {
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
    async fn the_budget_gets_everything_back() {
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

    /// A chunk of one byte may come in a buffer that four kilobytes of extensions filled.
    #[tokio::test]
    async fn a_small_piece_that_is_kept_holds_no_large_buffer() {
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        let body = body(true, 1000);
        body.push(buffer.slice(..10)).await;
        assert!(buffer.is_unique());
        let flows = self::body(false, 0);
        let _reader = flows.reader().unwrap();
        flows.push(buffer.slice(..10)).await;
        assert!(buffer.is_unique());
    }

    #[tokio::test(start_paused = true)]
    async fn small_pieces_before_a_reader_that_takes_nothing_are_few() {
        let body = body(false, 0);
        let _stalled = body.reader().unwrap();
        let pushed = timeout(Duration::from_secs(1), async {
            for _ in 0..WINDOW {
                body.push(Bytes::from_static(b"x")).await;
            }
        });
        assert!(pushed.await.is_err(), "it waits");
        assert!(body.inner.lock().pieces.len() <= WINDOW / EACH + 1);
    }

    #[tokio::test]
    async fn many_small_pieces_are_charged_for_more_than_their_bytes() {
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
