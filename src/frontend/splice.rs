//! Splices two connections: forwards the bytes of each to the other, uninterpreted, until both have ended.
//!
//! Owns: the byte counts of both directions, and the idle timeout (`limits.tunnel_idle`). Never
//! touches: the meaning of the bytes, the setup of the connections.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::sleep;

use crate::clock::Clock;

/// How two spliced connections ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpliceEnd {
    /// Both sides ended in order.
    Whole,
    /// One side aborted.
    Broken,
    /// No byte moved in either direction for the idle timeout.
    Idle,
}

/// The byte counts of two spliced connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplicedBytes {
    /// The bytes that were written to the origin.
    pub up: u64,
    /// The bytes that were written to the client.
    pub down: u64,
    /// How the connections ended.
    pub end: SpliceEnd,
}

impl SplicedBytes {
    /// Nothing was forwarded, because one side aborted before.
    pub const BROKEN: Self = Self { up: 0, down: 0, end: SpliceEnd::Broken };
}

/// Forwards bytes both ways until both sides have ended, one aborts, or no byte has moved for `idle`.
/// If one side ends, the other direction stays open.
pub async fn splice<C, O>(client: &mut C, origin: &mut O, idle: Duration) -> SplicedBytes
where
    C: AsyncRead + AsyncWrite + Unpin,
    O: AsyncRead + AsyncWrite + Unpin,
{
    let activity = LastActivity::new();
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut client = WatchedStream { stream: client, activity: &activity, written: &down };
    let mut origin = WatchedStream { stream: origin, activity: &activity, written: &up };
    let end = tokio::select! {
        copied = copy_bidirectional(&mut client, &mut origin) => match copied {
            Ok(_counted) => SpliceEnd::Whole,
            Err(_broken) => SpliceEnd::Broken,
        },
        () = activity.silence(idle) => SpliceEnd::Idle,
    };
    SplicedBytes { up: up.load(Relaxed), down: down.load(Relaxed), end }
}

/// The time of the last activity.
struct LastActivity {
    clock: Clock,
    start: Instant,
    /// Milliseconds since `start`.
    last: AtomicU64,
}

impl LastActivity {
    fn new() -> Self {
        let clock = Clock::system();
        let start = clock.instant();
        Self { clock, start, last: AtomicU64::new(0) }
    }

    fn elapsed(&self) -> Duration {
        self.clock.instant().saturating_duration_since(self.start)
    }

    fn record(&self) {
        let millis = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Relaxed);
    }

    /// Returns when no byte has moved for `bound`. It sets one timer per period, not one per byte.
    async fn silence(&self, bound: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Relaxed));
            let quiet = self.elapsed().saturating_sub(last);
            let Some(left) = bound.checked_sub(quiet).filter(|left| !left.is_zero()) else {
                return;
            };
            sleep(left).await;
        }
    }
}

/// One of the two connections.
struct WatchedStream<'a, S> {
    stream: &'a mut S,
    activity: &'a LastActivity,
    written: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut *self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.record();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count @ 1..)) = written {
            self.written.fetch_add(count as u64, Relaxed);
            self.activity.record();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The far ends of two spliced connections, and the result of the splice.
    fn spliced_pair(idle: Duration) -> (DuplexStream, DuplexStream, JoinHandle<SplicedBytes>) {
        let (client, mut near_client) = duplex(64);
        let (origin, mut near_origin) = duplex(64);
        let spliced = tokio::spawn(async move { splice(&mut near_client, &mut near_origin, idle).await });
        (client, origin, spliced)
    }

    #[tokio::test(start_paused = true)]
    async fn spliced_connections_end_after_the_idle_timeout() {
        let (mut client, mut origin, spliced) = spliced_pair(10 * SECOND);
        let clock = Clock::system();
        let begun = clock.instant();
        // Each byte, in either direction, restarts the timeout.
        for round in 0..4 {
            sleep(9 * SECOND).await;
            let (from, to) =
                if round % 2 == 0 { (&mut client, &mut origin) } else { (&mut origin, &mut client) };
            from.write_all(b"x").await.unwrap();
            assert_eq!(to.read_u8().await.unwrap(), b'x');
        }
        assert_eq!(spliced.await.unwrap(), SplicedBytes { up: 2, down: 2, end: SpliceEnd::Idle });
        let lasted = clock.instant() - begun;
        assert!((46 * SECOND..47 * SECOND).contains(&lasted), "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_but_steady_reader_is_not_idle() {
        let (mut client, mut origin, spliced) = spliced_pair(10 * SECOND);
        let sending = tokio::spawn(async move {
            origin.write_all(&[0; 500]).await.unwrap();
            origin.shutdown().await.unwrap();
            origin
        });
        let mut taken = [0; 50];
        for _ in 0..10 {
            sleep(9 * SECOND).await;
            client.read_exact(&mut taken).await.unwrap();
        }
        client.shutdown().await.unwrap();
        drop(sending.await.unwrap());
        assert_eq!(spliced.await.unwrap(), SplicedBytes { up: 0, down: 500, end: SpliceEnd::Whole });
    }

    #[tokio::test(start_paused = true)]
    async fn byte_counts_are_kept_when_one_side_aborts() {
        let (mut client, mut origin, spliced) = spliced_pair(10 * SECOND);
        client.write_all(b"question").await.unwrap();
        origin.read_exact(&mut [0; 8]).await.unwrap();
        drop(origin);
        // No reader is left for these bytes.
        client.write_all(b"more").await.unwrap();
        assert_eq!(spliced.await.unwrap(), SplicedBytes { up: 8, down: 0, end: SpliceEnd::Broken });
    }
}
