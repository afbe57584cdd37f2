//! A request's body that comes too slowly: its client holds a connection to the origin and a place at the gate,
//! and others wait.
//!
//! Owns: what is too slow (`limits.body_min_rate`), over the time that larder waits for the client. Never
//! touches: a client that sends nothing at all (`silence`), an origin that takes nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::config::BodyLimits;

/// How a body comes, window after window.
pub(super) struct UploadRate {
    /// The bytes that a window must bring; 0: none.
    least: u64,
    window: Duration,
    /// What the window has brought, and how long the client has been waited for in it.
    bytes: u64,
    waited: Duration,
    /// Since when it is waited for, if it is.
    since: Option<Instant>,
}

impl UploadRate {
    /// A window that begins now. It is as long as a client may be silent.
    pub(super) fn new(limits: BodyLimits) -> Self {
        let millis = u64::try_from(limits.idle.as_millis()).unwrap_or(u64::MAX);
        let least = limits.min_rate.saturating_mul(millis) / 1000;
        Self { least, window: limits.idle, bytes: 0, waited: Duration::ZERO, since: None }
    }

    /// Whether it is the client that is waited for from here on.
    pub(super) fn waits(&mut self, is_waited_for: bool) {
        self.count();
        self.since = is_waited_for.then(clock::of_timers);
    }

    /// So much has come; whether a window is over that brought too little. Another begins then.
    pub(super) fn came(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.count();
        if self.waited < self.window {
            return false;
        }
        let slow = self.bytes < self.least;
        (self.bytes, self.waited) = (0, Duration::ZERO);
        slow
    }

    /// What is enough for a window.
    pub(super) fn least(&self) -> u64 {
        self.least
    }

    /// Resolves when the window ends while the client is waited for; [`UploadRate::came`] tells then.
    /// May be dropped while it waits.
    pub(super) async fn window_ends(&self) {
        match self.since {
            Some(since) if self.least > 0 => {
                sleep_until(since + self.window.saturating_sub(self.waited)).await;
            }
            Some(_) | None => std::future::pending().await,
        }
    }

    fn count(&mut self) {
        if let Some(since) = &mut self.since {
            let now = clock::of_timers();
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

    fn drip() -> UploadRate {
        UploadRate::new(BodyLimits { idle: 30 * SECOND, min_rate: 64 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_is_too_slow_and_a_hundred_are_not() {
        for (bytes, seconds) in [(1, Some(30)), (63, Some(30)), (64, None), (100, None)] {
            let mut drip = drip();
            drip.waits(true);
            let mut cut = None;
            for second in 1..=120 {
                sleep(SECOND).await;
                if drip.came(bytes) {
                    cut = Some(second);
                    break;
                }
            }
            assert_eq!(cut, seconds, "{bytes} bytes a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_time_counts_in_which_the_client_is_waited_for() {
        let mut drip = drip();
        for _ in 0..90 {
            // The origin takes nothing for nine seconds, then the client sends within one.
            drip.waits(false);
            sleep(9 * SECOND).await;
            drip.waits(true);
            sleep(SECOND).await;
            assert!(!drip.came(64));
        }
        assert!(timeout(29 * SECOND, drip.window_ends()).await.is_err());
        assert!(timeout(2 * SECOND, drip.window_ends()).await.is_ok());
        drip.waits(false);
        assert!(timeout(1000 * SECOND, drip.window_ends()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_is_too_slow() {
        let mut drip = UploadRate::new(BodyLimits { idle: 30 * SECOND, min_rate: 0 });
        drip.waits(true);
        assert!(timeout(1000 * SECOND, drip.window_ends()).await.is_err());
        assert!(!drip.came(0));
    }
}
