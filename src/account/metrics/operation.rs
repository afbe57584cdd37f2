//! The metrics of what an operator did to a running larder.
//!
//! Owns: the master switch and reloads. Never touches: requests.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Registry};

use crate::account::metrics::register::{counter, gauge_of_one, gauges};

/// They hold for all configurations.
#[derive(Clone)]
pub(in crate::account) struct Operation {
    mode: IntGaugeVec,
    reloaded: IntGauge,
    reload_failures: IntCounter,
}

impl Operation {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            mode: gauges(r, "larder_mode", "1 for what the master switch says.", &["mode"]),
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
    pub(in crate::account) fn mode(&self, mode: &'static str, all: &[&'static str]) {
        for other in all {
            self.mode.with_label_values(&[*other]).set(i64::from(*other == mode));
        }
    }

    /// A configuration that was read again.
    pub(in crate::account) fn reloaded(&self, swapped: bool) {
        self.reloaded.set(i64::from(swapped));
        if !swapped {
            self.reload_failures.inc();
        }
    }
}
