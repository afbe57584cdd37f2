//! Clients that read nothing, or little: how long they may keep bytes buffered.
//!
//! Owns: the deadline and the minimum rate, both stricter under memory pressure. Never touches: the count of
//! buffered bodies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::clock::Clock;
use crate::upstream::in_flight_bytes::InFlightBytes;

/// Clients that occupy no more than this with all their responses have twice the threshold of others: a slow
/// client with one response is no reason for memory pressure.
const SMALL_CLIENT: usize = 1024 * 1024;

/// How long a client may read nothing at the onset of memory pressure; at twice the threshold half as long. A
/// slow but steady client seems to read nothing until a third of its socket buffer is free.
const PRESSURE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often the deadline is checked, and the minimum that every client gets.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes per second that a client must read at the onset of memory pressure; at twice the threshold twice as
/// many.
const MIN_RATE: usize = 16 * 1024;

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

impl InFlightBytes {
    /// The total above which memory pressure applies to a client that occupies `own` bytes.
    fn pressure_threshold(&self, own: usize) -> usize {
        if own <= SMALL_CLIENT { self.whole_body_limit().saturating_mul(2) } else { self.whole_body_limit() }
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
    /// memory pressure. `all` counts the memory that all responses of the client occupy, if it has several.
    pub async fn with_stall_timeout<T>(
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
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::upstream::in_flight_bytes::STALLED_CLIENT_BYTES;

    const WAITING: StalledClient = StalledClient { counted: STALLED_CLIENT_BYTES, body_bytes: SMALL_CLIENT };

    /// How long larder waits for a stalled client if the usual time is a minute.
    async fn time_until_stalled(in_flight: Arc<InFlightBytes>) -> Duration {
        let (since, never) = (Clock::timer_now(), std::future::pending::<()>());
        assert_eq!(in_flight.with_stall_timeout(WAITING, None, Duration::from_secs(60), never).await, None);
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
            assert!(waiting.await.unwrap() <= PRESSURE_TIMEOUT + CHECK_INTERVAL + Duration::from_millis(10));
            let short = time_until_stalled_now(&in_flight).await;
            assert!(
                short <= PRESSURE_TIMEOUT * 3 / (u32::try_from(evicted_now).unwrap() + 1) + CHECK_INTERVAL,
                "{short:?}"
            );
            evicted.store(0, Ordering::Relaxed);
        }
        assert_eq!(in_flight.stall_timeout(usual, 0), usual, "no client is stalled");
        let done = async { 7 };
        assert_eq!(in_flight.with_stall_timeout(WAITING, None, usual, done).await, Some(7));
    }

    #[test]
    fn the_required_rate_grows_with_the_total() {
        let (in_flight, mib) = (InFlightBytes::new(4 << 20), 1 << 20);
        let fast_enough = |taken| in_flight.is_fast_enough(taken, Duration::from_secs(15), SMALL_CLIENT + 1);
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
}
