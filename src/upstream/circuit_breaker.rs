//! The breaker: an origin that fails again and again is left alone, then tried with one call.
//!
//! Owns: the run of failures. Pure: the time is an argument. Never touches: the hold that an open breaker
//! is (`hold`).

use std::collections::VecDeque;
use std::time::Instant;

use crate::policy::upstream::CircuitBreaker;

/// The failures since the last success.
#[derive(Debug, Default)]
pub(super) struct FailureStreak {
    failures: VecDeque<Instant>,
}

impl FailureStreak {
    /// An answer of any use came.
    pub(super) fn reset(&mut self) {
        self.failures.clear();
    }

    /// A call failed. Whether the breaker opens now.
    pub(super) fn failed(&mut self, rule: &CircuitBreaker, now: Instant) -> bool {
        let most = usize::try_from(rule.failures).unwrap_or(usize::MAX);
        self.failures.push_back(now);
        while self.failures.len() > most {
            self.failures.pop_front();
        }
        let first = self.failures.front().copied().unwrap_or(now);
        self.failures.len() == most && now.duration_since(first) <= rule.within
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RULE: CircuitBreaker =
        CircuitBreaker { failures: 3, within: SECOND.saturating_mul(30), open_for: SECOND };

    #[test]
    fn it_opens_at_so_many_failures_within_the_time() {
        let (mut run, now) = (FailureStreak::default(), crate::clock::monotonic());
        assert!(!run.failed(&RULE, now));
        assert!(!run.failed(&RULE, now + 10 * SECOND));
        assert!(run.failed(&RULE, now + 30 * SECOND));
    }

    #[test]
    fn failures_that_are_far_apart_do_not_open_it() {
        let (mut run, now) = (FailureStreak::default(), crate::clock::monotonic());
        for failure in 0..20 {
            assert!(!run.failed(&RULE, now + failure * 16 * SECOND), "{failure}");
        }
        assert!(run.failed(&RULE, now + 19 * 16 * SECOND + SECOND), "three within 17 seconds");
    }

    #[test]
    fn a_success_between_them_begins_the_count_anew() {
        let (mut run, now) = (FailureStreak::default(), crate::clock::monotonic());
        for _ in 0..50 {
            assert!(!run.failed(&RULE, now));
            assert!(!run.failed(&RULE, now));
            run.reset();
        }
    }
}
