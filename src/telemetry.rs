//! Telemetry: records each event of a request, a call or a stored response once, as metrics and log lines
//! that use the same tokens.
//!
//! Owns: the counters and their names, the log lines about single requests, and their rate limit.
//! Never touches: decisions. A failure to record does not affect the caller.

pub mod cost;
mod event;
pub mod log;
mod log_limiter;
mod metrics;
pub mod problem;
mod tls_handshake;
pub mod traffic;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::decide::ForwardReason;
use crate::decide::StaleReason;
use crate::semantics::redaction::Redactor;
use crate::telemetry::cost::CostTracker;
use crate::telemetry::log_limiter::Limiter;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::tls_handshake::HostCounter;

pub use crate::telemetry::event::{
    CutRefreshEvent, RejectEvent, RequestEvent, ResultKind, RetryEvent, StoreOp, TierTotals, UpstreamEvent,
};
pub use crate::telemetry::tls_handshake::HandshakeOutcome;

/// Whether the store is as persistent as it is configured to be.
type PersistenceCheck = Box<dyn Fn() -> bool + Send + Sync>;

/// The label and log value for a request without a route or a call without an upstream.
pub const NONE: &str = "none";

/// The metrics, the log lines and the cost tracker, shared by all components that record events.
#[derive(Clone)]
pub struct Telemetry {
    routes: Vec<Arc<str>>,
    upstreams: Vec<Arc<str>>,
    metrics: Metrics,
    cost: Arc<CostTracker>,
    clock: Clock,
    redactor: Redactor,
    tiers: Arc<Mutex<Vec<StoreGauge>>>,
    persistence_check: Arc<Mutex<Option<PersistenceCheck>>>,
    // One limiter for all lines, so that many simultaneous failures cannot flood the log (OVL-11).
    lines: Arc<Mutex<Limiter>>,
    // A separate limiter: accept errors, which require an operator, are not lost among refused requests.
    accept_lines: Arc<Mutex<Limiter>>,
    distrust: Arc<Mutex<HostCounter>>,
    /// Whether its clients were started by `larder exec`.
    serves_command: bool,
    tunnels: Arc<Mutex<HostCounter>>,
}

impl Telemetry {
    /// Creates the telemetry for these configured names. The indexes `routes.len()` and `upstreams.len()`
    /// mean [`NONE`].
    pub fn new(routes: &[Arc<str>], upstreams: &[Arc<str>]) -> Arc<Self> {
        Self::with_clock(Clock::system(), routes, upstreams)
    }

    /// Like [`Telemetry::new`], with the time of `clock`.
    pub fn with_clock(clock: Clock, routes: &[Arc<str>], upstreams: &[Arc<str>]) -> Arc<Self> {
        let routes = with_none(routes);
        let upstreams = with_none(upstreams);
        let metrics = Metrics::new(&routes, &upstreams);
        let cost = Arc::new(CostTracker::new(clock.clone(), metrics.costs.clone()));
        let per_second = |lines| Arc::new(Mutex::new(Limiter::new(lines, Duration::from_secs(1))));
        let (tiers, persistence_check) = (Arc::default(), Arc::default());
        let (distrust, tunnels) = (Arc::default(), Arc::default());
        Arc::new(Self {
            routes,
            upstreams,
            metrics,
            cost,
            clock,
            redactor: Redactor::default(),
            tiers,
            persistence_check,
            lines: per_second(LINES_PER_SECOND),
            accept_lines: per_second(ACCEPT_LINES_PER_SECOND),
            distrust,
            tunnels,
            serves_command: false,
        })
    }

    /// The telemetry with the names and the redactor of a reloaded configuration. Both instances share their
    /// counters; a request that began under the old names is recorded under them.
    pub fn with_names(&self, routes: &[Arc<str>], upstreams: &[Arc<str>], redactor: Redactor) -> Arc<Self> {
        let routes = with_none(routes);
        let upstreams = with_none(upstreams);
        let metrics = self.metrics.with_names(&routes, &upstreams);
        Arc::new(Self { routes, upstreams, metrics, redactor, ..self.clone() })
    }

    /// The cost tracker.
    pub fn cost(&self) -> &CostTracker {
        &self.cost
    }

    /// Records a finished request: metrics, and one log line at `debug`.
    pub fn record(&self, event: &RequestEvent<'_>) {
        self.metrics.record(event);
        if event.avoided_call() {
            self.cost.record_avoided_call(event.host, event.port);
        }
        if event.result == ResultKind::Tunnel {
            self.tunnels.lock().count(event.host);
        }
        tracing::debug!(
            route = self.route_name(event.route),
            result = event.result.token(),
            reason = event.forward_reason.map(ForwardReason::token),
            method = event.method.as_str(),
            host = event.host,
            path = &*self.redactor.path(without_query(event.path)),
            status = event.status.map(|status| status.as_u16()),
            cache_status = event.cache_status,
            error = event.error,
            seconds = event.duration.as_secs_f64(),
            client_bytes = event.client_bytes,
            upstream_bytes = event.upstream_bytes + event.filled_bytes,
            "Request completed"
        );
    }

    /// Records a finished call to an origin.
    pub fn upstream_call(&self, call: &UpstreamEvent<'_>) {
        self.metrics.upstream_call(call);
        let Err(error) = call.outcome else { return };
        let Some(suppressed) = self.admit_line() else { return };
        tracing::warn!(
            upstream = self.upstream_name(call.upstream),
            route = self.route_name(call.route),
            host = call.host,
            port = call.port,
            error,
            suppressed,
            "Call to origin failed"
        );
    }

    /// Logs a background refresh whose body was cut. Its head is counted as a call.
    pub fn refresh_cut(&self, refresh: &CutRefreshEvent<'_>) {
        let Some(suppressed) = self.admit_line() else { return };
        tracing::warn!(
            upstream = self.upstream_name(refresh.upstream),
            route = self.route_name(refresh.route),
            host = refresh.host,
            port = refresh.port,
            error = refresh.error,
            suppressed,
            "Background refresh was cut"
        );
    }

    /// Records a retry of a call and its cause.
    pub fn upstream_retry(&self, retry: &RetryEvent<'_>) {
        self.metrics.upstream_retry(retry.upstream, retry.cause);
        let Some(suppressed) = self.admit_minor_line() else { return };
        tracing::info!(
            upstream = self.upstream_name(retry.upstream),
            route = self.route_name(retry.route),
            host = retry.host,
            port = retry.port,
            reason = retry.cause,
            wait = seconds(retry.wait),
            suppressed,
            "Call to origin retried"
        );
    }

    /// Records a request that larder refused: counts it in `larder_denied_total` and logs it. If the request
    /// also has a [`RequestEvent`], use [`Telemetry::denied`] instead.
    pub fn refused(&self, event: &RejectEvent) {
        self.denied(event.class);
        let Some(suppressed) = self.admit_line() else { return };
        let client = event.client.map(tracing::field::display);
        tracing::warn!(class = event.class, client, suppressed, "Request refused");
    }

    /// Records a TLS handshake with a client of `host`; `pattern` is the configured pattern that matches the
    /// host.
    pub fn handshake(&self, pattern: &str, host: &str, outcome: HandshakeOutcome) {
        self.metrics.handshake(pattern, outcome.token());
        let due = if outcome.indicates_distrust() { self.distrust.lock().count(host) } else { None };
        let Some(refused) = due else {
            tracing::debug!(host, outcome = outcome.token(), "Handshake ended");
            return;
        };
        let alert = if let HandshakeOutcome::Refused(alert) = outcome { Some(alert) } else { None };
        let alert = alert.map(tracing::field::debug);
        let advice = tls_handshake::advice(outcome, self.serves_command);
        tracing::warn!(host, refused, alert, "A client does not accept larder's certificate: {advice}");
    }

    /// The same telemetry for a larder whose clients are the processes of one command.
    pub fn for_command(&self) -> Arc<Self> {
        Arc::new(Self { serves_command: true, ..self.clone() })
    }

    /// The hosts whose clients did not accept larder's certificate, with counts, the highest count first.
    pub fn distrusting_hosts(&self) -> Vec<(String, u64)> {
        self.distrust.lock().hosts()
    }

    /// The hosts of tunnelled connections, with the number of connections, the highest number first.
    pub fn tunnelled_hosts(&self) -> Vec<(String, u64)> {
        self.tunnels.lock().hosts()
    }

    /// Records a stale response that was served, and the cause. Stale-if-error responses have their own log
    /// line. A stale response that the client accepts (`max-stale`), that is served in offline mode or that
    /// is being revalidated has only the line of its [`RequestEvent`].
    pub fn stale_served(&self, route: usize, cause: &'static str) {
        self.metrics.stale_served(route, cause);
        if EXPECTED_STALE_REASONS.iter().any(|reason| reason.token() == cause) {
            return;
        }
        let Some(suppressed) = self.admit_minor_line() else { return };
        tracing::info!(route = self.route_name(route), reason = cause, suppressed, "Stale response served");
    }

    /// Records a failure of the disk store. It reduces the hit rate, but no request fails because of it.
    pub fn store_error(&self, op: StoreOp, error: &dyn fmt::Display) {
        self.metrics.store_error(op.token());
        let Some(suppressed) = self.admit_line() else { return };
        tracing::warn!(op = op.token(), %error, suppressed, "Store failed");
    }

    /// Records a failure of a listener to accept a connection.
    pub fn accept_error(&self, error: &io::Error) {
        self.metrics.accept_error();
        let due = self.accept_lines.lock().admit(self.clock.instant());
        let Some(suppressed) = due else { return };
        tracing::error!(kind = %error.kind(), os = error.raw_os_error(), suppressed, "Accept failed");
    }

    /// Reads the usage of a store tier from `totals` whenever the metrics are rendered; changes need not be
    /// reported.
    pub fn watch_store(&self, tier: &'static str, totals: impl Fn() -> TierTotals + Send + Sync + 'static) {
        self.tiers.lock().push(StoreGauge { name: tier, totals: Box::new(totals), evictions: 0 });
    }

    /// Reads the health of the store from `is_healthy` whenever the metrics are rendered; changes need not be
    /// reported.
    pub fn watch_health(&self, is_healthy: impl Fn() -> bool + Send + Sync + 'static) {
        *self.persistence_check.lock() = Some(Box::new(is_healthy));
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        if let Some(persistence_check) = &*self.persistence_check.lock() {
            self.metrics.store_state(u8::from(!persistence_check()));
        }
        for tier in self.tiers.lock().iter_mut() {
            let totals = (tier.totals)();
            self.store_entries(tier.name, totals.entries);
            self.store_bytes(tier.name, totals.bytes);
            self.evicted(tier.name, totals.evictions.saturating_sub(tier.evictions));
            tier.evictions = totals.evictions;
        }
        self.cost.update_budget_metrics();
        self.metrics.render()
    }

    fn admit_line(&self) -> Option<u64> {
        self.lines.lock().admit(self.clock.instant())
    }

    // Such lines can be very frequent, so no lock is taken if their level is not logged.
    fn admit_minor_line(&self) -> Option<u64> {
        if !tracing::enabled!(tracing::Level::INFO) {
            return None;
        }
        self.lines.lock().admit_minor(self.clock.instant())
    }

    fn route_name(&self, index: usize) -> &str {
        self.routes.get(index).map_or(NONE, AsRef::as_ref)
    }

    fn upstream_name(&self, index: usize) -> &str {
        self.upstreams.get(index).map_or(NONE, AsRef::as_ref)
    }
}

/// A store tier whose usage is read when the metrics are rendered.
struct StoreGauge {
    name: &'static str,
    totals: Box<dyn Fn() -> TierTotals + Send + Sync>,
    // The value at the last rendering; the counter is increased by the difference.
    evictions: u64,
}

fn with_none(names: &[Arc<str>]) -> Vec<Arc<str>> {
    names.iter().cloned().chain([Arc::from(NONE)]).collect()
}

/// Seconds, without the digits below a millisecond.
fn seconds(time: Duration) -> f64 {
    f64::from(u32::try_from(time.as_millis()).unwrap_or(u32::MAX)) / 1000.0
}

/// Removes the query: its values may be secret and are never logged (ADM-07).
fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

/// The reasons for a stale response that are no failure.
const EXPECTED_STALE_REASONS: [StaleReason; 3] =
    [StaleReason::WhileRevalidate, StaleReason::MaxStale, StaleReason::Offline];

/// Log lines per second about failed requests, calls and connections, in total.
const LINES_PER_SECOND: u32 = 9;
/// Log lines per second about accept errors; together at most ten (OVL-11).
const ACCEPT_LINES_PER_SECOND: u32 = 1;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn renamed_telemetry_shares_counters_by_name_and_keeps_old_indexes() {
        let name = |name: &str| -> Arc<str> { name.into() };
        let before = Telemetry::new(&[name("a"), name("b")], &[]);
        let after = before.with_names(&[name("b"), name("c")], &[], Redactor::default());
        before.stale_served(1, "x");
        after.stale_served(0, "x");
        before.stale_served(0, "x");
        after.stale_served(1, "x");
        after.stale_served(2, "x");
        let page = after.render();
        for (route, count) in [("a", 1), ("b", 2), ("c", 1), ("none", 1)] {
            let line = format!("larder_stale_served_total{{cause=\"x\",route=\"{route}\"}} {count}\n");
            assert!(page.contains(&line), "{line}{page}");
        }
        let lines = |page: String| page.lines().filter(|l| l.contains("stale")).count();
        assert_eq!(lines(page), lines(before.render()), "both render the same page");
    }

    #[test]
    fn the_usage_of_a_watched_tier_is_read_at_each_rendering() {
        let telemetry = Telemetry::new(&[], &[]);
        let entry_count = Arc::new(AtomicU64::new(3));
        let entry_count_in_tier = Arc::clone(&entry_count);
        telemetry.watch_store("memory", move || {
            let entries = entry_count_in_tier.load(Ordering::Relaxed);
            TierTotals { entries, bytes: entries * 10, evictions: entries * 2 }
        });
        let page = telemetry.render();
        assert!(page.contains("larder_entries{tier=\"memory\"} 3\n"), "{page}");
        assert!(page.contains("larder_evictions_total{tier=\"memory\"} 6\n"), "{page}");
        entry_count.store(4, Ordering::Relaxed);
        let page = telemetry.render();
        assert!(page.contains("larder_store_bytes{tier=\"memory\"} 40\n"), "{page}");
        assert!(page.contains("larder_evictions_total{tier=\"memory\"} 8\n"), "{page}");
    }
}
