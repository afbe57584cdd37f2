//! The metrics: their names, their labels, and the Prometheus text.
//!
//! Owns: all metrics of larder; no other module uses `prometheus`. Labels are configured names and constants,
//! never values that a client or an origin chooses (OVL-08).
//! Never touches: the decision what to record; the callers make it.

use std::sync::Arc;

use http::StatusCode;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, Registry, TextEncoder};

use crate::telemetry::Telemetry;
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
mod traffic;
mod upstream_limits;

/// All metrics. The handles for a hit are resolved at the start: per route a counter and a histogram for each
/// result.
#[derive(Clone)]
pub(super) struct Metrics {
    registry: Registry,
    by_name: RouteAndUpstreamHandles,
    routes: Vec<RouteHandles>,
    upstreams: Vec<UpstreamHandles>,
    labelled: LabelledMetrics,
    store: StoreMetrics,
    admin: AdminMetrics,
    upstream_limits: UpstreamLimitMetrics,
    pub(super) costs: CostMetrics,
    accept_errors: IntCounter,
    fast_hits: IntCounter,
    client_bytes: IntCounter,
    error_bytes: IntCounter,
    upstream_bytes: IntCounter,
}

/// The metric families from which each route or upstream gets its own resolved handles.
#[derive(Clone)]
struct RouteAndUpstreamHandles {
    requests: IntCounterVec,
    coalesced: IntCounterVec,
    durations: HistogramVec,
    calls: HistogramVec,
}

impl Metrics {
    /// Creates all metrics for these names; the last name of each list means no route or no upstream.
    pub(super) fn new(routes: &[Arc<str>], upstreams: &[Arc<str>]) -> Self {
        let registry = Registry::new();
        let r = &registry;
        let by_name = RouteAndUpstreamHandles::new(r);
        registry::register_process_info(r);
        Self {
            routes: by_name.routes(routes),
            upstreams: by_name.upstreams(upstreams),
            by_name,
            labelled: LabelledMetrics::new(r),
            store: StoreMetrics::new(r),
            admin: AdminMetrics::new(r),
            upstream_limits: UpstreamLimitMetrics::new(r),
            costs: CostMetrics::new(r),
            accept_errors: counter(
                r,
                "larder_accept_errors_total",
                "Connections that could not be accepted.",
            ),
            fast_hits: counter(
                r,
                "larder_fast_hits_total",
                "Hits that were served as soon as the request head was read.",
            ),
            client_bytes: counter(r, "larder_client_bytes_total", "Bytes sent to clients."),
            error_bytes: counter(
                r,
                "larder_error_bytes_total",
                "Bytes sent to clients in errors that no origin sent for them.",
            ),
            upstream_bytes: counter(r, "larder_upstream_bytes_total", "Bytes received from origins."),
            registry,
        }
    }

    /// The same metrics for other names. A name that existed before keeps its counters.
    pub(super) fn with_names(&self, routes: &[Arc<str>], upstreams: &[Arc<str>]) -> Self {
        let (routes, upstreams) = (self.by_name.routes(routes), self.by_name.upstreams(upstreams));
        Self { routes, upstreams, ..self.clone() }
    }

    pub(super) fn record(&self, event: &RequestEvent<'_>) {
        let Some(route) = self.route(event.route) else { return };
        route.record(event.result, event.duration);
        self.client_bytes.inc_by(event.client_bytes);
        if event.is_error_body() {
            self.error_bytes.inc_by(event.client_bytes);
        }
        if event.upstream_bytes > 0 {
            self.upstream_bytes.inc_by(event.upstream_bytes);
        }
        if let Some(reason) = event.forward_reason {
            self.labelled.misses.with_label_values(&[route.name(), reason.token()]).inc();
        }
    }

    pub(super) fn upstream_call(&self, call: &UpstreamEvent<'_>) {
        let Some(upstream) = self.upstream(call.upstream) else { return };
        let Some(route) = self.route(call.route) else { return };
        let code = match &call.outcome {
            Ok(status) => code_label(status),
            Err(class) => class,
        };
        upstream.record_call(call.duration);
        let labels = [upstream.name(), route.name(), code];
        self.labelled.upstream_requests.with_label_values(&labels).inc();
    }

    pub(super) fn upstream_retry(&self, upstream: usize, cause: &'static str) {
        let Some(upstream) = self.upstream(upstream) else { return };
        self.labelled.upstream_retries.with_label_values(&[upstream.name(), cause]).inc();
    }

    pub(super) fn handshake(&self, pattern: &str, outcome: &'static str) {
        self.labelled.handshakes.with_label_values(&[pattern, outcome]).inc();
    }

    pub(super) fn stale_served(&self, route: usize, cause: &'static str) {
        let Some(route) = self.route(route) else { return };
        self.labelled.stale_served.with_label_values(&[route.name(), cause]).inc();
    }

    pub(super) fn accept_error(&self) {
        self.accept_errors.inc();
    }

    pub(super) fn store_state(&self, state: u8) {
        self.store.state.set(state.into());
    }

    pub(super) fn store_error(&self, op: &'static str) {
        self.store.errors.with_label_values(&[op]).inc();
    }

    /// The Prometheus text exposition format.
    pub(super) fn render(&self) -> String {
        // An encoding error yields an empty page: metrics never cause a request to fail.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    // An index past the end counts under the last name, which means no route, instead of being ignored.
    fn route(&self, index: usize) -> Option<&RouteHandles> {
        self.routes.get(index).or(self.routes.last())
    }

    fn upstream(&self, index: usize) -> Option<&UpstreamHandles> {
        self.upstreams.get(index).or(self.upstreams.last())
    }
}

impl Telemetry {
    /// Counts a hit that was served as soon as the request head was read.
    pub fn fast_hit(&self) {
        self.metrics.fast_hits.inc();
    }

    /// Counts the bytes that a fill received. A fill has no client, so no [`RequestEvent`] contains them.
    pub fn upstream_bytes(&self, bytes: u64) {
        self.metrics.upstream_bytes.inc_by(bytes);
    }
}

impl RouteAndUpstreamHandles {
    fn new(r: &Registry) -> Self {
        Self {
            requests: counters(
                r,
                "larder_requests_total",
                "Requests of clients, by result.",
                &["route", "result"],
            ),
            coalesced: counters(
                r,
                "larder_coalesced_requests_total",
                "Requests served by a fill that another request started.",
                &["route"],
            ),
            durations: histograms(
                r,
                "larder_request_duration_seconds",
                "Time from the request's head to the response's last byte.",
                &["route", "result"],
            ),
            calls: histograms(
                r,
                "larder_upstream_request_duration_seconds",
                "Time from the start of a call to an origin to the response's head.",
                &["upstream"],
            ),
        }
    }

    fn routes(&self, names: &[Arc<str>]) -> Vec<RouteHandles> {
        let route = |name| RouteHandles::new(name, &self.requests, &self.durations, &self.coalesced);
        names.iter().map(route).collect()
    }

    fn upstreams(&self, names: &[Arc<str>]) -> Vec<UpstreamHandles> {
        names.iter().map(|name| UpstreamHandles::new(name, &self.calls)).collect()
    }
}

/// The label of a status: the code if it is registered, else its class, so an origin cannot create 900
/// series.
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

#[cfg(test)]
mod tests;
