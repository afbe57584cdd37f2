//! The outcome of a call: the classified response, or failure.
//!
//! Owns: the value, and its error class for stale-if-error. Never touches: the classification (`classify`),
//! the effects (`admission`, and the engine's retries).

pub mod body_inspection;
pub mod buffered_body;
pub mod classify;
pub mod error;
pub mod parent_error;
pub mod reason;

use std::time::Duration;

use http::StatusCode;

use crate::decide;
use crate::policy::CooldownPolicy;
use crate::policy::upstream::{OutcomeClass, RateLimitKind};
use crate::semantics::rate_limit::RateLimitState;

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOutcome {
    /// Its class.
    pub class: OutcomeClass,
    /// How long the origin requests no further calls, if it does.
    pub retry_after: Option<RetryAfter>,
    /// The limit that is reached first, of those that the response states.
    pub quota: Option<RateLimitState>,
    /// All of them.
    pub limits: Vec<RateLimitState>,
    /// Whether the origin forbids to repeat the call (`x-should-retry: false`).
    pub is_final: bool,
}

/// The time after which the origin allows the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter {
    /// From now.
    pub time: Duration,
    /// Whether it is the end of a quota, which `max_cooldown` does not limit.
    pub is_quota_end: bool,
}

impl RetryAfter {
    /// The time, limited by `max_cooldown` unless it is the end of a quota. A time of zero counts as none.
    pub fn bounded(self, policy: &CooldownPolicy) -> Option<Duration> {
        let most = if self.is_quota_end { Duration::MAX } else { policy.max_cooldown };
        (!self.time.is_zero()).then(|| self.time.min(most))
    }
}

impl CallOutcome {
    /// An outcome with only a class.
    pub fn from_class(class: OutcomeClass) -> Self {
        Self { class, retry_after: None, quota: None, limits: Vec::new(), is_final: false }
    }

    /// Whether the response was a rate limit.
    pub fn is_rate_limited(&self) -> bool {
        matches!(self.class, OutcomeClass::RateLimited(_))
    }

    /// Whether the response is usable.
    pub fn is_ok(&self) -> bool {
        self.class == OutcomeClass::Ok
    }

    /// The error class for `retry.on` and `stale_if_error.on` of a response with this status. The body may
    /// have changed the class.
    pub fn error_class(&self, status: StatusCode) -> decide::ErrorClass {
        let is_error = status.is_client_error() || status.is_server_error();
        match self.class {
            OutcomeClass::RateLimited(
                RateLimitKind::Minute | RateLimitKind::Quota | RateLimitKind::Shared,
            ) => decide::ErrorClass::Status(StatusCode::TOO_MANY_REQUESTS),
            OutcomeClass::Auth if !is_error => decide::ErrorClass::Status(StatusCode::FORBIDDEN),
            // A 408 stays a 408: the deadline was the origin's, and `retry.on` has to list it.
            OutcomeClass::Server if !status.is_server_error() && status != StatusCode::REQUEST_TIMEOUT => {
                decide::ErrorClass::Status(StatusCode::SERVICE_UNAVAILABLE)
            }
            OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::Server => {
                decide::ErrorClass::Status(status)
            }
            OutcomeClass::Network => decide::ErrorClass::Connect,
            OutcomeClass::Timeout => decide::ErrorClass::Timeout,
        }
    }
}
