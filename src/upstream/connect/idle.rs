//! Idle HTTP/1 connections to origins, shared by all clients.
//!
//! Owns: the connections between two calls, their number, and the tasks that watch for their end.
//! Never touches: calls on a connection (`pool`), HTTP/2 (`shared_http2`), pinned connections (`pinned`).
//!
//! The task that watches a connection owns it and hands it over. pingora's pool shares it between the
//! watching task and the next call instead, and loses it if the task releases its lock before its reference:
//! a fifth of all calls, one after the other, had to open a new connection.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// The idle connections. They are closed with it.
pub(in crate::upstream) struct IdleConnections {
    all: Arc<Mutex<Connections>>,
    max: usize,
}

#[derive(Default)]
struct Connections {
    next_id: u64,
    /// In the order in which they became idle.
    by_id: BTreeMap<u64, Idle>,
    /// The same by key; the last one became idle most recently.
    by_key: HashMap<u64, Vec<u64>>,
}

struct Idle {
    key: u64,
    /// Asks the watching task for the connection. Dropped: the task closes it.
    claim: oneshot::Sender<oneshot::Sender<Stream>>,
}

impl IdleConnections {
    /// Keeps at most `max` connections.
    pub(in crate::upstream) fn new(max: usize) -> Self {
        Self { all: Arc::default(), max }
    }

    /// Keeps a connection whose call is over, at most for `idle_timeout`. If there are too many, the one that
    /// has been idle longest is closed.
    pub(in crate::upstream) fn put(&self, key: u64, stream: Stream, idle_timeout: Duration) {
        let (claim, claimed) = oneshot::channel();
        let mut all = self.all.lock();
        let id = all.insert(Idle { key, claim });
        let evicted = (all.by_id.len() > self.max).then(|| all.remove_oldest()).flatten();
        drop(all);
        drop(evicted);
        tokio::spawn(watch(stream, claimed, idle_timeout, (id, Arc::downgrade(&self.all))));
    }

    /// The connection with this key that became idle most recently and is still open.
    pub(in crate::upstream) async fn take(&self, key: u64) -> Option<Stream> {
        loop {
            let idle = self.all.lock().remove_newest(key)?;
            let (reply, stream) = oneshot::channel();
            if idle.claim.send(reply).is_ok()
                && let Ok(stream) = stream.await
            {
                return Some(stream);
            }
        }
    }

    /// Closes the connection that has been idle longest; false: there is none.
    pub(in crate::upstream) async fn evict_one(&self) -> bool {
        loop {
            let Some(idle) = self.all.lock().remove_oldest() else { return false };
            let (reply, stream) = oneshot::channel();
            // Its descriptor is free once it is dropped here.
            if idle.claim.send(reply).is_ok() && stream.await.is_ok() {
                return true;
            }
        }
    }
}

impl Connections {
    fn insert(&mut self, idle: Idle) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.by_key.entry(idle.key).or_default().push(id);
        self.by_id.insert(id, idle);
        id
    }

    fn remove_newest(&mut self, key: u64) -> Option<Idle> {
        let newest = *self.by_key.get(&key)?.last()?;
        self.remove(newest)
    }

    fn remove_oldest(&mut self) -> Option<Idle> {
        let oldest = *self.by_id.first_key_value()?.0;
        self.remove(oldest)
    }

    fn remove(&mut self, id: u64) -> Option<Idle> {
        let idle = self.by_id.remove(&id)?;
        if let Some(ids) = self.by_key.get_mut(&idle.key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_key.remove(&idle.key);
            }
        }
        Some(idle)
    }
}

/// Owns an idle connection until it is claimed, evicted or closed by the origin, or its time is over. Bytes
/// that arrive meanwhile belong to no response, so they end it, too.
async fn watch(
    mut stream: Stream,
    claimed: oneshot::Receiver<oneshot::Sender<Stream>>,
    idle_timeout: Duration,
    (id, all): (u64, Weak<Mutex<Connections>>),
) {
    let mut byte = [0];
    tokio::select! {
        biased;
        claim = claimed => {
            // An error means that it is evicted.
            if let Ok(reply) = claim
                && is_quiet(&mut stream)
            {
                // The call may have been cancelled; the connection is then closed.
                drop(reply.send(stream));
            }
            return;
        }
        _ended = stream.read(&mut byte) => {}
        () = sleep(idle_timeout) => {}
    }
    if let Some(all) = all.upgrade() {
        let idle = all.lock().remove(id);
        drop(idle);
    }
}

/// Whether nothing has arrived on a connection, not even its end.
pub(in crate::upstream) fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0];
    // Bytes that arrive before a request belong to no response, so reading one here loses nothing.
    let read =
        Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte));
    read.is_pending()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::yield_now;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A kept connection; its origin's end.
    fn keep(idle: &IdleConnections, key: u64) -> DuplexStream {
        let (near, far) = duplex(16);
        idle.put(key, Box::new(near), LONG);
        far
    }

    /// Waits for larder to close the connection.
    async fn is_closed(end: &mut DuplexStream) -> bool {
        end.read(&mut [0]).await.is_ok_and(|read| read == 0)
    }

    fn count(idle: &IdleConnections) -> usize {
        let all = idle.all.lock();
        assert_eq!(all.by_key.values().map(Vec::len).sum::<usize>(), all.by_id.len());
        all.by_id.len()
    }

    /// Each call returns its connection and the next one takes it at once, on several threads.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_connection_is_lost_between_two_calls() {
        let idle = IdleConnections::new(8);
        let _end = keep(&idle, 1);
        for call in 0..1000 {
            let stream = tokio::time::timeout(LONG, idle.take(1)).await.unwrap();
            idle.put(1, stream.unwrap_or_else(|| panic!("call {call} has none")), LONG);
        }
        assert_eq!(count(&idle), 1);
    }

    #[tokio::test]
    async fn the_newest_connection_of_a_key_is_used_and_the_oldest_is_evicted() {
        let idle = IdleConnections::new(3);
        let (mut oldest, mut old) = (keep(&idle, 1), keep(&idle, 1));
        let (mut newest, _other) = (keep(&idle, 1), keep(&idle, 2));
        assert!(is_closed(&mut oldest).await, "a fourth one");
        let mut stream = idle.take(1).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(newest.read(&mut [0]).await.unwrap(), 1);
        assert!(idle.evict_one().await && is_closed(&mut old).await);
        assert!(idle.take(1).await.is_none() && idle.take(2).await.is_some());
        assert!(!idle.evict_one().await);
        assert_eq!(count(&idle), 0);
    }

    #[tokio::test]
    async fn a_connection_that_the_origin_ends_or_writes_on_is_closed() {
        let idle = IdleConnections::new(8);
        let ended = keep(&idle, 1);
        let mut noisy = keep(&idle, 1);
        drop(ended);
        noisy.write_all(b"HTTP/1.1 408").await.unwrap();
        assert!(idle.take(1).await.is_none(), "also before the tasks have noticed");
        let (ended, mut noisy) = (keep(&idle, 1), keep(&idle, 1));
        drop(ended);
        noisy.write_all(b"HTTP/1.1 408").await.unwrap();
        while count(&idle) > 0 {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_closed_after_their_time_and_with_the_pool() {
        let idle = IdleConnections::new(8);
        let mut end = keep(&idle, 1);
        assert!(is_closed(&mut end).await);
        assert_eq!(count(&idle), 0);
        let mut end = keep(&idle, 1);
        yield_now().await;
        drop(idle);
        assert!(is_closed(&mut end).await);
    }
}
