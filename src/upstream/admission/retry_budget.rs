//! The retry budget of an upstream: a bound on the retries of all its requests together.
//!
//! Owns: the count of calls and retries of the last seconds. Pure: time is an argument. Never touches: the
//! retries of one request (`upstream::retry`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The retries that all requests of an upstream may make together: one for every five calls, and at least a
/// hundred in ten seconds (Finagle's floor is ten per second, too). Without a budget, an origin that fails half of its calls gets up to four times its load.
/// The share of a call is valid for ten seconds and used once, so that no time window has more retries.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    seconds: VecDeque<BudgetBucket>,
}

/// The calls and retries of one second.
#[derive(Debug)]
struct BudgetBucket {
    begun: Instant,
    /// Calls that have not been used for a retry.
    calls: u64,
    retries: u64,
}

/// The time window of the budget.
const WINDOW: Duration = Duration::from_secs(10);
/// The retries that are always allowed in that time.
const MIN_RETRIES: u64 = 100;
/// The number of calls for one retry.
const CALLS_PER_RETRY: u64 = 5;

impl RetryBudget {
    /// Records a call that is not a retry.
    pub(super) fn record_call(&mut self, now: Instant) {
        if let Some(second) = self.second(now) {
            second.calls += 1;
        }
    }

    /// Takes a retry from the budget. Returns false if the budget is used up.
    pub(super) fn try_acquire(&mut self, now: Instant) -> bool {
        let (used, max) = self.usage(now);
        if used >= max {
            return false;
        }
        // The oldest calls first, since they expire first.
        let mut remaining = CALLS_PER_RETRY;
        for second in &mut self.seconds {
            let taken = second.calls.min(remaining);
            (second.calls, remaining) = (second.calls - taken, remaining - taken);
        }
        if let Some(second) = self.second(now) {
            second.retries += 1;
        }
        true
    }

    /// The retries of the last ten seconds, and the maximum.
    pub(super) fn usage(&mut self, now: Instant) -> (u64, u64) {
        while self.seconds.front().is_some_and(|s| now.duration_since(s.begun) >= WINDOW) {
            self.seconds.pop_front();
        }
        let calls: u64 = self.seconds.iter().map(|second| second.calls).sum();
        let retries: u64 = self.seconds.iter().map(|second| second.retries).sum();
        (retries, (retries + calls / CALLS_PER_RETRY).max(MIN_RETRIES))
    }

    fn second(&mut self, now: Instant) -> Option<&mut BudgetBucket> {
        let is_current = self
            .seconds
            .back()
            .is_some_and(|second| now.duration_since(second.begun) < Duration::from_secs(1));
        if !is_current {
            let _trimmed = self.usage(now);
            self.seconds.push_back(BudgetBucket { begun: now, calls: 0, retries: 0 });
        }
        self.seconds.back_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_budget_is_a_fifth_of_the_calls_and_at_least_ten_retries_per_second() {
        let (mut budget, now) = (RetryBudget::default(), crate::clock::Clock::system().instant());
        let spent = |budget: &mut RetryBudget, now| (0..1000).filter(|_| budget.try_acquire(now)).count();
        assert_eq!(spent(&mut budget, now), 100);
        assert_eq!(spent(&mut budget, now + 9 * SECOND), 0, "a hundred in ten seconds");
        let later = now + 10 * SECOND;
        for _ in 0..1000 {
            budget.record_call(later);
        }
        assert_eq!(spent(&mut budget, later), 200);
        assert_eq!(budget.usage(later), (200, 200));
    }

    #[test]
    fn a_half_failing_origin_gets_at_most_a_fifth_more_calls() {
        let (mut budget, start) = (RetryBudget::default(), crate::clock::Clock::system().instant());
        let (requests, mut calls) = (200 * 60, 0);
        for request in 0..requests {
            let now = start + request * SECOND / 200;
            calls += 1;
            budget.record_call(now);
            // Every second call fails, and would be retried three times.
            for attempt in 0..3 {
                if (request + attempt) % 2 == 0 && budget.try_acquire(now) {
                    calls += 1;
                }
            }
        }
        assert!(calls <= requests * 12 / 10 + 100, "{calls} calls for {requests} requests");
        assert!(calls >= requests * 11 / 10, "{calls}: there are retries");
    }
}
