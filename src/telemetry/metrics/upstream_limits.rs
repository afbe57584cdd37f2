//! The metrics of limited calls: rate limits of origins, and calls that larder delayed or blocked.
//!
//! Owns: their names and help texts, and recording them. Never touches: the decision to delay or block a call.

use std::time::Duration;

use prometheus::{CounterVec, IntCounterVec, Registry};

use crate::telemetry::Telemetry;
use crate::telemetry::metrics::registry::{counters, float_counters};

/// The metrics of limited calls, shared by all configurations.
#[derive(Clone)]
pub(super) struct UpstreamLimitMetrics {
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
}

impl Telemetry {
    /// Counts a response that reports an exceeded rate limit of the origin; `class` is the kind of limit.
    pub fn rate_limited(&self, upstream: usize, class: &'static str) {
        let labels = [self.upstream_name(upstream), class];
        self.metrics.upstream_limits.rate_limited.with_label_values(&labels).inc();
    }

    /// Counts a call that larder blocked, and the cause.
    pub fn refused_call(&self, upstream: usize, cause: &'static str) {
        let labels = [self.upstream_name(upstream), cause];
        self.metrics.upstream_limits.refused.with_label_values(&labels).inc();
    }

    /// Records the wait of a call for admission, its cause and its duration; the call was made afterwards or
    /// not.
    pub fn waited(&self, upstream: usize, cause: &'static str, time: Duration) {
        let labels = [self.upstream_name(upstream), cause];
        self.metrics.upstream_limits.waits.with_label_values(&labels).inc();
        self.metrics.upstream_limits.wait_seconds.with_label_values(&labels).inc_by(time.as_secs_f64());
    }
}
