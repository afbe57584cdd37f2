//! The metrics of operator actions on a running larder.
//!
//! Owns: the metrics of the mode, of reloads, and of upstreams without certificate verification.
//! Never touches: requests.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Registry};

use crate::policy::Mode;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::registry::{counter, gauge, gauges};

/// The metrics of operator actions, shared by all configurations.
#[derive(Clone)]
pub(super) struct AdminMetrics {
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
}

impl Telemetry {
    /// Sets the current mode of the master switch.
    pub fn mode(&self, mode: Mode) {
        for other in Mode::ALL {
            self.metrics.admin.mode.with_label_values(&[other.token()]).set(i64::from(other == mode));
        }
    }

    /// Sets the upstreams whose certificates are not verified; all others are removed.
    pub fn insecure<'a>(&self, upstreams: impl Iterator<Item = &'a str>) {
        let AdminMetrics { insecure, .. } = &self.metrics.admin;
        insecure.reset();
        for upstream in upstreams {
            insecure.with_label_values(&[upstream]).set(1);
        }
    }

    /// Records a reload and whether the new configuration is in force. The initial configuration counts as
    /// one that is.
    pub fn reloaded(&self, swapped: bool) {
        self.metrics.admin.reloaded.set(i64::from(swapped));
        if !swapped {
            self.metrics.admin.reload_failures.inc();
        }
    }
}
