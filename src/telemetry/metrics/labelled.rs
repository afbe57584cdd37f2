//! The metric families whose labels are looked up at each event. They are not used for hits. A series appears
//! with its first event, which keeps the page small.
//!
//! Owns: their names and help texts, and recording those that have no log line. Never touches: the metrics of hits (`handles`).

use prometheus::{IntCounterVec, Registry};

use crate::telemetry::Telemetry;
use crate::telemetry::metrics::registry::counters;

/// Counters with labels, shared by all configurations.
#[derive(Clone)]
pub(super) struct LabelledMetrics {
    pub(super) misses: IntCounterVec,
    pub(super) not_stored: IntCounterVec,
    pub(super) upstream_requests: IntCounterVec,
    pub(super) upstream_retries: IntCounterVec,
    pub(super) stale_served: IntCounterVec,
    pub(super) refreshes: IntCounterVec,
    pub(super) invalidations: IntCounterVec,
    pub(super) denied: IntCounterVec,
    pub(super) handshakes: IntCounterVec,
}

impl LabelledMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        let family = |name, help, labels: &[&str]| counters(r, name, help, labels);
        Self {
            misses: family(
                "larder_misses_total",
                "Requests that were forwarded, by the reason in Cache-Status.",
                &["route", "reason"],
            ),
            not_stored: family(
                "larder_not_stored_total",
                "Responses that were not stored.",
                &["route", "reason"],
            ),
            upstream_requests: family(
                "larder_upstream_requests_total",
                "Calls to origins, by status or failure class.",
                &["upstream", "route", "code"],
            ),
            upstream_retries: family(
                "larder_upstream_retries_total",
                "Retries of calls to origins.",
                &["upstream", "cause"],
            ),
            stale_served: family(
                "larder_stale_served_total",
                "Stale responses that were served.",
                &["route", "cause"],
            ),
            refreshes: family(
                "larder_refreshes_total",
                "Background refreshes.",
                &["route", "trigger", "outcome"],
            ),
            invalidations: family(
                "larder_invalidations_total",
                "Stored responses that were invalidated.",
                &["source"],
            ),
            denied: family("larder_denied_total", "Requests that larder itself refused.", &["reason"]),
            handshakes: family(
                "larder_tls_handshakes_total",
                "TLS handshakes with intercepted clients, by the pattern that matches the host.",
                &["pattern", "outcome"],
            ),
        }
    }
}

impl Telemetry {
    /// Counts a refused request without logging it.
    pub fn denied(&self, reason: &'static str) {
        self.metrics.labelled.denied.with_label_values(&[reason]).inc();
    }

    /// Counts a response that was not stored.
    pub fn not_stored(&self, route: usize, reason: &'static str) {
        self.metrics.labelled.not_stored.with_label_values(&[self.route_name(route), reason]).inc();
    }

    /// Counts a background refresh that ended.
    pub fn refresh(&self, route: usize, trigger: &'static str, outcome: &'static str) {
        let labels = [self.route_name(route), trigger, outcome];
        self.metrics.labelled.refreshes.with_label_values(&labels).inc();
    }

    /// Counts stored responses that were invalidated.
    pub fn invalidated(&self, source: &'static str, count: u64) {
        self.metrics.labelled.invalidations.with_label_values(&[source]).inc_by(count);
    }
}
