//! A call that is not made: why, and when it may be.
//!
//! Owns: the value, its words, what it means to a client and to stale-if-error. Never touches: deciding
//! it (`gate`).

use std::time::Duration;

use http::StatusCode;

use crate::account::problem::Problem;
use crate::decide;
use crate::policy::conduct::{Class, Limit};

/// Why a call is not made. `Copy`: every waiter of a fill gets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// Why.
    pub cause: Cause,
    /// When it is worth another try, from now.
    pub left: Duration,
}

/// What keeps calls back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// What came of an earlier call.
    Failed(Class),
    /// Too many failures in a row.
    Breaker,
    /// Too many answers that lead to a ban.
    InvalidRequests,
    /// The budget is spent; whether stale answers may stand in.
    Budget {
        /// `at_limit: stale-only`.
        stale: bool,
    },
    /// A limit of calls in a time, and no turn within `pace.max_wait`.
    Pace,
    /// Too many calls wait for an answer already.
    InFlight,
}

impl Cause {
    /// The one name for it in logs, metrics and answers.
    pub fn token(self) -> &'static str {
        match self {
            Self::Failed(Class::RateLimited(Limit::Minute)) => "held-rate-limited",
            Self::Failed(Class::RateLimited(Limit::Quota)) => "held-quota",
            Self::Failed(Class::RateLimited(Limit::Shared)) => "held-shared-limit",
            Self::Failed(Class::Network) => "held-connect",
            Self::Failed(Class::Timeout) => "held-timeout",
            Self::Failed(Class::Ok | Class::Auth | Class::Server) => "held-server-error",
            Self::Breaker => "breaker",
            Self::InvalidRequests => "invalid-requests",
            Self::Budget { .. } => "budget",
            Self::Pace => "pace",
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
            Self::Failed(class @ (Class::RateLimited(_) | Class::Network | Class::Timeout)) => {
                class.token()
            }
            Self::Failed(Class::Ok | Class::Auth | Class::Server) => Class::Server.token(),
            Self::Breaker
            | Self::InvalidRequests
            | Self::Budget { .. }
            | Self::Pace
            | Self::InFlight => self.token(),
        }
    }
}

impl Held {
    /// What stale-if-error makes of it; `None`: nothing stale stands in.
    pub fn as_error(self) -> Option<decide::Failure> {
        match self.cause {
            Cause::Failed(Class::RateLimited(_))
            | Cause::InvalidRequests
            | Cause::Pace
            | Cause::InFlight => Some(decide::Failure::Status(StatusCode::TOO_MANY_REQUESTS)),
            Cause::Failed(Class::Network) => Some(decide::Failure::Connect),
            Cause::Failed(Class::Timeout) => Some(decide::Failure::Timeout),
            Cause::Failed(Class::Ok | Class::Auth | Class::Server) => {
                Some(decide::Failure::Status(StatusCode::SERVICE_UNAVAILABLE))
            }
            Cause::Breaker => Some(decide::Failure::Breaker),
            Cause::Budget { stale: true } => Some(decide::Failure::Budget),
            Cause::Budget { stale: false } => None,
        }
    }

    /// What a client is told.
    pub fn problem(self) -> Problem {
        let (status, class, reason) = self.words();
        let proxy_status = match status {
            StatusCode::SERVICE_UNAVAILABLE => "destination_unavailable",
            _ => "http_request_denied",
        };
        let seconds = self.left.as_millis().div_ceil(1000).max(1);
        Problem::new(status, class, reason, proxy_status)
            .retry_after(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    fn words(self) -> (StatusCode, &'static str, &'static str) {
        const MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
        const DOWN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match self.cause {
            Cause::Failed(Class::RateLimited(Limit::Quota)) => {
                (MANY, "quota_spent", "the API says that its quota is spent; it was not asked")
            }
            Cause::Failed(Class::RateLimited(Limit::Minute | Limit::Shared)) => (
                MANY,
                "rate_limited",
                "the API asked to be left alone for a while; it was not asked",
            ),
            Cause::Failed(_) => {
                (DOWN, "origin_down", "the API failed a moment ago; it was not asked")
            }
            Cause::Breaker => (
                DOWN,
                "breaker_open",
                "the API failed again and again; it is not asked until the breaker closes",
            ),
            Cause::InvalidRequests => (
                MANY,
                "invalid_requests",
                "the API bans who gets many more answers of these kinds; see \
                 upstreams.*.invalid_requests",
            ),
            Cause::Budget { .. } if self.left.is_zero() => (
                MANY,
                "budget_reserved",
                "what is left of this API's budget is set aside for calls under way; see `larder cost` \
                 and upstreams.*.cost.budget",
            ),
            Cause::Budget { .. } => (
                MANY,
                "budget_spent",
                "the budget of this API is spent; see `larder cost` and upstreams.*.cost.budget",
            ),
            Cause::Pace => (
                MANY,
                "paced",
                "no turn within pace.max_wait; larder keeps to the API's limit of calls",
            ),
            Cause::InFlight => (
                DOWN,
                "in_flight",
                "too many calls wait for this API already; see upstreams.*.pace.in_flight",
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
            let held = Held { cause: Cause::Pace, left: Duration::from_millis(left) };
            assert_eq!(held.problem().retry_after, Some(seconds), "{left} ms");
        }
        let held = Held { cause: Cause::Breaker, left: Duration::MAX };
        assert_eq!(held.problem().retry_after, Some(u32::MAX));
    }

    #[test]
    fn nothing_stale_stands_in_where_the_budget_says_so() {
        let left = Duration::from_secs(1);
        let held = |stale| Held { cause: Cause::Budget { stale }, left };
        assert_eq!(held(true).as_error(), Some(decide::Failure::Budget));
        assert_eq!(held(false).as_error(), None);
    }
}
