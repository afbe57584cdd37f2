//! The rejection of a call: the reason, and when the call may be made.
//!
//! Owns: the value, its tokens, the response to the client and its class for stale-if-error. Never touches:
//! the decision (`admission`).

use std::time::Duration;

use http::StatusCode;

use crate::decide;
use crate::policy::upstream::{OutcomeClass, RateLimitKind, is_until_released};
use crate::telemetry::problem::Problem;

/// Why a call is rejected. `Copy`: every waiter of a fill gets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// The reason.
    pub reason: RejectReason,
    /// The time from now after which a retry makes sense.
    pub left: Duration,
}

/// The reason to reject a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// The outcome of an earlier call.
    Failed(OutcomeClass),
    /// The circuit breaker is open: too many failures in a row.
    Breaker,
    /// The ban guard tripped: too many responses that lead to a ban.
    BanGuard,
    /// The budget is used up; whether stale responses may be served.
    Budget {
        /// `at_limit: stale-only`.
        stale: bool,
    },
    /// A rate limit, without capacity for the call within `rate_limit.max_wait`.
    RateLimit,
    /// Too many calls are in flight.
    InFlight,
}

impl RejectReason {
    /// The token of the reason in logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute)) => "cooldown-rate-limited",
            Self::Failed(OutcomeClass::RateLimited(RateLimitKind::Quota)) => "cooldown-quota",
            Self::Failed(OutcomeClass::RateLimited(RateLimitKind::Shared)) => "cooldown-shared-limit",
            Self::Failed(OutcomeClass::Network) => "cooldown-connect",
            Self::Failed(OutcomeClass::Timeout) => "cooldown-timeout",
            Self::Failed(OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::Server) => {
                "cooldown-server-error"
            }
            Self::Breaker => "breaker",
            Self::BanGuard => "ban-guard",
            Self::Budget { .. } => "budget",
            Self::RateLimit => "rate-limit",
            Self::InFlight => "in-flight",
        }
    }

    /// Whether a firm cooldown for this reason is stored: the API requested it, or a ban follows without it.
    /// An open breaker is an assumption of larder and is re-evaluated after a restart.
    pub(in crate::upstream) fn is_stored(self) -> bool {
        match self {
            Self::Failed(_) | Self::BanGuard => true,
            Self::Breaker | Self::Budget { .. } | Self::RateLimit | Self::InFlight => false,
        }
    }

    /// Whether a quota of the API is used up.
    pub(in crate::upstream) fn is_quota(self) -> bool {
        self == Self::Failed(OutcomeClass::RateLimited(RateLimitKind::Quota))
    }

    /// The token without `cooldown-`, for lists of cooldowns.
    pub fn short_token(self) -> &'static str {
        match self {
            Self::Failed(
                class @ (OutcomeClass::RateLimited(_) | OutcomeClass::Network | OutcomeClass::Timeout),
            ) => class.token(),
            Self::Failed(OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::Server) => {
                OutcomeClass::Server.token()
            }
            Self::Breaker | Self::BanGuard | Self::Budget { .. } | Self::RateLimit | Self::InFlight => {
                self.token()
            }
        }
    }
}

impl Rejection {
    /// The error class for stale-if-error. `None`: no stale response may be served.
    pub fn error_class(self) -> Option<decide::ErrorClass> {
        match self.reason {
            RejectReason::Failed(OutcomeClass::RateLimited(_))
            | RejectReason::BanGuard
            | RejectReason::RateLimit
            | RejectReason::InFlight => Some(decide::ErrorClass::Status(StatusCode::TOO_MANY_REQUESTS)),
            RejectReason::Failed(OutcomeClass::Network) => Some(decide::ErrorClass::Connect),
            RejectReason::Failed(OutcomeClass::Timeout) => Some(decide::ErrorClass::Timeout),
            RejectReason::Failed(OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::Server) => {
                Some(decide::ErrorClass::Status(StatusCode::SERVICE_UNAVAILABLE))
            }
            RejectReason::Breaker => Some(decide::ErrorClass::Breaker),
            RejectReason::Budget { stale: true } => Some(decide::ErrorClass::Budget),
            RejectReason::Budget { stale: false } => None,
        }
    }

    /// The response to the client.
    pub fn problem(self) -> Problem {
        let (status, class, reason) = self.message();
        let proxy_status = match status {
            StatusCode::SERVICE_UNAVAILABLE => "destination_unavailable",
            _ => "http_request_denied",
        };
        let problem = Problem::new(status, class, reason, proxy_status);
        if self.is_until_released() {
            return problem;
        }
        let seconds = self.left.as_millis().div_ceil(1000).max(1);
        problem.retry_after(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// Whether only the operator ends the cooldown: the time of the next useful call is unknown, so that the
    /// response has no `Retry-After`.
    pub fn is_until_released(self) -> bool {
        self.reason.is_quota() && is_until_released(self.left)
    }

    fn message(self) -> (StatusCode, &'static str, &'static str) {
        const MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
        const DOWN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match self.reason {
            RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Quota))
                if self.is_until_released() =>
            {
                let reason = "the quota of this API is spent; no call is made until an operator ends this with \
                              `larder upstreams release`";
                (MANY, "quota_spent", reason)
            }
            RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Quota)) => {
                (MANY, "quota_spent", "the quota of this API is used up; no call was made")
            }
            RejectReason::Failed(OutcomeClass::RateLimited(
                RateLimitKind::Minute | RateLimitKind::Shared,
            )) => (
                MANY,
                "rate_limited",
                "the API limits the rate of calls; no call is made until its cooldown ends",
            ),
            RejectReason::Failed(_) => {
                (DOWN, "origin_down", "the API failed recently; no call is made until its cooldown ends")
            }
            RejectReason::Breaker => (
                DOWN,
                "breaker_open",
                "the API failed repeatedly; no call is made until the circuit breaker closes",
            ),
            RejectReason::BanGuard => (
                MANY,
                "ban_guard",
                "the API would ban its client after many more such responses; see \
                 upstreams.*.ban_guard",
            ),
            RejectReason::Budget { .. } if self.left.is_zero() => (
                MANY,
                "budget_reserved",
                "the rest of this API's budget is reserved for calls in flight; see `larder cost` \
                 and upstreams.*.cost.budget",
            ),
            RejectReason::Budget { .. } => (
                MANY,
                "budget_spent",
                "the budget of this API is used up; see `larder cost` and upstreams.*.cost.budget",
            ),
            RejectReason::RateLimit => (
                MANY,
                "rate_limit",
                "no capacity within rate_limit.max_wait; larder keeps to the API's rate limit",
            ),
            RejectReason::InFlight => (
                DOWN,
                "in_flight",
                "too many calls to this API are in flight; see upstreams.*.rate_limit.in_flight",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_has_a_retry_after_of_at_least_one_second() {
        for (left, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            let rejection = Rejection { reason: RejectReason::RateLimit, left: Duration::from_millis(left) };
            assert_eq!(rejection.problem().retry_after, Some(seconds), "{left} ms");
        }
        let rejection = Rejection { reason: RejectReason::Breaker, left: Duration::MAX };
        assert_eq!(rejection.problem().retry_after, Some(u32::MAX));
    }

    #[test]
    fn no_stale_response_is_served_if_the_budget_refuses_it() {
        let left = Duration::from_secs(1);
        let rejection = |stale| Rejection { reason: RejectReason::Budget { stale }, left };
        assert_eq!(rejection(true).error_class(), Some(decide::ErrorClass::Budget));
        assert_eq!(rejection(false).error_class(), None);
    }
}
