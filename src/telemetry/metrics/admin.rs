//! The metrics of operator actions on a running larder.
//!
//! Owns: the metrics of the mode, of reloads, and of upstreams without certificate verification.
//! Never touches: requests.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Registry};

use crate::telemetry::metrics::registry::{counter, gauge, gauges};

/// The metrics of operator actions, shared by all configurations.
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
            mode: gauges(r, "larder_mode", "1 for the current mode of the master switch.", &["mode"]),
            insecure: gauges(
                r,
                "larder_upstream_insecure",
                "1 for an upstream whose certificate is not verified.",
                &["upstream"],
            ),
            reloaded: gauge(
                r,
                "larder_config_last_reload_successful",
                "1 if the last reload of the configuration succeeded.",
            ),
            reload_failures: counter(
                r,
                "larder_config_reload_failures_total",
                "Failed reloads, which kept the old configuration.",
            ),
        }
    }

    /// Sets the gauge of `mode` to 1 and those of the other modes in `all` to 0.
    pub(in crate::telemetry) fn mode(&self, mode: &'static str, all: &[&'static str]) {
        for other in all {
            self.mode.with_label_values(&[*other]).set(i64::from(*other == mode));
        }
    }

    /// Sets the upstreams whose certificates are not verified; all others are removed.
    pub(in crate::telemetry) fn insecure<'a>(&self, upstreams: impl Iterator<Item = &'a str>) {
        self.insecure.reset();
        for upstream in upstreams {
            self.insecure.with_label_values(&[upstream]).set(1);
        }
    }

    /// Records a reload and whether the new configuration is in force.
    pub(in crate::telemetry) fn reloaded(&self, swapped: bool) {
        self.reloaded.set(i64::from(swapped));
        if !swapped {
            self.reload_failures.inc();
        }
    }
}
