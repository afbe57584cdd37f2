//! The metrics of the store.
//!
//! Owns: their names and help texts. Never touches: the store.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::telemetry::metrics::registry::{counter, counters, gauge_of_one, gauges};

/// What the tiers hold and how they are.
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
                "Stored responses that were evicted for room.",
                &["tier"],
            ),
            state: gauge_of_one(
                r,
                "larder_store_state",
                "0: the store is as configured; 1: memory only, though a disk is configured.",
            ),
            recovered: counter(
                r,
                "larder_store_recovered_total",
                "Stores on disk that were begun anew because they could not be used.",
            ),
            errors: counters(
                r,
                "larder_store_errors_total",
                "Faults of the store on disk, by what it was doing.",
                &["op"],
            ),
        }
    }
}
