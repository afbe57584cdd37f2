//! How a metric comes to be: one function per kind.
//!
//! Owns: the buckets; that every metric is registered exactly once.
//! Never touches: which metrics there are.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

/// A counter without labels.
pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registered(registry, IntCounter::new(name, help))
}

/// A gauge without labels.
pub(super) fn gauge_of_one(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::new(name, help))
}

/// A family of counters.
pub(super) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// A family of counters of what has fractions: seconds, credits, money.
pub(super) fn amounts(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> CounterVec {
    registered(registry, CounterVec::new(Opts::new(name, help), labels))
}

/// A family of gauges of what is a part of something.
pub(super) fn shares(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    registered(registry, GaugeVec::new(Opts::new(name, help), labels))
}

/// A family of gauges.
pub(super) fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A family of histograms of seconds.
pub(super) fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> HistogramVec {
    let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    registered(registry, HistogramVec::new(opts, labels))
}

/// `larder_build_info` and `process_*`.
pub(super) fn about_this_program(registry: &Registry) {
    let info = gauges(registry, "larder_build_info", "The version that runs.", &["version"]);
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    #[cfg(target_os = "linux")]
    add(registry, prometheus::process_collector::ProcessCollector::for_self());
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> C {
    let made = made.expect("names and labels of metrics are valid constants");
    add(registry, made.clone());
    made
}

fn add<C: Collector + 'static>(registry: &Registry, collector: C) {
    registry.register(Box::new(collector)).expect("each metric is registered once");
}

/// From a hit in memory to the longest wait for an origin.
const SECONDS: [f64; 19] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
