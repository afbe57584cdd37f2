//! The metrics of limited calls: rate limits of origins, and calls that larder delayed or blocked.
//!
//! Owns: their names and help texts. Never touches: the decision to delay or block a call.

use std::time::Duration;

use prometheus::{CounterVec, IntCounterVec, Registry};

use crate::telemetry::metrics::registry::{counters, float_counters};

/// The metrics of limited calls, shared by all configurations.
#[derive(Clone)]
pub(in crate::telemetry) struct UpstreamLimitMetrics {
    rate_limited: IntCounterVec,
    refused: IntCounterVec,
    waits: IntCounterVec,
    wait_seconds: CounterVec,
}

impl UpstreamLimitMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            rate_limited: counters(
                r,
                "larder_upstream_rate_limited_total",
                "Responses that report an exceeded rate limit of the origin, by the kind of limit.",
                &["upstream", "class"],
            ),
            refused: counters(
                r,
                "larder_upstream_refused_total",
                "Calls that larder blocked, by cause.",
                &["upstream", "cause"],
            ),
            waits: counters(
                r,
                "larder_upstream_waits_total",
                "Calls that waited for admission, by cause.",
                &["upstream", "cause"],
            ),
            wait_seconds: float_counters(
                r,
                "larder_upstream_wait_seconds_total",
                "Time that calls waited for admission, by cause.",
                &["upstream", "cause"],
            ),
        }
    }

    /// Counts a response that reports an exceeded rate limit.
    pub(in crate::telemetry) fn rate_limited(&self, upstream: &str, class: &'static str) {
        self.rate_limited.with_label_values(&[upstream, class]).inc();
    }

    /// Counts a blocked call.
    pub(in crate::telemetry) fn refused(&self, upstream: &str, cause: &'static str) {
        self.refused.with_label_values(&[upstream, cause]).inc();
    }

    /// Records the wait of a call for admission; the call was made afterwards or not.
    pub(in crate::telemetry) fn waited(&self, upstream: &str, cause: &'static str, time: Duration) {
        self.waits.with_label_values(&[upstream, cause]).inc();
        self.wait_seconds.with_label_values(&[upstream, cause]).inc_by(time.as_secs_f64());
    }
}
