//! The metrics of the store.
//!
//! Owns: their names and help texts, and recording those that have no log line. Never touches: the store.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::telemetry::Telemetry;
use crate::telemetry::event::StoreOp;
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

impl Telemetry {
    /// Sets the number of responses in a tier of the store.
    pub fn store_entries(&self, tier: &'static str, count: u64) {
        self.metrics.store.entries.with_label_values(&[tier]).set(gauge_value(count));
    }

    /// Sets the number of bytes in a tier of the store.
    pub fn store_bytes(&self, tier: &'static str, bytes: u64) {
        self.metrics.store.bytes.with_label_values(&[tier]).set(gauge_value(bytes));
    }

    /// Counts stored responses that were evicted to free capacity.
    pub fn evicted(&self, tier: &'static str, count: u64) {
        self.metrics.store.evictions.with_label_values(&[tier]).inc_by(count);
    }

    /// Counts a disk store that was recreated because it was unusable.
    pub fn store_recovered(&self) {
        self.metrics.store.recovered.inc();
    }

    /// Counts an entry that was not written to the store because writes are suspended.
    pub fn store_dropped(&self) {
        self.metrics.store_error(StoreOp::Drop.token());
    }
}

fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
