//! The clock. Only this file reads the time; other code receives it as a value, and tests advance it
//! manually.
//!
//! Owns: every reading of the operating system's clocks, and sleeping by the same clock. Never touches: what
//! the time is used for.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

/// A source of the current time. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    manual: Option<Arc<ManualClock>>,
}

/// A clock that a test advances: its wall-clock time and its monotonic time move together.
#[derive(Debug)]
struct ManualClock {
    start: SystemTime,
    started: Instant,
    elapsed: watch::Sender<Duration>,
    /// How far the wall clock was set back.
    set_back_by: Mutex<Duration>,
    /// The time at which each sleeper wakes.
    wake_times: Mutex<Vec<Duration>>,
}

impl Clock {
    /// The operating system's clock.
    pub fn system() -> Self {
        Self { manual: None }
    }

    /// A clock that stays at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: SystemTime) -> Self {
        let (elapsed, wake_times) = (watch::Sender::new(Duration::ZERO), Mutex::default());
        let (started, set_back_by) = (Self::timer_now().into_std(), Mutex::default());
        Self { manual: Some(Arc::new(ManualClock { start, started, elapsed, set_back_by, wake_times })) }
    }

    /// The wall-clock time now.
    pub fn now(&self) -> SystemTime {
        match &self.manual {
            Some(manual) => {
                let start = manual.start.checked_sub(*manual.set_back_by.lock()).unwrap_or(manual.start);
                start.checked_add(manual.elapsed()).unwrap_or(start)
            }
            None => Self::read_system(),
        }
    }

    /// The monotonic time now. Cooldowns and waits are measured in it: a change of the wall clock does not
    /// affect them.
    pub fn instant(&self) -> Instant {
        match &self.manual {
            Some(manual) => manual.started.checked_add(manual.elapsed()).unwrap_or(manual.started),
            None => Self::timer_now().into_std(),
        }
    }

    /// The time by which the runtime's timers wait, for their deadlines and for the duration of such a wait.
    /// A manual clock does not move those timers, so this is the same for every clock.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn timer_now() -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn read_system() -> SystemTime {
        SystemTime::now()
    }

    /// Returns when this clock has moved on by `time`.
    pub async fn sleep(&self, time: Duration) {
        let Some(manual) = &self.manual else { return tokio::time::sleep(time).await };
        let until = manual.elapsed().saturating_add(time);
        let _sleeper = SleepGuard::new(manual, until);
        let mut elapsed = manual.elapsed.subscribe();
        // The sender is in `manual` and outlives this wait.
        let _elapsed = elapsed.wait_for(|elapsed| *elapsed >= until).await;
    }

    /// Advances a manual clock. Does nothing to the operating system's clock.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.manual {
            manual.elapsed.send_modify(|elapsed| *elapsed = elapsed.saturating_add(by));
        }
    }

    /// Sets the wall clock back, but not the monotonic one, as an operator or NTP does. Does nothing to the
    /// operating system's clock.
    pub fn set_back(&self, by: Duration) {
        if let Some(manual) = &self.manual {
            *manual.set_back_by.lock() += by;
        }
    }

    /// Number of tasks that sleep by a manual clock; a test waits for them before it advances the clock. A
    /// task whose wake time has passed is not counted, even if it has not run yet.
    pub fn sleepers(&self) -> usize {
        let Some(manual) = &self.manual else { return 0 };
        let now = manual.elapsed();
        manual.wake_times.lock().iter().filter(|until| **until > now).count()
    }
}

impl ManualClock {
    fn elapsed(&self) -> Duration {
        *self.elapsed.borrow()
    }
}

/// Counts one sleeper until it is dropped, cancelled or not.
struct SleepGuard<'a> {
    manual: &'a ManualClock,
    until: Duration,
}

impl<'a> SleepGuard<'a> {
    fn new(manual: &'a ManualClock, until: Duration) -> Self {
        manual.wake_times.lock().push(until);
        Self { manual, until }
    }
}

impl Drop for SleepGuard<'_> {
    fn drop(&mut self) {
        let mut wake_times = self.manual.wake_times.lock();
        if let Some(at) = wake_times.iter().position(|until| *until == self.until) {
            wake_times.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_sleeper_wakes_when_a_manual_clock_has_advanced_far_enough() {
        let clock = Clock::manual(SystemTime::UNIX_EPOCH);
        let other = clock.clone();
        let sleeping = tokio::spawn(async move { other.sleep(2 * SECOND).await });
        while clock.sleepers() == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(SECOND);
        tokio::task::yield_now().await;
        assert!(!sleeping.is_finished());
        clock.advance(SECOND);
        sleeping.await.unwrap();
        assert_eq!(clock.sleepers(), 0);
    }

    #[test]
    fn both_times_move_together() {
        let clock = Clock::manual(SystemTime::UNIX_EPOCH);
        let before = clock.instant();
        clock.advance(3 * SECOND);
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + 3 * SECOND);
        assert_eq!(clock.instant() - before, 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_system_clock_sleeps_by_the_time_of_the_runtime() {
        let clock = Clock::system();
        let before = clock.instant();
        clock.sleep(60 * SECOND).await;
        assert!(clock.instant() - before >= 60 * SECOND);
    }
}
