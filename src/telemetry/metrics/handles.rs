//! The metric handles of one route and of one upstream with resolved labels, for the hot path.
//!
//! Owns: the handles, so that a hit updates two counters and one histogram without a lookup.
//! Never touches: names and help texts.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::telemetry::event::ResultKind;

const RESULTS: usize = ResultKind::ALL.len();

/// The handles of one route.
#[derive(Clone)]
pub(super) struct RouteHandles {
    name: Arc<str>,
    requests: [IntCounter; RESULTS],
    durations: [Lazy; RESULTS],
    coalesced: IntCounter,
}

impl RouteHandles {
    pub(super) fn new(
        name: &Arc<str>,
        requests: &IntCounterVec,
        durations: &HistogramVec,
        coalesced: &IntCounterVec,
    ) -> Self {
        Self {
            name: Arc::clone(name),
            requests: ResultKind::ALL
                .map(|result| requests.with_label_values(&[name.as_ref(), result.token()])),
            durations: ResultKind::ALL.map(|_| Lazy::new(durations)),
            coalesced: coalesced.with_label_values(&[name.as_ref()]),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn record(&self, result: ResultKind, duration: Duration) {
        let index = result.index();
        if let Some(requests) = self.requests.get(index) {
            requests.inc();
        }
        if let Some(durations) = self.durations.get(index) {
            durations.get(&[&self.name, result.token()]).observe(duration.as_secs_f64());
        }
        if result == ResultKind::Coalesced {
            self.coalesced.inc();
        }
    }
}

/// The handles of one upstream.
#[derive(Clone)]
pub(super) struct UpstreamHandles {
    name: Arc<str>,
    durations: Lazy,
}

impl UpstreamHandles {
    pub(super) fn new(name: &Arc<str>, durations: &HistogramVec) -> Self {
        Self { name: Arc::clone(name), durations: Lazy::new(durations) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn record_call(&self, duration: Duration) {
        self.durations.get(&[&self.name]).observe(duration.as_secs_f64());
    }
}

/// A histogram that is created with its first observation. A histogram is 22 lines of text: with a hundred
/// routes, results that never occur would make the page larger than 1 MB (OVL-08).
#[derive(Clone)]
struct Lazy {
    family: HistogramVec,
    resolved: OnceLock<Histogram>,
}

impl Lazy {
    fn new(family: &HistogramVec) -> Self {
        Self { family: family.clone(), resolved: OnceLock::new() }
    }

    fn get(&self, labels: &[&str]) -> &Histogram {
        self.resolved.get_or_init(|| self.family.with_label_values(labels))
    }
}
