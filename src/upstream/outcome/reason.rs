//! The reason for a retry, a wait, a rejection or a stale response.
//!
//! Owns: the value, and its token. Never touches: the text around the token (`Cache-Status`, logs, metrics).

use crate::policy::ErrorClass;
use crate::policy::upstream::OutcomeClass;
use crate::upstream::admission::rejection::RejectReason;
use crate::upstream::outcome::error::UpstreamError;

/// Why something was decided about a call or its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The outcome of the call.
    Outcome(OutcomeClass),
    /// The status of a response that is an error only by a list of the policy.
    Class(ErrorClass),
    /// The call got no response.
    Error(UpstreamError),
    /// The call was rejected, or waited to be admitted.
    Rejected(RejectReason),
    /// Another client's fill took longer than `coalesce.wait`.
    CoalesceWait,
    /// Too many requests wait for this response.
    Waiters,
    /// The pooled connection was dead.
    DeadConnection,
    /// The retry budget of the upstream is used up.
    RetryBudget,
}

impl Reason {
    /// The token in responses, logs and metrics.
    pub fn token(self) -> &'static str {
        match self {
            Self::Outcome(class) => class.token(),
            Self::Class(class) => class.token(),
            Self::Error(error) => error.token(),
            Self::Rejected(reason) => reason.token(),
            Self::CoalesceWait => "coalesce-wait",
            Self::Waiters => "waiters",
            Self::DeadConnection => "dead-connection",
            Self::RetryBudget => "retry-budget",
        }
    }
}
