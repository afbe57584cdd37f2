//! How long a client is waited for, where a wait is polled and not awaited.
//!
//! Owns: the two timers of that, and what counts as taking nothing. Never touches: connections.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::clock;
use crate::frontend::shared_connection::SharedConnection;
use crate::frontend::stream::STALLED;
use crate::upstream::in_flight_bytes::{InFlightBytes, WAITED_FOR, Waiting};

/// For so long a client is waited for, by and by, until it is looked at how fast it is.
const STRETCH: Duration = Duration::from_secs(5);

/// How often a connection that cannot be read on is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Lets a client take nothing for as long as [`InFlightBytes::patiently`] does, and while memory is short as little
/// as it [bears](InFlightBytes::bears). Made when there is something to wait for.
pub(in crate::frontend) struct Stall {
    in_flight: Arc<InFlightBytes>,
    late: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Since when it is waited for.
    since: Option<Instant>,
    /// For how long it has been waited for lately, and what it took meanwhile.
    waited: Duration,
    taken: usize,
    /// What an origin may send ahead of it.
    ahead: usize,
    /// The piece that it is given.
    piece: usize,
    /// The others on its connection.
    siblings: Option<SharedConnection>,
}

impl Stall {
    pub(in crate::frontend) fn new(in_flight: &Arc<InFlightBytes>) -> Self {
        Self {
            in_flight: Arc::clone(in_flight),
            late: None,
            since: None,
            waited: Duration::ZERO,
            taken: 0,
            ahead: 0,
            piece: 0,
            siblings: None,
        }
    }

    /// For one of several answers on a connection: what all of them hold is their client's.
    pub(in crate::frontend) fn among(
        in_flight: &Arc<InFlightBytes>,
        siblings: &SharedConnection,
    ) -> Self {
        Self { siblings: Some(siblings.clone()), ..Self::new(in_flight) }
    }

    /// The client is given a piece of so many bytes.
    pub(in crate::frontend) fn holds(&mut self, bytes: usize) {
        self.piece = bytes;
    }

    /// While the client is waited for, an origin may send so many bytes ahead.
    pub(in crate::frontend) fn is_ahead(&mut self, bytes: usize) {
        self.ahead = bytes;
    }

    /// The client has taken so much.
    pub(in crate::frontend) fn moved(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes);
        self.late = None;
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Nothing can be written now; ready once that has been so for too long, or too often.
    pub(in crate::frontend) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_too_slow() {
            return Poll::Ready(());
        }
        self.since.get_or_insert_with(clock::of_timers);
        let late = self.late.get_or_insert_with(|| {
            let waiting = Waiting { counted: WAITED_FOR + self.ahead, held: self.piece };
            let (in_flight, siblings) = (Arc::clone(&self.in_flight), self.siblings.clone());
            Box::pin(async move {
                let all = siblings.as_ref().map(SharedConnection::held);
                let taken = std::future::pending::<()>();
                let _late = in_flight.patiently_for(waiting, all, STALLED, taken).await;
            })
        });
        late.as_mut().poll(cx)
    }

    /// What the client makes larder hold.
    fn of_its_client(&self) -> usize {
        let all = self.siblings.as_ref().map_or(0, |all| all.held().load(Ordering::Relaxed));
        all.max(WAITED_FOR + self.ahead) + self.piece
    }

    /// Looks at what was taken in each stretch of waiting.
    fn is_too_slow(&mut self) -> bool {
        if self.waited < STRETCH {
            return false;
        }
        let (taken, waited) = (mem::take(&mut self.taken), mem::take(&mut self.waited));
        !self.in_flight.bears(taken, waited, self.of_its_client())
    }
}

/// Looks at a connection now and then.
#[derive(Default)]
pub(in crate::frontend) struct Look(Option<Pin<Box<Sleep>>>);

impl Look {
    /// Ready once `is_over`.
    pub(in crate::frontend) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        is_over: impl Fn() -> bool,
    ) -> Poll<()> {
        loop {
            if is_over() {
                return Poll::Ready(());
            }
            let next = self.0.get_or_insert_with(|| Box::pin(sleep(LOOK)));
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

    /// Takes so many bytes every three seconds; for how long that goes well.
    async fn takes(in_flight: &Arc<InFlightBytes>, bytes: usize) -> Duration {
        let (mut stall, since) = (Stall::new(in_flight), clock::of_timers());
        stall.holds(2 << 20);
        while since.elapsed() < Duration::from_secs(600) {
            let pause = timeout(Duration::from_secs(3), poll_fn(|cx| stall.poll(cx)));
            if pause.await.is_ok() {
                break;
            }
            stall.moved(bytes);
        }
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_little_is_waited_for_unless_memory_is_short() {
        let in_flight = InFlightBytes::new(4 << 20);
        let long = Duration::from_secs(600);
        assert!(takes(&in_flight, 1).await >= long, "there is room");
        in_flight.take(6 << 20);
        assert!(takes(&in_flight, 1).await < Duration::from_secs(10));
        assert!(takes(&in_flight, 64 * 1024).await < Duration::from_secs(10));
        assert!(takes(&in_flight, 128 * 1024).await >= long, "twice as much is held");
    }
}
