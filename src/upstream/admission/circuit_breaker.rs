//! The circuit breaker: opens after repeated failures of an origin, then lets one half-open probe through.
//!
//! Owns: the streak of failures. Pure: time is an argument. Never touches: the cooldown of an open breaker
//! (`cooldown`).

use std::collections::VecDeque;
use std::time::Instant;

use crate::policy::upstream::CircuitBreaker;

/// The failures since the last success.
#[derive(Debug, Default)]
pub(in crate::upstream) struct FailureStreak {
    failures: VecDeque<Instant>,
}

impl FailureStreak {
    /// A usable response arrived.
    pub(in crate::upstream) fn reset(&mut self) {
        self.failures.clear();
    }

    /// Records a failed call. Returns whether the breaker opens now.
    pub(in crate::upstream) fn failed(&mut self, rule: &CircuitBreaker, now: Instant) -> bool {
        let max = usize::try_from(rule.failures).unwrap_or(usize::MAX);
        self.failures.push_back(now);
        while self.failures.len() > max {
            self.failures.pop_front();
        }
        let first = self.failures.front().copied().unwrap_or(now);
        self.failures.len() == max && now.duration_since(first) <= rule.within
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);
    const RULE: CircuitBreaker =
        CircuitBreaker { failures: 3, within: SECOND.saturating_mul(30), open_for: SECOND };

    #[test]
    fn it_opens_at_enough_failures_within_the_time() {
        let (mut streak, now) = (FailureStreak::default(), Clock::system().instant());
        assert!(!streak.failed(&RULE, now));
        assert!(!streak.failed(&RULE, now + 10 * SECOND));
        assert!(streak.failed(&RULE, now + 30 * SECOND));
    }

    #[test]
    fn failures_with_long_pauses_do_not_open_it() {
        let (mut streak, now) = (FailureStreak::default(), Clock::system().instant());
        for failure in 0..20 {
            assert!(!streak.failed(&RULE, now + failure * 16 * SECOND), "{failure}");
        }
        assert!(streak.failed(&RULE, now + 19 * 16 * SECOND + SECOND), "three within 17 seconds");
    }

    #[test]
    fn a_success_resets_the_count() {
        let (mut streak, now) = (FailureStreak::default(), Clock::system().instant());
        for _ in 0..50 {
            assert!(!streak.failed(&RULE, now));
            assert!(!streak.failed(&RULE, now));
            streak.reset();
        }
    }
}
