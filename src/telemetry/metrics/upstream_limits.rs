//! The metrics of how calls were held back: by origins, and by larder for their sake.
//!
//! Owns: their names and help texts. Never touches: why a call is held back.

use std::time::Duration;

use prometheus::{CounterVec, IntCounterVec, Registry};

use crate::telemetry::metrics::registry::{amounts, counters};

/// They hold for all configurations.
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
                "Answers by which an origin said that it was asked too much, by the limit.",
                &["upstream", "class"],
            ),
            refused: counters(
                r,
                "larder_upstream_refused_total",
                "Calls that larder did not make, by what kept it from it.",
                &["upstream", "cause"],
            ),
            waits: counters(
                r,
                "larder_upstream_waits_total",
                "Calls that waited before they were made, by what for.",
                &["upstream", "cause"],
            ),
            wait_seconds: amounts(
                r,
                "larder_upstream_wait_seconds_total",
                "How long calls waited before they were made, by what for.",
                &["upstream", "cause"],
            ),
        }
    }

    /// An answer by which an origin said so.
    pub(in crate::telemetry) fn rate_limited(&self, upstream: &str, class: &'static str) {
        self.rate_limited.with_label_values(&[upstream, class]).inc();
    }

    /// A call that was not made.
    pub(in crate::telemetry) fn refused(&self, upstream: &str, cause: &'static str) {
        self.refused.with_label_values(&[upstream, cause]).inc();
    }

    /// A call that was made later, or not at all then.
    pub(in crate::telemetry) fn waited(&self, upstream: &str, cause: &'static str, time: Duration) {
        self.waits.with_label_values(&[upstream, cause]).inc();
        self.wait_seconds.with_label_values(&[upstream, cause]).inc_by(time.as_secs_f64());
    }
}
