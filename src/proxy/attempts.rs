//! The attempts that one passed-through call has made so far.
//!
//! Owns: their state between two attempts. Never touches: the decision on a retry (`retry`).

use std::time::{Duration, Instant};

use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::retry::RetryState;
use crate::upstream::routing::UpstreamTarget;

/// The state of the attempts.
#[derive(Default)]
pub(super) struct Attempts {
    /// `None`: no retries.
    pub(super) state: Option<RetryState>,
    /// Start of the first attempt.
    pub(super) began: Option<Instant>,
    /// Upstream and call context of the last attempt.
    pub(super) call: Option<(UpstreamTarget, CallContext)>,
    /// The wait before the next attempt.
    pub(super) wait: Option<Duration>,
    /// The reason of the last failure.
    pub(super) reason: Option<&'static str>,
    /// The reason for which the last attempt waited for admission.
    pub(super) wait_reason: Option<&'static str>,
}

impl Attempts {
    /// The detail of `Cache-Status` about the attempts.
    pub(super) fn detail(&self) -> Option<(&'static str, &'static str)> {
        let retried = self.reason.map(|reason| ("retried", reason));
        retried.or_else(|| self.wait_reason.map(|reason| ("waited", reason)))
    }
}
