//! The metrics of the store.
//!
//! Owns: their names and help texts. Never touches: the store.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::telemetry::metrics::registry::{counter, counters, gauge, gauges};

/// The usage and the health of the store tiers.
#[derive(Clone)]
pub(super) struct StoreMetrics {
    pub(super) entries: IntGaugeVec,
    pub(super) bytes: IntGaugeVec,
    pub(super) evictions: IntCounterVec,
    pub(super) state: IntGauge,
    pub(super) recovered: IntCounter,
    pub(super) errors: IntCounterVec,
}

impl StoreMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            entries: gauges(r, "larder_entries", "Stored responses.", &["tier"]),
            bytes: gauges(r, "larder_store_bytes", "Bytes of stored responses.", &["tier"]),
            evictions: counters(
                r,
                "larder_evictions_total",
                "Stored responses that were evicted to free capacity.",
                &["tier"],
            ),
            state: gauge(
                r,
                "larder_store_state",
                "0: the store is as configured; 1: memory only although a disk store is configured.",
            ),
            recovered: counter(
                r,
                "larder_store_recovered_total",
                "Disk stores that were recreated because they were unusable.",
            ),
            errors: counters(
                r,
                "larder_store_errors_total",
                "Failures of the disk store, by operation.",
                &["op"],
            ),
        }
    }
}
