//! How asking an origin failed, as `retry.on` and `stale_if_error.on` tell failures apart.
//!
//! Owns: the value and its words. Never touches: what is done about it.

use http::StatusCode;

use crate::policy::ErrorMatch;

/// How asking the origin failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It answered with this status.
    Status(StatusCode),
    /// No connection, a closed one, a failed name look-up or handshake, a broken answer.
    Connect,
    /// A deadline passed.
    Timeout,
    /// It was not asked: its breaker is open.
    Breaker,
    /// It was not asked: its budget is spent.
    Budget,
}

impl ErrorClass {
    /// Whether `member` of an `on` list means it.
    pub fn is(self, member: ErrorMatch) -> bool {
        match (self, member) {
            (Self::Status(status), ErrorMatch::Status(pattern)) => pattern.matches(status),
            (Self::Connect, ErrorMatch::Connect)
            | (Self::Timeout, ErrorMatch::Timeout)
            | (Self::Breaker, ErrorMatch::Breaker)
            | (Self::Budget, ErrorMatch::Budget) => true,
            _ => false,
        }
    }

    /// The one name for it in logs, metrics and answers.
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
