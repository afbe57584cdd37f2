//! The request counters of all routes, as sums.
//!
//! Owns: reading counters back, also those of routes that a reload removed. Never touches: what the sums are
//! used for.

use prometheus::IntCounterVec;
use prometheus::core::Collector as _;

use crate::telemetry::metrics::Metrics;
use crate::telemetry::traffic::Traffic;

impl Metrics {
    /// The requests since the start.
    pub(in crate::telemetry) fn traffic(&self) -> Traffic {
        let mut traffic = Traffic {
            client_bytes: self.client_bytes.get(),
            error_bytes: self.error_bytes.get(),
            upstream_bytes: self.upstream_bytes.get(),
            ..Traffic::default()
        };
        for (route, result, count) in values(&self.by_name.requests, "result") {
            traffic.routes.entry(route).or_default().results.insert(result, count);
        }
        for (route, reason, count) in values(&self.labelled.misses, "reason") {
            traffic.routes.entry(route).or_default().misses.insert(reason, count);
        }
        for (route, _, count) in values(&self.labelled.refreshes, "outcome") {
            traffic.routes.entry(route).or_default().refreshes += count;
        }
        traffic
    }
}

/// The route, the value of `label`, and the count of each counter.
fn values(counters: &IntCounterVec, label: &str) -> Vec<(String, String, u64)> {
    let families = counters.collect();
    let all = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
    let one = |metric: &prometheus::proto::Metric| {
        let value = |name: &str| {
            let labels = metric.get_label().iter();
            labels.filter(|pair| pair.name() == name).map(|pair| pair.value().to_owned()).next()
        };
        Some((value("route")?, value(label)?, whole(metric.get_counter().get_value())))
    };
    all.filter_map(one).collect()
}

/// The crate keeps integer counters as integers, and hands them out as floats.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count, which is exact below 2^53"
)]
fn whole(count: f64) -> u64 {
    count as u64
}
