//! The minimum rate of a request body. A slow client occupies a connection to the origin and an admission
//! slot while other calls wait.
//!
//! Owns: the check of the rate (`limits.body_min_rate`) over the time for which larder waits for the client.
//! Never touches: a client that sends nothing (`inactivity`), an origin that does not read.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::config::BodyLimits;

/// Measures the rate of a body in consecutive windows.
pub(super) struct UploadRate {
    /// Minimum number of bytes in a window; 0: no minimum.
    min_bytes: u64,
    window: Duration,
    /// Bytes received in the window, and the time in it for which the call waited for the client.
    bytes: u64,
    waited: Duration,
    /// Start of the current wait for the client; `None`: the call does not wait for it.
    since: Option<Instant>,
}

impl UploadRate {
    /// Starts a window, which is as long as a client may be inactive.
    pub(super) fn new(limits: BodyLimits) -> Self {
        let millis = u64::try_from(limits.idle.as_millis()).unwrap_or(u64::MAX);
        let min_bytes = limits.min_rate.saturating_mul(millis) / 1000;
        Self { min_bytes, window: limits.idle, bytes: 0, waited: Duration::ZERO, since: None }
    }

    /// Sets whether the call waits for the client.
    pub(super) fn set_waiting(&mut self, is_waited_for: bool) {
        self.count();
        self.since = is_waited_for.then(Clock::timer_now);
    }

    /// Records received bytes. Returns whether a window has ended with too few bytes. The next window begins
    /// when one ends.
    pub(super) fn on_bytes(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.count();
        if self.waited < self.window {
            return false;
        }
        let slow = self.bytes < self.min_bytes;
        (self.bytes, self.waited) = (0, Duration::ZERO);
        slow
    }

    /// The minimum number of bytes in a window.
    pub(super) fn min_bytes(&self) -> u64 {
        self.min_bytes
    }

    /// Resolves when the window ends while the call waits for the client; [`UploadRate::on_bytes`] then
    /// returns the result. Cancel-safe.
    pub(super) async fn window_ends(&self) {
        match self.since {
            Some(since) if self.min_bytes > 0 => {
                sleep_until(since + self.window.saturating_sub(self.waited)).await;
            }
            Some(_) | None => std::future::pending().await,
        }
    }

    fn count(&mut self) {
        if let Some(since) = &mut self.since {
            let now = Clock::timer_now();
            self.waited += now.duration_since(*since);
            *since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{sleep, timeout};

    const SECOND: Duration = Duration::from_secs(1);

    fn upload_rate() -> UploadRate {
        UploadRate::new(BodyLimits { idle: 30 * SECOND, min_rate: 64 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_is_too_slow_and_a_hundred_are_not() {
        for (bytes, expected) in [(1, Some(30)), (63, Some(30)), (64, None), (100, None)] {
            let mut rate = upload_rate();
            rate.set_waiting(true);
            let mut failed_after = None;
            for second in 1..=120 {
                sleep(SECOND).await;
                if rate.on_bytes(bytes) {
                    failed_after = Some(second);
                    break;
                }
            }
            assert_eq!(failed_after, expected, "{bytes} bytes a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_time_spent_waiting_for_the_client_counts() {
        let mut rate = upload_rate();
        for _ in 0..90 {
            // The origin does not read for nine seconds, then the client sends within one.
            rate.set_waiting(false);
            sleep(9 * SECOND).await;
            rate.set_waiting(true);
            sleep(SECOND).await;
            assert!(!rate.on_bytes(64));
        }
        assert!(timeout(29 * SECOND, rate.window_ends()).await.is_err());
        assert!(timeout(2 * SECOND, rate.window_ends()).await.is_ok());
        rate.set_waiting(false);
        assert!(timeout(1000 * SECOND, rate.window_ends()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_minimum_no_rate_is_too_slow() {
        let mut rate = UploadRate::new(BodyLimits { idle: 30 * SECOND, min_rate: 0 });
        rate.set_waiting(true);
        assert!(timeout(1000 * SECOND, rate.window_ends()).await.is_err());
        assert!(!rate.on_bytes(0));
    }
}
