//! Timeouts for a client that does not read, for code that polls instead of awaiting.
//!
//! Owns: the two timers, and the check of the client's rate. Never touches: connections.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::clock::Clock;
use crate::frontend::shared_connection::SharedConnection;
use crate::frontend::stream::STALL_TIMEOUT;
use crate::upstream::in_flight_bytes::{InFlightBytes, STALLED_CLIENT_BYTES, StalledClient};

/// After this much waiting the rate of a client is checked.
const RATE_INTERVAL: Duration = Duration::from_secs(5);

/// The interval between checks of a connection that cannot be read.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Limits how long a client may read nothing, and how slowly it may read while memory is short, by the
/// rules of [`InFlightBytes`]. Created when there is something to wait for.
pub(in crate::frontend) struct Stall {
    in_flight: Arc<InFlightBytes>,
    timer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The start of the current wait.
    since: Option<Instant>,
    /// The waiting time since the last rate check, and the bytes that the client read meanwhile.
    waited: Duration,
    taken: usize,
    /// The bytes that an origin may send ahead of the client.
    ahead: usize,
    /// The size of the piece that is being written.
    piece: usize,
    /// The state that is shared with the other streams of the connection.
    shared: Option<SharedConnection>,
}

impl Stall {
    pub(in crate::frontend) fn new(in_flight: &Arc<InFlightBytes>) -> Self {
        Self {
            in_flight: Arc::clone(in_flight),
            timer: None,
            since: None,
            waited: Duration::ZERO,
            taken: 0,
            ahead: 0,
            piece: 0,
            shared: None,
        }
    }

    /// For one of several responses on a connection: their client is charged for the memory of all of them.
    pub(in crate::frontend) fn for_stream(in_flight: &Arc<InFlightBytes>, shared: &SharedConnection) -> Self {
        Self { shared: Some(shared.clone()), ..Self::new(in_flight) }
    }

    /// Sets the size of the piece that is being written.
    pub(in crate::frontend) fn set_piece(&mut self, bytes: usize) {
        self.piece = bytes;
    }

    /// Sets the number of bytes that an origin may send ahead while larder waits for the client.
    pub(in crate::frontend) fn set_read_ahead(&mut self, bytes: usize) {
        self.ahead = bytes;
    }

    /// Records that the client has read this many bytes.
    pub(in crate::frontend) fn record_read(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes);
        self.timer = None;
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Called when nothing can be written. Ready once this has lasted too long, or the client reads too
    /// slowly.
    pub(in crate::frontend) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_too_slow() {
            return Poll::Ready(());
        }
        self.since.get_or_insert_with(Clock::timer_now);
        let timer = self.timer.get_or_insert_with(|| {
            let waiting =
                StalledClient { counted: STALLED_CLIENT_BYTES + self.ahead, body_bytes: self.piece };
            let (in_flight, shared) = (Arc::clone(&self.in_flight), self.shared.clone());
            Box::pin(async move {
                let all = shared.as_ref().map(SharedConnection::held_bytes);
                let taken = std::future::pending::<()>();
                let _expired = in_flight.with_stall_timeout(waiting, all, STALL_TIMEOUT, taken).await;
            })
        });
        timer.as_mut().poll(cx)
    }

    /// The memory that the client occupies.
    fn client_memory(&self) -> usize {
        let all = self.shared.as_ref().map_or(0, |all| all.held_bytes().load(Ordering::Relaxed));
        all.max(STALLED_CLIENT_BYTES + self.ahead) + self.piece
    }

    /// Checks the rate of the client after each interval of waiting.
    fn is_too_slow(&mut self) -> bool {
        if self.waited < RATE_INTERVAL {
            return false;
        }
        let (taken, waited) = (mem::take(&mut self.taken), mem::take(&mut self.waited));
        !self.in_flight.is_fast_enough(taken, waited, self.client_memory())
    }
}

/// Checks a connection periodically.
#[derive(Default)]
pub(in crate::frontend) struct PeriodicCheck(Option<Pin<Box<Sleep>>>);

impl PeriodicCheck {
    /// Ready once `is_over` returns true.
    pub(in crate::frontend) fn poll(&mut self, cx: &mut Context<'_>, is_over: impl Fn() -> bool) -> Poll<()> {
        loop {
            if is_over() {
                return Poll::Ready(());
            }
            let next = self.0.get_or_insert_with(|| Box::pin(sleep(CHECK_INTERVAL)));
            ready!(next.as_mut().poll(cx));
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    /// Reads this many bytes every three seconds; returns how long this is tolerated.
    async fn tolerates(in_flight: &Arc<InFlightBytes>, bytes: usize) -> Duration {
        let (mut stall, since) = (Stall::new(in_flight), Clock::timer_now());
        stall.set_piece(2 << 20);
        while since.elapsed() < Duration::from_secs(600) {
            let pause = timeout(Duration::from_secs(3), poll_fn(|cx| stall.poll(cx)));
            if pause.await.is_ok() {
                break;
            }
            stall.record_read(bytes);
        }
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_tolerated_unless_memory_is_short() {
        let in_flight = InFlightBytes::new(4 << 20);
        let long = Duration::from_secs(600);
        assert!(tolerates(&in_flight, 1).await >= long, "memory is available");
        in_flight.reserve(6 << 20);
        assert!(tolerates(&in_flight, 1).await < Duration::from_secs(10));
        assert!(tolerates(&in_flight, 64 * 1024).await < Duration::from_secs(10));
        assert!(tolerates(&in_flight, 128 * 1024).await >= long, "twice the limit is in use");
    }
}
