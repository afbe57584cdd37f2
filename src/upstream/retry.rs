//! Whether a failed call is made once more, and when: a plan for each request, a budget for all.
//!
//! Owns: the arithmetic of back-off and budgets. Pure: time and chance are arguments. Never touches:
//! waiting, calls.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::policy::{Backoff, ErrorClass, RetryPolicy};

/// The retries of one request.
#[derive(Debug, Clone)]
pub struct RetryState {
    retry: RetryPolicy,
    /// From the first try to the last answer's head.
    total: Duration,
    done: u32,
    waited: Duration,
}

/// What a plan says after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Once more after this time.
    After(Duration),
    /// The failure is the answer.
    Stop,
}

impl RetryState {
    /// A plan for a request that may take `total` in all.
    pub fn new(retry: RetryPolicy, total: Duration) -> Self {
        Self { retry, total, done: 0, waited: Duration::ZERO }
    }

    /// After a failure, `elapsed` after the first try began. `word`: how long the origin asked to be
    /// left alone. `chance` is from 0 to 1.
    pub fn next(
        &mut self,
        failure: ErrorClass,
        word: Option<Duration>,
        elapsed: Duration,
        chance: f64,
    ) -> RetryDecision {
        if self.done >= self.retry.retries || !self.retry.covers(failure) {
            return RetryDecision::Stop;
        }
        let word = word.filter(|_| self.retry.honour_retry_after);
        let wait = word.unwrap_or_else(|| backoff(&self.retry.backoff, self.done, chance));
        let waited = self.waited.saturating_add(wait);
        if waited > self.retry.budget || elapsed.saturating_add(wait) >= self.total {
            return RetryDecision::Stop;
        }
        (self.done, self.waited) = (self.done + 1, waited);
        RetryDecision::After(wait)
    }

    /// How long this request may still wait.
    pub fn left(&self) -> Duration {
        self.retry.budget.saturating_sub(self.waited)
    }

    /// It waited so long for something else than its own back-off.
    pub fn spend(&mut self, waited: Duration) {
        self.waited = self.waited.saturating_add(waited);
    }

    /// How many retries there were.
    pub fn done(&self) -> u32 {
        self.done
    }
}

/// The wait before the retry after `done` others: `initial * factor^done`, at most `max`, longer or
/// shorter by up to the share `jitter`.
pub fn backoff(backoff: &Backoff, done: u32, chance: f64) -> Duration {
    let power = backoff.factor.powi(i32::try_from(done).unwrap_or(i32::MAX));
    let most = backoff.max.as_secs_f64();
    let even = (backoff.initial.as_secs_f64() * power).min(most);
    let jittered = even * (1.0 + backoff.jitter * (2.0 * chance - 1.0));
    Duration::try_from_secs_f64(jittered.clamp(0.0, most * 2.0)).unwrap_or(backoff.max)
}

/// How many retries all requests of an upstream may make together: one for every five calls, and never
/// fewer than ten in ten seconds. Without it, an origin that is half down gets up to four times its load.
/// What a call adds is there for ten seconds and spent once, so that no stretch of time has more.
#[derive(Debug, Default)]
pub struct RetryBudget {
    seconds: VecDeque<BudgetBucket>,
}

/// What happened within a second.
#[derive(Debug)]
struct BudgetBucket {
    begun: Instant,
    /// Calls that no retry was made for yet.
    calls: u64,
    retries: u64,
}

/// How far back it looks.
const STRETCH: Duration = Duration::from_secs(10);
/// Retries in that time that are always there.
const LEAST: u64 = 10;
/// One retry for so many calls.
const CALLS_EACH: u64 = 5;

impl RetryBudget {
    /// A call that is no retry is made.
    pub fn called(&mut self, now: Instant) {
        if let Some(second) = self.second(now) {
            second.calls += 1;
        }
    }

    /// Takes a retry from the budget; false: there is none left.
    pub fn spend(&mut self, now: Instant) -> bool {
        let (spent, most) = self.standing(now);
        if spent >= most {
            return false;
        }
        // The oldest calls first: theirs is lost soonest.
        let mut owed = CALLS_EACH;
        for second in &mut self.seconds {
            let paid = second.calls.min(owed);
            (second.calls, owed) = (second.calls - paid, owed - paid);
        }
        if let Some(second) = self.second(now) {
            second.retries += 1;
        }
        true
    }

    /// The retries of the last ten seconds, and how many there may be.
    pub fn standing(&mut self, now: Instant) -> (u64, u64) {
        while self.seconds.front().is_some_and(|s| now.duration_since(s.begun) >= STRETCH) {
            self.seconds.pop_front();
        }
        let calls: u64 = self.seconds.iter().map(|second| second.calls).sum();
        let retries: u64 = self.seconds.iter().map(|second| second.retries).sum();
        (retries, (retries + calls / CALLS_EACH).max(LEAST))
    }

    fn second(&mut self, now: Instant) -> Option<&mut BudgetBucket> {
        let running = self
            .seconds
            .back()
            .is_some_and(|second| now.duration_since(second.begun) < Duration::from_secs(1));
        if !running {
            let _trimmed = self.standing(now);
            self.seconds.push_back(BudgetBucket { begun: now, calls: 0, retries: 0 });
        }
        self.seconds.back_mut()
    }
}

#[cfg(test)]
mod tests;
