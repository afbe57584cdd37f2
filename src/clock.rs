//! The time: read in this file only, handed down as a value, turned by hand in tests.
//!
//! Owns: every reading of the operating system's clocks, and waiting by the same clock.
//! Never touches: what the time is used for.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Where the time comes from. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    hand: Option<Arc<ManualClock>>,
}

/// A clock that a test turns: its wall-clock time and its monotonic time move together.
#[derive(Debug)]
struct ManualClock {
    start: SystemTime,
    begun: Instant,
    turned: watch::Sender<Duration>,
    /// By how much the wall clock was set back.
    back: Mutex<Duration>,
    /// Until when each sleeper sleeps.
    sleeping: Mutex<Vec<Duration>>,
}

impl Clock {
    /// The operating system's clock.
    pub fn system() -> Self {
        Self { hand: None }
    }

    /// A clock that stands at `start` until [`Clock::advance`] turns it.
    pub fn by_hand(start: SystemTime) -> Self {
        let (turned, sleeping) = (watch::Sender::new(Duration::ZERO), Mutex::default());
        let (begun, back) = (monotonic(), Mutex::default());
        Self { hand: Some(Arc::new(ManualClock { start, begun, turned, back, sleeping })) }
    }

    /// The wall-clock time now.
    pub fn now(&self) -> SystemTime {
        match &self.hand {
            Some(hand) => {
                let start = hand.start.checked_sub(*hand.back.lock()).unwrap_or(hand.start);
                start.checked_add(hand.turned()).unwrap_or(start)
            }
            None => read_system(),
        }
    }

    /// The monotonic time now: what holds and waits are counted in, whatever becomes of the wall
    /// clock.
    pub fn instant(&self) -> Instant {
        match &self.hand {
            Some(hand) => hand.begun.checked_add(hand.turned()).unwrap_or(hand.begun),
            None => runtime_time(),
        }
    }

    /// Returns when this clock has moved on by `time`.
    pub async fn sleep(&self, time: Duration) {
        let Some(hand) = &self.hand else { return tokio::time::sleep(time).await };
        let until = hand.turned().saturating_add(time);
        let _sleeper = SleepGuard::new(hand, until);
        let mut turned = hand.turned.subscribe();
        // The sender is the hand's own.
        let _turned = turned.wait_for(|turned| *turned >= until).await;
    }

    /// Turns a hand-turned clock forward; the operating system's clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Some(hand) = &self.hand {
            hand.turned.send_modify(|turned| *turned = turned.saturating_add(by));
        }
    }

    /// Sets the wall clock back, and not the monotonic one, as an operator or NTP does; the operating system's
    /// is left alone.
    pub fn set_back(&self, by: Duration) {
        if let Some(hand) = &self.hand {
            *hand.back.lock() += by;
        }
    }

    /// How many sleep by a hand-turned clock: a test turns it when they do. Whose time has come sleeps
    /// no more, though its task may not have run yet.
    pub fn sleepers(&self) -> usize {
        let Some(hand) = &self.hand else { return 0 };
        let now = hand.turned();
        hand.sleeping.lock().iter().filter(|until| **until > now).count()
    }
}

impl ManualClock {
    fn turned(&self) -> Duration {
        *self.turned.borrow()
    }
}

/// Counted for as long as it sleeps, cancelled or not.
struct SleepGuard<'a> {
    hand: &'a ManualClock,
    until: Duration,
}

impl<'a> SleepGuard<'a> {
    fn new(hand: &'a ManualClock, until: Duration) -> Self {
        hand.sleeping.lock().push(until);
        Self { hand, until }
    }
}

impl Drop for SleepGuard<'_> {
    fn drop(&mut self) {
        let mut sleeping = self.hand.sleeping.lock();
        if let Some(at) = sleeping.iter().position(|until| *until == self.until) {
            sleeping.swap_remove(at);
        }
    }
}

/// The monotonic time, for measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// The same, or what a test's paused runtime takes for it.
fn runtime_time() -> Instant {
    of_timers().into_std()
}

/// The same, as timers go by it: for deadlines of something that is under way.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn of_timers() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn read_system() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn who_sleeps_by_a_hand_turned_clock_wakes_when_it_has_been_turned_far_enough() {
        let clock = Clock::by_hand(SystemTime::UNIX_EPOCH);
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
        let clock = Clock::by_hand(SystemTime::UNIX_EPOCH);
        let before = clock.instant();
        clock.advance(3 * SECOND);
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + 3 * SECOND);
        assert_eq!(clock.instant() - before, 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_systems_clock_sleeps_by_the_runtimes_time() {
        let clock = Clock::system();
        let before = clock.instant();
        clock.sleep(60 * SECOND).await;
        assert!(clock.instant() - before >= 60 * SECOND);
    }
}
