//! The metrics: their names, their labels, and the Prometheus text.
//!
//! Owns: every metric larder has; the only user of `prometheus`. Labels are configured names and
//! constants, never anything that a client or an origin chose (OVL-08).
//! Never touches: what is worth recording; that is decided where it happens.

use std::sync::Arc;

use http::StatusCode;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, Registry, TextEncoder};

use crate::telemetry::event::{RequestEvent, UpstreamEvent};
use crate::telemetry::metrics::admin::AdminMetrics;
use crate::telemetry::metrics::cost::CostMetrics;
use crate::telemetry::metrics::handles::{RouteHandles, UpstreamHandles};
use crate::telemetry::metrics::labelled::LabelledMetrics;
use crate::telemetry::metrics::registry::{counter, counters, histograms};
use crate::telemetry::metrics::store::StoreMetrics;
use crate::telemetry::metrics::upstream_limits::UpstreamLimitMetrics;

mod admin;
pub(super) mod cost;
mod handles;
mod labelled;
mod registry;
mod store;
mod upstream_limits;

/// All metrics. What a hit needs is resolved at start: per route a counter and a histogram for each
/// result.
pub(super) struct Metrics {
    registry: Registry,
    named: RouteAndUpstreamHandles,
    routes: Vec<RouteHandles>,
    upstreams: Vec<UpstreamHandles>,
    families: LabelledMetrics,
    tiers: StoreMetrics,
    operation: AdminMetrics,
    restraint: UpstreamLimitMetrics,
    costs: CostMetrics,
    accept_errors: IntCounter,
    fast_hits: IntCounter,
    client_bytes: IntCounter,
    error_bytes: IntCounter,
    upstream_bytes: IntCounter,
}

/// The families of which each route or upstream has its own, resolved.
#[derive(Clone)]
struct RouteAndUpstreamHandles {
    requests: IntCounterVec,
    coalesced: IntCounterVec,
    durations: HistogramVec,
    calls: HistogramVec,
}

impl Metrics {
    /// All metrics for these names; the last of each stands for "none of them".
    pub(super) fn new(routes: &[Arc<str>], upstreams: &[Arc<str>]) -> Self {
        let registry = Registry::new();
        let r = &registry;
        let named = RouteAndUpstreamHandles::new(r);
        registry::about_this_program(r);
        Self {
            routes: named.routes(routes),
            upstreams: named.upstreams(upstreams),
            named,
            families: LabelledMetrics::new(r),
            tiers: StoreMetrics::new(r),
            operation: AdminMetrics::new(r),
            restraint: UpstreamLimitMetrics::new(r),
            costs: CostMetrics::new(r),
            accept_errors: counter(
                r,
                "larder_accept_errors_total",
                "Connections that could not be accepted.",
            ),
            fast_hits: counter(
                r,
                "larder_fast_hits_total",
                "Hits that were answered as soon as their head was read.",
            ),
            client_bytes: counter(r, "larder_client_bytes_total", "Bytes sent to clients."),
            error_bytes: counter(
                r,
                "larder_error_bytes_total",
                "Bytes sent to clients that were errors of larder's own.",
            ),
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
            families: self.families.clone(),
            tiers: self.tiers.clone(),
            operation: self.operation.clone(),
            restraint: self.restraint.clone(),
            costs: self.costs.clone(),
            accept_errors: self.accept_errors.clone(),
            fast_hits: self.fast_hits.clone(),
            client_bytes: self.client_bytes.clone(),
            error_bytes: self.error_bytes.clone(),
            upstream_bytes: self.upstream_bytes.clone(),
            registry: self.registry.clone(),
        }
    }

    pub(super) fn fast_hit(&self) {
        self.fast_hits.inc();
    }

    pub(super) fn record(&self, exchange: &RequestEvent<'_>) {
        let Some(route) = self.route(exchange.route) else { return };
        route.ended(exchange.result, exchange.duration);
        self.client_bytes.inc_by(exchange.client_bytes);
        if exchange.is_larders {
            self.error_bytes.inc_by(exchange.client_bytes);
        }
        if exchange.upstream_bytes > 0 {
            self.upstream_bytes.inc_by(exchange.upstream_bytes);
        }
        if let Some(why) = exchange.why {
            self.families.misses.with_label_values(&[route.name(), why]).inc();
        }
    }

    pub(super) fn upstream_call(&self, call: &UpstreamEvent<'_>) {
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

    pub(super) fn handshake(&self, named: &str, outcome: &'static str) {
        self.families.handshakes.with_label_values(&[named, outcome]).inc();
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
        self.tiers.entries.with_label_values(&[tier]).set(gauge(count));
    }

    pub(super) fn store_bytes(&self, tier: &'static str, bytes: u64) {
        self.tiers.bytes.with_label_values(&[tier]).set(gauge(bytes));
    }

    pub(super) fn evicted(&self, tier: &'static str, count: u64) {
        self.tiers.evictions.with_label_values(&[tier]).inc_by(count);
    }

    /// What an operator does.
    pub(super) fn operation(&self) -> &AdminMetrics {
        &self.operation
    }

    /// How calls were held back.
    pub(super) fn restraint(&self) -> &UpstreamLimitMetrics {
        &self.restraint
    }

    /// What upstreams cost.
    pub(super) fn costs(&self) -> &CostMetrics {
        &self.costs
    }

    pub(super) fn accept_error(&self) {
        self.accept_errors.inc();
    }

    pub(super) fn store_state(&self, state: u8) {
        self.tiers.state.set(state.into());
    }

    pub(super) fn store_recovered(&self) {
        self.tiers.recovered.inc();
    }

    pub(super) fn store_error(&self, op: &'static str) {
        self.tiers.errors.with_label_values(&[op]).inc();
    }

    /// The Prometheus text exposition format.
    pub(super) fn render(&self) -> String {
        // A page that cannot be written is an empty page: metrics never cost an answer.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    // An index past the end counts as "none of them" rather than not at all.
    fn route(&self, index: usize) -> Option<&RouteHandles> {
        self.routes.get(index).or(self.routes.last())
    }

    fn upstream(&self, index: usize) -> Option<&UpstreamHandles> {
        self.upstreams.get(index).or(self.upstreams.last())
    }
}

impl RouteAndUpstreamHandles {
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

    fn routes(&self, names: &[Arc<str>]) -> Vec<RouteHandles> {
        let route =
            |name| RouteHandles::new(name, &self.requests, &self.durations, &self.coalesced);
        names.iter().map(route).collect()
    }

    fn upstreams(&self, names: &[Arc<str>]) -> Vec<UpstreamHandles> {
        names.iter().map(|name| UpstreamHandles::new(name, &self.calls)).collect()
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
