//! What an answer, or the lack of one, means for the calls to come.
//!
//! Owns: the value; how it is told to stale-if-error. Never touches: how it is found (`classify`), what is
//! done about it (`gate`, and the engine's retries).

use std::time::Duration;

use http::StatusCode;

use crate::decide;
use crate::policy::CooldownPolicy;
use crate::policy::upstream::{OutcomeClass, RateLimitKind};
use crate::semantics::rate_limit::RateLimitState;

/// What an answer comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOutcome {
    /// In a word.
    pub class: OutcomeClass,
    /// How long the origin asks to be left alone, if it does.
    pub wait: Option<RetryAfter>,
    /// What it says of its limits.
    pub quota: Option<RateLimitState>,
}

/// The origin's own word on when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter {
    /// From now.
    pub time: Duration,
    /// Whether it is the end of a quota, which `max_cooldown` does not shorten.
    pub quota: bool,
}

impl CallOutcome {
    /// Nothing but a class.
    pub fn of(class: OutcomeClass) -> Self {
        Self { class, wait: None, quota: None }
    }

    /// How long the origin asks to be left alone, as far as it is heard: a word that says "now" says
    /// nothing, and only the end of a quota is believed whatever it is.
    pub fn bounded_retry_after(&self, rule: &CooldownPolicy) -> Option<Duration> {
        let RetryAfter { time, quota } = self.wait.filter(|wait| !wait.time.is_zero())?;
        Some(if quota { time } else { time.min(rule.max_cooldown) })
    }

    /// Whether the answer is one to use.
    pub fn is_limit(&self) -> bool {
        matches!(self.class, OutcomeClass::RateLimited(_))
    }

    /// Whether the origin did what it was asked.
    pub fn is_ok(&self) -> bool {
        self.class == OutcomeClass::Ok
    }

    /// What `retry.on` and `stale_if_error.on` go by, of an answer with this status: a body may say
    /// more than its status.
    pub fn error_class(&self, status: StatusCode) -> decide::ErrorClass {
        let is_error = status.is_client_error() || status.is_server_error();
        match self.class {
            OutcomeClass::RateLimited(
                RateLimitKind::Minute | RateLimitKind::Quota | RateLimitKind::Shared,
            ) => decide::ErrorClass::Status(StatusCode::TOO_MANY_REQUESTS),
            OutcomeClass::Auth if !is_error => decide::ErrorClass::Status(StatusCode::FORBIDDEN),
            // A 408 is no 503: it is the origin's own deadline, and named by those who want it repeated.
            OutcomeClass::Server
                if !status.is_server_error() && status != StatusCode::REQUEST_TIMEOUT =>
            {
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
