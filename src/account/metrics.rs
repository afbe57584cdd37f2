//! The metrics: their names, their labels, and the Prometheus text.
//!
//! Owns: every metric larder has; the only user of `prometheus`. Labels are configured names and
//! constants, never anything that a client or an origin chose (OVL-08).
//! Never touches: what is worth recording; that is decided where it happens.

use std::sync::Arc;

use http::StatusCode;
use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use crate::account::exchange::{Exchange, UpstreamCall};
use crate::account::metrics::register::{counter, counters, gauge_of_one, gauges, histograms};
use crate::account::metrics::resolved::{Route, Upstream};

mod register;
mod resolved;

/// All metrics. What a hit needs is resolved at start: per route a counter and a histogram for each
/// result.
pub(super) struct Metrics {
    registry: Registry,
    named: Named,
    routes: Vec<Route>,
    upstreams: Vec<Upstream>,
    families: Arc<Families>,
    accept_errors: IntCounter,
    client_bytes: IntCounter,
    upstream_bytes: IntCounter,
}

/// The families of which each route or upstream has its own, resolved.
#[derive(Clone)]
struct Named {
    requests: IntCounterVec,
    coalesced: IntCounterVec,
    durations: HistogramVec,
    calls: HistogramVec,
}

/// The families whose labels are looked up when something happens: nothing of them is on the way
/// of a hit, and naming only what has happened keeps the page small.
struct Families {
    misses: IntCounterVec,
    not_stored: IntCounterVec,
    upstream_requests: IntCounterVec,
    upstream_retries: IntCounterVec,
    stale_served: IntCounterVec,
    refreshes: IntCounterVec,
    invalidations: IntCounterVec,
    evictions: IntCounterVec,
    denied: IntCounterVec,
    entries: IntGaugeVec,
    store_bytes: IntGaugeVec,
    mode: IntGaugeVec,
    reloaded: IntGauge,
    reload_failures: IntCounter,
    store_errors: IntCounterVec,
    store_state: IntGauge,
    store_recovered: IntCounter,
}

impl Metrics {
    /// All metrics for these names; the last of each stands for "none of them".
    pub(super) fn new(routes: &[Arc<str>], upstreams: &[Arc<str>]) -> Self {
        let registry = Registry::new();
        let r = &registry;
        let named = Named::new(r);
        register::about_this_program(r);
        Self {
            routes: named.routes(routes),
            upstreams: named.upstreams(upstreams),
            named,
            families: Arc::new(Families::new(r)),
            accept_errors: counter(
                r,
                "larder_accept_errors_total",
                "Connections that could not be accepted.",
            ),
            client_bytes: counter(r, "larder_client_bytes_total", "Bytes sent to clients."),
            upstream_bytes: counter(
                r,
                "larder_upstream_bytes_total",
                "Bytes received from origins.",
            ),
            registry,
        }
    }

    /// The same metrics for other names: a name that was there before goes on counting.
    pub(super) fn renamed(&self, routes: &[Arc<str>], upstreams: &[Arc<str>]) -> Self {
        Self {
            routes: self.named.routes(routes),
            upstreams: self.named.upstreams(upstreams),
            named: self.named.clone(),
            families: Arc::clone(&self.families),
            accept_errors: self.accept_errors.clone(),
            client_bytes: self.client_bytes.clone(),
            upstream_bytes: self.upstream_bytes.clone(),
            registry: self.registry.clone(),
        }
    }

    pub(super) fn record(&self, exchange: &Exchange<'_>) {
        let Some(route) = self.route(exchange.route) else { return };
        route.ended(exchange.result, exchange.duration);
        self.client_bytes.inc_by(exchange.client_bytes);
        if exchange.upstream_bytes > 0 {
            self.upstream_bytes.inc_by(exchange.upstream_bytes);
        }
        if let Some(why) = exchange.why {
            self.families.misses.with_label_values(&[route.name(), why]).inc();
        }
    }

    pub(super) fn upstream_call(&self, call: &UpstreamCall) {
        let Some(upstream) = self.upstream(call.upstream) else { return };
        let Some(route) = self.route(call.route) else { return };
        let code = match &call.outcome {
            Ok(status) => code_label(status),
            Err(class) => class,
        };
        upstream.called(call.duration);
        let labels = [upstream.name(), route.name(), code];
        self.families.upstream_requests.with_label_values(&labels).inc();
    }

    pub(super) fn upstream_retry(&self, upstream: usize, cause: &'static str) {
        let Some(upstream) = self.upstream(upstream) else { return };
        self.families.upstream_retries.with_label_values(&[upstream.name(), cause]).inc();
    }

    pub(super) fn upstream_bytes(&self, bytes: u64) {
        self.upstream_bytes.inc_by(bytes);
    }

    pub(super) fn denied(&self, reason: &'static str) {
        self.families.denied.with_label_values(&[reason]).inc();
    }

    pub(super) fn not_stored(&self, route: usize, reason: &'static str) {
        let Some(route) = self.route(route) else { return };
        self.families.not_stored.with_label_values(&[route.name(), reason]).inc();
    }

    pub(super) fn stale_served(&self, route: usize, cause: &'static str) {
        let Some(route) = self.route(route) else { return };
        self.families.stale_served.with_label_values(&[route.name(), cause]).inc();
    }

    pub(super) fn refresh(&self, route: usize, trigger: &'static str, outcome: &'static str) {
        let Some(route) = self.route(route) else { return };
        self.families.refreshes.with_label_values(&[route.name(), trigger, outcome]).inc();
    }

    pub(super) fn invalidated(&self, source: &'static str, count: u64) {
        self.families.invalidations.with_label_values(&[source]).inc_by(count);
    }

    pub(super) fn store_entries(&self, tier: &'static str, count: u64) {
        self.families.entries.with_label_values(&[tier]).set(gauge(count));
    }

    pub(super) fn store_bytes(&self, tier: &'static str, bytes: u64) {
        self.families.store_bytes.with_label_values(&[tier]).set(gauge(bytes));
    }

    pub(super) fn evicted(&self, tier: &'static str, count: u64) {
        self.families.evictions.with_label_values(&[tier]).inc_by(count);
    }

    /// One of `all` is `mode`.
    pub(super) fn mode(&self, mode: &'static str, all: &[&'static str]) {
        for other in all {
            self.families.mode.with_label_values(&[*other]).set(i64::from(*other == mode));
        }
    }

    pub(super) fn reloaded(&self, swapped: bool) {
        self.families.reloaded.set(i64::from(swapped));
        if !swapped {
            self.families.reload_failures.inc();
        }
    }

    pub(super) fn accept_error(&self) {
        self.accept_errors.inc();
    }

    pub(super) fn store_state(&self, state: u8) {
        self.families.store_state.set(state.into());
    }

    pub(super) fn store_recovered(&self) {
        self.families.store_recovered.inc();
    }

    pub(super) fn store_error(&self, op: &'static str) {
        self.families.store_errors.with_label_values(&[op]).inc();
    }

    /// The Prometheus text exposition format.
    pub(super) fn render(&self) -> String {
        // A page that cannot be written is an empty page: metrics never cost an answer.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    // An index past the end counts as "none of them" rather than not at all.
    fn route(&self, index: usize) -> Option<&Route> {
        self.routes.get(index).or(self.routes.last())
    }

    fn upstream(&self, index: usize) -> Option<&Upstream> {
        self.upstreams.get(index).or(self.upstreams.last())
    }
}

impl Named {
    fn new(r: &Registry) -> Self {
        Self {
            requests: counters(
                r,
                "larder_requests_total",
                "Requests of clients, by how they ended.",
                &["route", "result"],
            ),
            coalesced: counters(
                r,
                "larder_coalesced_requests_total",
                "Requests answered by a fill that another request began.",
                &["route"],
            ),
            durations: histograms(
                r,
                "larder_request_duration_seconds",
                "From a request's head to its answer's last byte.",
                &["route", "result"],
            ),
            calls: histograms(
                r,
                "larder_upstream_request_duration_seconds",
                "From the start of a call to an origin to its answer's head.",
                &["upstream"],
            ),
        }
    }

    fn routes(&self, names: &[Arc<str>]) -> Vec<Route> {
        let route = |name| Route::new(name, &self.requests, &self.durations, &self.coalesced);
        names.iter().map(route).collect()
    }

    fn upstreams(&self, names: &[Arc<str>]) -> Vec<Upstream> {
        names.iter().map(|name| Upstream::new(name, &self.calls)).collect()
    }
}

impl Families {
    fn new(r: &Registry) -> Self {
        let family = |name, help, labels: &[&str]| counters(r, name, help, labels);
        Self {
            misses: family(
                "larder_misses_total",
                "Requests that were forwarded, by the reason of Cache-Status.",
                &["route", "reason"],
            ),
            not_stored: family(
                "larder_not_stored_total",
                "Answers that were not stored.",
                &["route", "reason"],
            ),
            upstream_requests: family(
                "larder_upstream_requests_total",
                "Calls to origins, by status or class of failure.",
                &["upstream", "route", "code"],
            ),
            upstream_retries: family(
                "larder_upstream_retries_total",
                "Calls to origins that were made once more.",
                &["upstream", "cause"],
            ),
            stale_served: family(
                "larder_stale_served_total",
                "Stale answers that were served.",
                &["route", "cause"],
            ),
            refreshes: family(
                "larder_refreshes_total",
                "Background refreshes.",
                &["route", "trigger", "outcome"],
            ),
            invalidations: family(
                "larder_invalidations_total",
                "Stored responses that were invalidated.",
                &["source"],
            ),
            evictions: family(
                "larder_evictions_total",
                "Stored responses that were evicted for room.",
                &["tier"],
            ),
            denied: family(
                "larder_denied_total",
                "Requests that larder itself refused.",
                &["reason"],
            ),
            entries: gauges(r, "larder_entries", "Stored responses.", &["tier"]),
            store_bytes: gauges(r, "larder_store_bytes", "Bytes of stored responses.", &["tier"]),
            store_state: gauge_of_one(
                r,
                "larder_store_state",
                "0: what is stored outlives the process; 1: memory only.",
            ),
            store_recovered: counter(
                r,
                "larder_store_recovered_total",
                "Stores on disk that were begun anew because they could not be used.",
            ),
            store_errors: family(
                "larder_store_errors_total",
                "Faults of the store on disk, by what it was doing.",
                &["op"],
            ),
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
}

/// A registered status counts by itself, any other by its class: an origin cannot make 900 series.
fn code_label(status: &StatusCode) -> &str {
    if status.canonical_reason().is_some() {
        return status.as_str();
    }
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
