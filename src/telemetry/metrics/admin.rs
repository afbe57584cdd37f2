//! The metrics of what an operator did to a running larder.
//!
//! Owns: the master switch, reloads, and what they set aside. Never touches: requests.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Registry};

use crate::telemetry::metrics::registry::{counter, gauge_of_one, gauges};

/// They hold for all configurations.
#[derive(Clone)]
pub(in crate::telemetry) struct AdminMetrics {
    mode: IntGaugeVec,
    insecure: IntGaugeVec,
    reloaded: IntGauge,
    reload_failures: IntCounter,
}

impl AdminMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            mode: gauges(r, "larder_mode", "1 for what the master switch says.", &["mode"]),
            insecure: gauges(
                r,
                "larder_upstream_insecure",
                "1 for an upstream whose certificate is not looked at.",
                &["upstream"],
            ),
            reloaded: gauge_of_one(
                r,
                "larder_config_last_reload_successful",
                "1 when the configuration in force is the one that was read last.",
            ),
            reload_failures: counter(
                r,
                "larder_config_reload_failures_total",
                "Reloads that kept the old configuration.",
            ),
        }
    }

    /// One of `all` is `mode`.
    pub(in crate::telemetry) fn mode(&self, mode: &'static str, all: &[&'static str]) {
        for other in all {
            self.mode.with_label_values(&[*other]).set(i64::from(*other == mode));
        }
    }

    /// The upstreams whose certificates are not looked at, and no others.
    pub(in crate::telemetry) fn insecure<'a>(&self, upstreams: impl Iterator<Item = &'a str>) {
        self.insecure.reset();
        for upstream in upstreams {
            self.insecure.with_label_values(&[upstream]).set(1);
        }
    }

    /// A configuration that was read again.
    pub(in crate::telemetry) fn reloaded(&self, swapped: bool) {
        self.reloaded.set(i64::from(swapped));
        if !swapped {
            self.reload_failures.inc();
        }
    }
}
