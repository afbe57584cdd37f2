//! Retries: whether and when a failed call is repeated, with a retry state per request and a budget per
//! upstream.
//!
//! Owns: the computation of backoff and budgets. Pure: time and chance are arguments. Never touches: waiting,
//! calls.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::policy::{Backoff, ErrorClass, RetryPolicy};

/// The state of the retries of one request.
#[derive(Debug, Clone)]
pub struct RetryState {
    retry: RetryPolicy,
    /// The time from the first attempt to the head of the last response.
    total: Duration,
    done: u32,
    waited: Duration,
}

/// The decision after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Retry after this time.
    After(Duration),
    /// No retry: the failure is final.
    Stop,
}

impl RetryState {
    /// The state for a request that may take `total` in all.
    pub fn new(retry: RetryPolicy, total: Duration) -> Self {
        Self { retry, total, done: 0, waited: Duration::ZERO }
    }

    /// Decides after a failure, `elapsed` after the first attempt began. `retry_after`: the time that the
    /// origin requested. `chance` is from 0 to 1.
    pub fn next(
        &mut self,
        failure: ErrorClass,
        retry_after: Option<Duration>,
        elapsed: Duration,
        chance: f64,
    ) -> RetryDecision {
        if self.done >= self.retry.retries || !self.retry.covers(failure) {
            return RetryDecision::Stop;
        }
        let retry_after = retry_after.filter(|_| self.retry.honour_retry_after);
        let wait = retry_after.unwrap_or_else(|| backoff(&self.retry.backoff, self.done, chance));
        let waited = self.waited.saturating_add(wait);
        if waited > self.retry.budget || elapsed.saturating_add(wait) >= self.total {
            return RetryDecision::Stop;
        }
        (self.done, self.waited) = (self.done + 1, waited);
        RetryDecision::After(wait)
    }

    /// How long the retries of this request may still wait.
    pub fn left(&self) -> Duration {
        self.retry.budget.saturating_sub(self.waited)
    }

    /// Records a wait of the request other than its own backoff.
    pub fn add_wait(&mut self, waited: Duration) {
        self.waited = self.waited.saturating_add(waited);
    }

    /// The number of retries so far.
    pub fn done(&self) -> u32 {
        self.done
    }
}

/// The wait before the retry that follows `done` others: `initial * factor^done`, at most `max`, then longer
/// or shorter by up to the share `jitter`.
pub fn backoff(backoff: &Backoff, done: u32, chance: f64) -> Duration {
    let growth = backoff.factor.powi(i32::try_from(done).unwrap_or(i32::MAX));
    let max = backoff.max.as_secs_f64();
    let base = (backoff.initial.as_secs_f64() * growth).min(max);
    let jittered = base * (1.0 + backoff.jitter * (2.0 * chance - 1.0));
    Duration::try_from_secs_f64(jittered.clamp(0.0, max * 2.0)).unwrap_or(backoff.max)
}

/// The retries that all requests of an upstream may make together: one for every five calls, and at least ten
/// in ten seconds. Without a budget, an origin that fails half of its calls gets up to four times its load.
/// The share of a call is valid for ten seconds and used once, so that no time window has more retries.
#[derive(Debug, Default)]
pub struct RetryBudget {
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
const MIN_RETRIES: u64 = 10;
/// The number of calls for one retry.
const CALLS_PER_RETRY: u64 = 5;

impl RetryBudget {
    /// Records a call that is not a retry.
    pub fn record_call(&mut self, now: Instant) {
        if let Some(second) = self.second(now) {
            second.calls += 1;
        }
    }

    /// Takes a retry from the budget. Returns false if the budget is used up.
    pub fn try_acquire(&mut self, now: Instant) -> bool {
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
    pub fn usage(&mut self, now: Instant) -> (u64, u64) {
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
mod tests;
