//! The retries of one request: whether and when a failed call is repeated.
//!
//! Owns: what counts as a failed attempt, the state of a request's attempts, and their detail in
//! `Cache-Status`. Pure: time and chance are arguments. Never touches: waiting, calls, the retry budget of
//! the upstream (`admission`).

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::policy::{CooldownPolicy, ErrorClass, Policy, RetryPolicy};
use crate::upstream::admission::call::{AttemptKind, CallContext};
use crate::upstream::admission::rejection::{RejectReason, Rejection};
use crate::upstream::outcome::classify;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::reason::Reason;
use crate::upstream::outcome::{CallOutcome, RetryAfter};
use crate::upstream::routing::CallLimits;

/// An attempt that failed and that a retry may fix.
#[derive(Debug, Clone, Copy)]
pub struct AttemptFailure {
    /// The error class for `retry.on` and `stale_if_error.on`.
    pub class: ErrorClass,
    /// The status of the origin's response, if there was one.
    pub status: Option<StatusCode>,
    /// The reason in responses, logs and metrics.
    pub reason: Reason,
    /// How long the origin requests no further calls, if it does.
    pub retry_after: Option<RetryAfter>,
    /// Whether the origin forbids to repeat the call.
    pub is_final: bool,
}

impl AttemptFailure {
    /// A failure without a response.
    pub fn new(class: ErrorClass, reason: Reason) -> Self {
        Self { class, status: None, reason, retry_after: None, is_final: false }
    }

    /// The failure that a response reports; `None`: it is not an error.
    pub fn from_response(status: StatusCode, outcome: &CallOutcome) -> Option<Self> {
        let is_failure = !outcome.is_ok() || status.as_u16() >= 400;
        is_failure.then(|| Self {
            class: outcome.error_class(status),
            status: Some(status),
            reason: Reason::Outcome(outcome.class),
            retry_after: outcome.retry_after,
            is_final: outcome.is_final,
        })
    }

    /// The failure of a call without a response; `None`: a retry cannot fix it.
    pub fn from_error(error: UpstreamError) -> Option<Self> {
        let outcome = classify::failure(error).filter(|_| error.is_transient())?;
        let class = outcome.error_class(StatusCode::BAD_GATEWAY);
        Some(Self::new(class, Reason::Error(error)))
    }

    /// The failure of a call that was not made; `None`: no stale response may be served for it.
    pub fn from_rejection(rejection: Rejection) -> Option<Self> {
        Some(Self::new(rejection.error_class()?, Reason::Rejected(rejection.reason)))
    }
}

/// The state of the attempts of one request.
#[derive(Debug, Clone)]
pub struct RetryState {
    /// `None`: the request is not repeated.
    policy: Option<RetryPolicy>,
    /// Whether it is not repeated because retries of requests like it have just failed.
    paused: bool,
    cooldown: CooldownPolicy,
    limits: CallLimits,
    began: Instant,
    done: u32,
    waited: Duration,
    /// The failure that led to the last retry.
    retry_reason: Option<Reason>,
    /// The reason for which the last call waited for admission.
    wait_reason: Option<RejectReason>,
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
    /// The state of a request whose first attempt begins now. `is_repeatable`: it may be repeated at all.
    pub fn new(policy: &Policy, is_repeatable: bool, limits: CallLimits, now: Instant) -> Self {
        Self {
            policy: is_repeatable.then(|| policy.retry.clone()),
            paused: false,
            cooldown: policy.cooldown,
            limits,
            began: now,
            done: 0,
            waited: Duration::ZERO,
            retry_reason: None,
            wait_reason: None,
        }
    }

    /// The same state for a request that is not to be repeated now, if `paused`: its only call does not wait
    /// for cooldowns either.
    #[must_use]
    pub fn paused(self, paused: bool) -> Self {
        Self { paused, ..self }
    }

    /// Whether retries of requests like this one are not worth it for now: they have just failed.
    pub fn has_given_up(&self, failure: &AttemptFailure) -> bool {
        let is_retried = self.policy.as_ref().is_some_and(|policy| policy.covers(failure.class));
        is_retried && (self.paused || self.retry_reason.is_some())
    }

    /// Whether an attempt has failed and was, or is about to be, retried.
    pub fn is_retrying(&self) -> bool {
        self.retry_reason.is_some()
    }

    /// Decides after a failed attempt. `chance` is from 0 to 1.
    pub fn next(&mut self, failure: &AttemptFailure, now: Instant, chance: f64) -> RetryDecision {
        let Some(policy) = self.policy.as_ref().filter(|_| !self.paused) else {
            return RetryDecision::Stop;
        };
        if failure.is_final || self.done >= policy.retries || !policy.covers(failure.class) {
            return RetryDecision::Stop;
        }
        let retry_after = failure.retry_after.filter(|_| policy.honour_retry_after);
        let wait = retry_after
            .and_then(|wait| wait.bounded(&self.cooldown))
            .unwrap_or_else(|| policy.backoff.delay(self.done, chance));
        let waited = self.waited.saturating_add(wait);
        let elapsed = now.saturating_duration_since(self.began);
        if waited > policy.budget
            || self.limits.total.is_some_and(|total| elapsed.saturating_add(wait) >= total)
        {
            return RetryDecision::Stop;
        }
        (self.done, self.waited) = (self.done + 1, waited);
        RetryDecision::After(wait)
    }

    /// How long the next call may wait for admission: with retries, what is left of their budget.
    pub fn cooldown_wait(&self) -> Duration {
        let left = |policy: &RetryPolicy| policy.budget.saturating_sub(self.waited);
        self.policy.as_ref().filter(|_| !self.paused).map_or(self.limits.max_wait, left)
    }

    /// Sets in the call's context whether it is a retry, and how long it may wait.
    pub fn prepare(&self, call: &mut CallContext) {
        call.attempt = if self.done == 0 { AttemptKind::First } else { AttemptKind::Retry };
        call.cooldown_wait = self.cooldown_wait();
    }

    /// Records why a call waited for admission, if it did, and by how much that shortens that of the next.
    pub fn record_wait(&mut self, reason: Option<RejectReason>, time: Duration) {
        self.wait_reason = reason;
        if reason.is_some() {
            self.waited = self.waited.saturating_add(time.min(self.cooldown_wait()));
        }
    }

    /// Records that a retry was made because of this failure.
    pub fn set_retry_reason(&mut self, reason: Reason) {
        self.retry_reason = Some(reason);
    }

    /// The detail of `Cache-Status` about the attempts: its name, and the reason.
    pub fn detail(&self) -> Option<(&'static str, Reason)> {
        let waited = || self.wait_reason.map(|reason| ("waited", Reason::Rejected(reason)));
        self.retry_reason.map(|reason| ("retried", reason)).or_else(waited)
    }
}

#[cfg(test)]
mod tests;
