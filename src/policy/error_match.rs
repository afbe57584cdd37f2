//! The classes of failed calls that `retry.on` and `stale_if_error.on` distinguish.
//!
//! Owns: the type and its tokens. Never touches: the reaction to failures.

use http::StatusCode;

use crate::policy::ErrorMatch;

/// The class of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The origin responded with this status.
    Status(StatusCode),
    /// A failed connection, name lookup or handshake, or an invalid response.
    Connect,
    /// A timeout.
    Timeout,
    /// The circuit breaker is open: no call was made.
    Breaker,
    /// The cost budget is spent: no call was made.
    Budget,
}

impl ErrorClass {
    /// Whether `member` of an `on` list matches it.
    pub fn matches(self, member: ErrorMatch) -> bool {
        match (self, member) {
            (Self::Status(status), ErrorMatch::Status(pattern)) => pattern.matches(status),
            (Self::Connect, ErrorMatch::Connect)
            | (Self::Timeout, ErrorMatch::Timeout)
            | (Self::Breaker, ErrorMatch::Breaker)
            | (Self::Budget, ErrorMatch::Budget) => true,
            _ => false,
        }
    }

    /// The token for logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::Status(StatusCode::TOO_MANY_REQUESTS) => "rate-limited",
            Self::Status(status) if status.is_server_error() => "server-error",
            Self::Status(_) => "status",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Breaker => "breaker",
            Self::Budget => "budget",
        }
    }
}
