//! A call that is not made: why, and when it may be.
//!
//! Owns: the value, its words, what it means to a client and to stale-if-error. Never touches: deciding
//! it (`gate`).

use std::time::Duration;

use http::StatusCode;

use crate::decide;
use crate::policy::upstream::{OutcomeClass, RateLimitKind};
use crate::telemetry::problem::Problem;

/// Why a call is not made. `Copy`: every waiter of a fill gets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// Why.
    pub cause: RejectReason,
    /// When it is worth another try, from now.
    pub left: Duration,
}

/// What keeps calls back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// What came of an earlier call.
    Failed(OutcomeClass),
    /// Too many failures in a row.
    Breaker,
    /// Too many answers that lead to a ban.
    InvalidRequests,
    /// The budget is spent; whether stale answers may stand in.
    Budget {
        /// `at_limit: stale-only`.
        stale: bool,
    },
    /// A limit of calls in a time, and no turn within `rate_limit.max_wait`.
    Pace,
    /// Too many calls wait for an answer already.
    InFlight,
}

impl RejectReason {
    /// The one name for it in logs, metrics and answers.
    pub fn token(self) -> &'static str {
        match self {
            Self::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute)) => {
                "cooldown-rate-limited"
            }
            Self::Failed(OutcomeClass::RateLimited(RateLimitKind::Quota)) => "cooldown-quota",
            Self::Failed(OutcomeClass::RateLimited(RateLimitKind::Shared)) => {
                "cooldown-shared-limit"
            }
            Self::Failed(OutcomeClass::Network) => "cooldown-connect",
            Self::Failed(OutcomeClass::Timeout) => "cooldown-timeout",
            Self::Failed(OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::Server) => {
                "cooldown-server-error"
            }
            Self::Breaker => "breaker",
            Self::InvalidRequests => "ban-guard",
            Self::Budget { .. } => "budget",
            Self::Pace => "rate-limit",
            Self::InFlight => "in-flight",
        }
    }

    /// Whether a firm hold because of it outlives the process: the API asked for it, or a ban follows if
    /// it is not kept. An open breaker is larder's own guess, and is found out anew.
    pub(super) fn outlives(self) -> bool {
        match self {
            Self::Failed(_) | Self::InvalidRequests => true,
            Self::Breaker | Self::Budget { .. } | Self::Pace | Self::InFlight => false,
        }
    }

    /// The same where it is plain that something is held.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed(
                class @ (OutcomeClass::RateLimited(_)
                | OutcomeClass::Network
                | OutcomeClass::Timeout),
            ) => class.token(),
            Self::Failed(OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::Server) => {
                OutcomeClass::Server.token()
            }
            Self::Breaker
            | Self::InvalidRequests
            | Self::Budget { .. }
            | Self::Pace
            | Self::InFlight => self.token(),
        }
    }
}

impl Rejection {
    /// What stale-if-error makes of it; `None`: nothing stale stands in.
    pub fn error_class(self) -> Option<decide::ErrorClass> {
        match self.cause {
            RejectReason::Failed(OutcomeClass::RateLimited(_))
            | RejectReason::InvalidRequests
            | RejectReason::Pace
            | RejectReason::InFlight => {
                Some(decide::ErrorClass::Status(StatusCode::TOO_MANY_REQUESTS))
            }
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

    /// What a client is told.
    pub fn problem(self) -> Problem {
        let (status, class, reason) = self.message();
        let proxy_status = match status {
            StatusCode::SERVICE_UNAVAILABLE => "destination_unavailable",
            _ => "http_request_denied",
        };
        let seconds = self.left.as_millis().div_ceil(1000).max(1);
        Problem::new(status, class, reason, proxy_status)
            .retry_after(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    fn message(self) -> (StatusCode, &'static str, &'static str) {
        const MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
        const DOWN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match self.cause {
            RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Quota)) => {
                (MANY, "quota_spent", "the API says that its quota is spent; it was not asked")
            }
            RejectReason::Failed(OutcomeClass::RateLimited(
                RateLimitKind::Minute | RateLimitKind::Shared,
            )) => (
                MANY,
                "rate_limited",
                "the API asked to be left alone for a while; it was not asked",
            ),
            RejectReason::Failed(_) => {
                (DOWN, "origin_down", "the API failed a moment ago; it was not asked")
            }
            RejectReason::Breaker => (
                DOWN,
                "breaker_open",
                "the API failed again and again; it is not asked until the breaker closes",
            ),
            RejectReason::InvalidRequests => (
                MANY,
                "ban_guard",
                "the API bans who gets many more answers of these kinds; see \
                 upstreams.*.ban_guard",
            ),
            RejectReason::Budget { .. } if self.left.is_zero() => (
                MANY,
                "budget_reserved",
                "what is left of this API's budget is set aside for calls under way; see `larder cost` \
                 and upstreams.*.cost.budget",
            ),
            RejectReason::Budget { .. } => (
                MANY,
                "budget_spent",
                "the budget of this API is spent; see `larder cost` and upstreams.*.cost.budget",
            ),
            RejectReason::Pace => (
                MANY,
                "paced",
                "no turn within rate_limit.max_wait; larder keeps to the API's limit of calls",
            ),
            RejectReason::InFlight => (
                DOWN,
                "in_flight",
                "too many calls wait for this API already; see upstreams.*.rate_limit.in_flight",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_when_to_come_back_and_never_at_once() {
        for (left, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            let held = Rejection { cause: RejectReason::Pace, left: Duration::from_millis(left) };
            assert_eq!(held.problem().retry_after, Some(seconds), "{left} ms");
        }
        let held = Rejection { cause: RejectReason::Breaker, left: Duration::MAX };
        assert_eq!(held.problem().retry_after, Some(u32::MAX));
    }

    #[test]
    fn nothing_stale_stands_in_where_the_budget_says_so() {
        let left = Duration::from_secs(1);
        let held = |stale| Rejection { cause: RejectReason::Budget { stale }, left };
        assert_eq!(held(true).error_class(), Some(decide::ErrorClass::Budget));
        assert_eq!(held(false).error_class(), None);
    }
}
