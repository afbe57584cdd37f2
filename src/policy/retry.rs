//! When a call is made once more, and how long an origin that failed is left alone.
//!
//! Owns: the values that `retry` and the holds of `stale_if_error` resolve to. Never touches: waiting.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::policy::{ErrorClass, ErrorMatch, StatusMatch};

/// The most that `retry.retries` may be.
pub const MOST_RETRIES: usize = 10;

/// `retry`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Calls after the first.
    pub retries: u32,
    /// The failures after which there is another.
    pub on: Vec<ErrorMatch>,
    /// The methods of which a call may be repeated. Others than the idempotent ones (RFC 9110 §9.2.2)
    /// only because the operator says so.
    pub methods: Vec<Method>,
    /// The waits between them where the origin says none.
    pub backoff: Backoff,
    /// Whether the origin's `RetryPolicy-After` counts in place of the back-off.
    pub honour_retry_after: bool,
    /// How long one request may wait, over all its waits.
    pub budget: Duration,
}

/// `retry.backoff`: `initial`, then each `factor` times the one before, up to `max`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub initial: Duration,
    /// At least 1.
    pub factor: f64,
    /// The longest wait.
    pub max: Duration,
    /// The share, 0 to 1, by which each wait is longer or shorter by chance.
    pub jitter: f64,
}

impl RetryPolicy {
    /// Whether a call with this method may be repeated.
    pub fn repeats(&self, method: &Method) -> bool {
        self.retries > 0 && self.methods.contains(method)
    }

    /// Whether there is another call after this failure.
    pub fn covers(&self, failure: ErrorClass) -> bool {
        self.on.iter().any(|member| failure.is(*member))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let status = |status| ErrorMatch::Status(StatusMatch::Exact(status));
        Self {
            retries: 3,
            on: vec![
                status(StatusCode::TOO_MANY_REQUESTS),
                status(StatusCode::BAD_GATEWAY),
                status(StatusCode::SERVICE_UNAVAILABLE),
                status(StatusCode::GATEWAY_TIMEOUT),
                ErrorMatch::Connect,
                ErrorMatch::Timeout,
            ],
            methods: vec![Method::GET, Method::HEAD],
            backoff: Backoff::default(),
            honour_retry_after: true,
            budget: Duration::from_secs(15),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(30),
            jitter: 0.2,
        }
    }
}

/// `stale_if_error.cooldown` and `.max_cooldown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CooldownPolicy {
    /// How long a failed origin is not asked by those who have a stale answer, where it says nothing
    /// itself.
    pub cooldown: Duration,
    /// The longest time that an origin's word (`RetryPolicy-After`) is heard for; a quota's end is not bound
    /// by it.
    pub max_cooldown: Duration,
}

impl Default for CooldownPolicy {
    fn default() -> Self {
        Self { cooldown: Duration::from_secs(30), max_cooldown: Duration::from_secs(60 * 60) }
    }
}
