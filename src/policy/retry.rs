//! Retries of calls, and cooldowns of failed origins.
//!
//! Owns: the values that `retry` and the cooldowns of `stale_if_error` resolve to. Never touches: waiting.

use std::time::Duration;

use http::Method;

use crate::policy::{ErrorClass, ErrorMatch};

/// Maximum of `retry.retries`: more retries help neither the origin nor the waiting clients.
pub const MAX_RETRIES: usize = 10;

/// `retry`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// The most calls after the first.
    pub retries: u32,
    /// The failures that are retried.
    pub on: Vec<ErrorMatch>,
    /// The methods that may be retried. Methods that are not idempotent (RFC 9110 §9.2.2) only by the
    /// operator's configuration.
    pub methods: Vec<Method>,
    /// The waits between calls if the origin specifies none.
    pub backoff: Backoff,
    /// Whether the origin's `Retry-After` replaces the backoff.
    pub honour_retry_after: bool,
    /// The total time that one request may wait between calls.
    pub budget: Duration,
}

/// `retry.backoff`: `initial`, then each `factor` times the one before, up to `max`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub initial: Duration,
    /// The growth factor, at least 1.
    pub factor: f64,
    /// The longest wait.
    pub max: Duration,
    /// The share, 0 to 1, by which each wait is randomly longer or shorter.
    pub jitter: f64,
}

impl Backoff {
    /// The wait before the retry that follows `done` others: `initial * factor^done`, at most `max`, then
    /// longer or shorter by up to the share `jitter`. `chance` is from 0 to 1.
    pub fn delay(&self, done: u32, chance: f64) -> Duration {
        let growth = self.factor.powi(i32::try_from(done).unwrap_or(i32::MAX));
        let max = self.max.as_secs_f64();
        let base = (self.initial.as_secs_f64() * growth).min(max);
        let jittered = base * (1.0 + self.jitter * (2.0 * chance - 1.0));
        Duration::try_from_secs_f64(jittered.clamp(0.0, max * 2.0)).unwrap_or(self.max)
    }
}

impl RetryPolicy {
    /// Whether a call with this method may be retried.
    pub fn is_retryable(&self, method: &Method) -> bool {
        self.retries > 0 && self.methods.contains(method)
    }

    /// Whether this failure is retried.
    pub fn covers(&self, failure: ErrorClass) -> bool {
        self.on.iter().any(|member| failure.matches(*member))
    }
}

/// `stale_if_error.cooldown` and `.max_cooldown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CooldownPolicy {
    /// The cooldown of a failed origin that specifies none itself, for requests with a stale response.
    pub cooldown: Duration,
    /// The longest cooldown that an origin can specify (`Retry-After`); the end of a quota is not limited by
    /// it.
    pub max_cooldown: Duration,
}
