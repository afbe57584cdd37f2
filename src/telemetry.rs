//! One record per event: what happened to a request, a call, a stored response. From it come the
//! metrics and the log, in the same words.
//!
//! Owns: counters, their names, the log lines about single requests and how many there may be.
//! Never touches: deciding anything; whoever records goes on whatever happens here.

pub mod cost;
mod event;
pub mod log;
mod log_limiter;
mod metrics;
pub mod problem;
mod tls_handshake;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{self, Clock};
use crate::decide::StaleReason;
use crate::policy::Mode;
use crate::semantics::redaction::Redactor;
use crate::telemetry::cost::CostTracker;
use crate::telemetry::log_limiter::Limiter;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::tls_handshake::HostCounter;

pub use crate::telemetry::event::{
    RejectEvent, RequestEvent, ResultKind, RetryEvent, StoreOp, TierTotals, UpstreamEvent,
};
pub use crate::telemetry::tls_handshake::HandshakeOutcome;

/// Whether what is stored outlives the process, as far as it is meant to.
type Persistence = Box<dyn Fn() -> bool + Send + Sync>;

/// The label and log value for a request that no route, or a call that no upstream, names.
pub const NONE: &str = "none";

/// What larder records, shared by everything that has something to record.
pub struct Telemetry {
    routes: Vec<Arc<str>>,
    upstreams: Vec<Arc<str>>,
    metrics: Metrics,
    ledger: Arc<CostTracker>,
    redactor: Redactor,
    tiers: Arc<Mutex<Vec<StoreGauge>>>,
    outlives: Arc<Mutex<Option<Persistence>>>,
    // One limiter for all of them: whatever goes wrong at once, the log grows slowly (OVL-11).
    lines: Arc<Mutex<Limiter>>,
    // Apart: what an operator must act on is not lost among refusals.
    accepts: Arc<Mutex<Limiter>>,
    distrust: Arc<Mutex<HostCounter>>,
    tunnels: Arc<Mutex<HostCounter>>,
}

impl Telemetry {
    /// The account for these configured names. `routes.len()` and `upstreams.len()`, as indexes,
    /// stand for [`NONE`].
    pub fn new(routes: &[Arc<str>], upstreams: &[Arc<str>]) -> Arc<Self> {
        Self::dated(Clock::system(), routes, upstreams)
    }

    /// The same, whose days and months are those of `clock`.
    pub fn dated(clock: Clock, routes: &[Arc<str>], upstreams: &[Arc<str>]) -> Arc<Self> {
        let routes = with_none(routes);
        let upstreams = with_none(upstreams);
        let metrics = Metrics::new(&routes, &upstreams);
        let ledger = Arc::new(CostTracker::new(clock, metrics.costs().clone()));
        let a_second = |lines| Arc::new(Mutex::new(Limiter::new(lines, Duration::from_secs(1))));
        let (tiers, outlives) = (Arc::default(), Arc::default());
        let (distrust, tunnels) = (Arc::default(), Arc::default());
        Arc::new(Self {
            routes,
            upstreams,
            metrics,
            ledger,
            redactor: Redactor::default(),
            tiers,
            outlives,
            lines: a_second(LINES),
            accepts: a_second(ACCEPTS),
            distrust,
            tunnels,
        })
    }

    /// The same account under other names, as a reload brings them, and with what it says is secret.
    /// Both count in one place: what began under the old names still ends under them.
    pub fn renamed(
        &self,
        routes: &[Arc<str>],
        upstreams: &[Arc<str>],
        redactor: Redactor,
    ) -> Arc<Self> {
        let routes = with_none(routes);
        let upstreams = with_none(upstreams);
        let metrics = self.metrics.renamed(&routes, &upstreams);
        Arc::new(Self {
            routes,
            upstreams,
            metrics,
            ledger: Arc::clone(&self.ledger),
            redactor,
            tiers: Arc::clone(&self.tiers),
            outlives: Arc::clone(&self.outlives),
            lines: Arc::clone(&self.lines),
            accepts: Arc::clone(&self.accepts),
            distrust: Arc::clone(&self.distrust),
            tunnels: Arc::clone(&self.tunnels),
        })
    }

    /// What calls cost.
    pub fn ledger(&self) -> &CostTracker {
        &self.ledger
    }

    /// A hit was answered as soon as its head was read.
    pub fn fast_hit(&self) {
        self.metrics.fast_hit();
    }

    /// A finished exchange with a client: metrics, and one line at `debug`.
    pub fn record(&self, exchange: &RequestEvent<'_>) {
        self.metrics.record(exchange);
        if exchange.result.is_without_a_call() {
            self.ledger.answered(exchange.host, exchange.port);
        }
        if exchange.result == ResultKind::Tunnel {
            self.tunnels.lock().count(exchange.host);
        }
        tracing::debug!(
            route = self.route_name(exchange.route),
            result = exchange.result.token(),
            why = exchange.why,
            method = exchange.method.as_str(),
            host = exchange.host,
            path = &*self.redactor.path(without_query(exchange.path)),
            status = exchange.status.map(|status| status.as_u16()),
            cache_status = exchange.cache_status,
            error = exchange.error,
            seconds = exchange.duration.as_secs_f64(),
            client_bytes = exchange.client_bytes,
            upstream_bytes = exchange.upstream_bytes + exchange.filled_bytes,
            "Answered"
        );
    }

    /// A finished call to an origin.
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

    /// A call that is made once more, and why.
    pub fn upstream_retry(&self, retry: &RetryEvent<'_>) {
        self.metrics.upstream_retry(retry.upstream, retry.cause);
        let Some(suppressed) = self.admit_minor_line() else { return };
        tracing::info!(
            upstream = self.upstream_name(retry.upstream),
            route = self.route_name(retry.route),
            host = retry.host,
            port = retry.port,
            cause = retry.cause,
            wait = retry.wait.as_secs_f64(),
            suppressed,
            "Call to origin retried"
        );
    }

    /// An answer by which an origin said that it was asked too much: which limit that was.
    pub fn rate_limited(&self, upstream: usize, class: &'static str) {
        self.metrics.restraint().rate_limited(self.upstream_name(upstream), class);
    }

    /// A call that was not made, and what kept larder from it.
    pub fn refused_call(&self, upstream: usize, cause: &'static str) {
        self.metrics.restraint().refused(self.upstream_name(upstream), cause);
    }

    /// A call that waited before it was made, or was not made then: what for, and how long.
    pub fn waited(&self, upstream: usize, cause: &'static str, time: Duration) {
        self.metrics.restraint().waited(self.upstream_name(upstream), cause, time);
    }

    /// Bytes that a fill received. A fill belongs to no client, so no [`RequestEvent`] carries them.
    pub fn upstream_bytes(&self, bytes: u64) {
        self.metrics.upstream_bytes(bytes);
    }

    /// A request that larder itself refused: counted in `larder_denied_total` and logged. Use
    /// [`Telemetry::denied`] instead where the refused request also has an [`RequestEvent`].
    pub fn refused(&self, refusal: &RejectEvent) {
        self.denied(refusal.class);
        let Some(suppressed) = self.admit_line() else { return };
        let client = refusal.client.map(tracing::field::display);
        tracing::warn!(class = refusal.class, client, suppressed, "Request refused");
    }

    /// A request that was denied, counted only.
    pub fn denied(&self, reason: &'static str) {
        self.metrics.denied(reason);
    }

    /// A handshake with a client of `host`, which `named` names in the configuration.
    pub fn handshake(&self, named: &str, host: &str, outcome: HandshakeOutcome) {
        self.metrics.handshake(named, outcome.token());
        let due = if outcome.is_distrust() { self.distrust.lock().count(host) } else { None };
        let Some(refused) = due else {
            tracing::debug!(host, outcome = outcome.token(), "Handshake ended");
            return;
        };
        let alert = if let HandshakeOutcome::Refused(alert) = outcome { Some(alert) } else { None };
        tracing::warn!(
            host,
            refused,
            alert = alert.map(tracing::field::debug),
            "A client does not accept larder's certificate: start it with `larder exec`, give it \
             the authority of `larder ca bundle`, or list the host in tls.passthrough"
        );
    }

    /// The hosts whose clients did not accept larder, and how often, most first.
    pub fn distrusted(&self) -> Vec<(String, u64)> {
        self.distrust.lock().hosts()
    }

    /// The hosts whose bytes were passed unseen, and in how many connections, most first.
    pub fn tunnelled(&self) -> Vec<(String, u64)> {
        self.tunnels.lock().hosts()
    }

    /// An answer that was not stored.
    pub fn not_stored(&self, route: usize, reason: &'static str) {
        self.metrics.not_stored(route, reason);
    }

    /// A stale answer that was served, and why. One that stands in for an error has a line of its
    /// own; one that was asked for, or is refreshed meanwhile, has its [`RequestEvent`]'s.
    pub fn stale_served(&self, route: usize, cause: &'static str) {
        self.metrics.stale_served(route, cause);
        if CHOSEN.iter().any(|chosen| chosen.token() == cause) {
            return;
        }
        let Some(suppressed) = self.admit_minor_line() else { return };
        tracing::info!(route = self.route_name(route), cause, suppressed, "Stale answer served");
    }

    /// A background refresh that ended.
    pub fn refresh(&self, route: usize, trigger: &'static str, outcome: &'static str) {
        self.metrics.refresh(route, trigger, outcome);
    }

    /// Stored responses that were invalidated.
    pub fn invalidated(&self, source: &'static str, count: u64) {
        self.metrics.invalidated(source, count);
    }

    /// How many responses a tier of the store holds.
    pub fn store_entries(&self, tier: &'static str, count: u64) {
        self.metrics.store_entries(tier, count);
    }

    /// How many bytes a tier of the store holds.
    pub fn store_bytes(&self, tier: &'static str, bytes: u64) {
        self.metrics.store_bytes(tier, bytes);
    }

    /// Stored responses that were evicted for room.
    pub fn evicted(&self, tier: &'static str, count: u64) {
        self.metrics.evicted(tier, count);
    }

    /// What the master switch says now.
    pub fn mode(&self, mode: Mode) {
        self.metrics.operation().mode(mode.token(), &Mode::ALL.map(Mode::token));
    }

    /// The upstreams whose certificates are not looked at, and no others.
    pub fn insecure<'a>(&self, upstreams: impl Iterator<Item = &'a str>) {
        self.metrics.operation().insecure(upstreams);
    }

    /// A configuration that was read again: swapped in, or not. The first one counts as swapped in.
    pub fn reloaded(&self, swapped: bool) {
        self.metrics.operation().reloaded(swapped);
    }

    /// A store on disk that was begun anew because it could not be used as it was.
    pub fn store_recovered(&self) {
        self.metrics.store_recovered();
    }

    /// A fault of the store on disk. It costs hits, never an answer.
    pub fn store_error(&self, op: StoreOp, error: &dyn fmt::Display) {
        self.metrics.store_error(op.token());
        let Some(suppressed) = self.admit_line() else { return };
        tracing::warn!(op = op.token(), %error, suppressed, "Store failed");
    }

    /// Something that was not written to the store, because nothing may be written for a while.
    pub fn store_dropped(&self) {
        self.metrics.store_error(StoreOp::Drop.token());
    }

    /// A listener that could not accept a connection.
    pub fn accept_error(&self, error: &io::Error) {
        self.metrics.accept_error();
        let due = self.accepts.lock().admit(clock::monotonic());
        let Some(suppressed) = due else { return };
        tracing::error!(kind = %error.kind(), os = error.raw_os_error(), suppressed, "Accept failed");
    }

    /// Asks `totals` for what a tier holds whenever the metrics are rendered, instead of being told
    /// of each change.
    pub fn watch_store(
        &self,
        tier: &'static str,
        totals: impl Fn() -> TierTotals + Send + Sync + 'static,
    ) {
        self.tiers.lock().push(StoreGauge { name: tier, totals: Box::new(totals), evictions: 0 });
    }

    /// Asks whether the store is as it should be whenever the metrics are rendered: whatever makes it ill, or
    /// well again, nobody has to say so here as well.
    pub fn watch_condition(&self, is_good: impl Fn() -> bool + Send + Sync + 'static) {
        *self.outlives.lock() = Some(Box::new(is_good));
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        if let Some(outlives) = &*self.outlives.lock() {
            self.metrics.store_state(u8::from(!outlives()));
        }
        for tier in self.tiers.lock().iter_mut() {
            let totals = (tier.totals)();
            self.store_entries(tier.name, totals.entries);
            self.store_bytes(tier.name, totals.bytes);
            self.evicted(tier.name, totals.evictions.saturating_sub(tier.evictions));
            tier.evictions = totals.evictions;
        }
        self.ledger.show();
        self.metrics.render()
    }

    fn admit_line(&self) -> Option<u64> {
        self.lines.lock().admit(clock::monotonic())
    }

    // At a storm's rate: where nobody reads them, they take no lock.
    fn admit_minor_line(&self) -> Option<u64> {
        if !tracing::enabled!(tracing::Level::INFO) {
            return None;
        }
        self.lines.lock().admit_minor(clock::monotonic())
    }

    fn route_name(&self, index: usize) -> &str {
        self.routes.get(index).map_or(NONE, AsRef::as_ref)
    }

    fn upstream_name(&self, index: usize) -> &str {
        self.upstreams.get(index).map_or(NONE, AsRef::as_ref)
    }
}

/// A tier of the store that is asked when the metrics are rendered.
struct StoreGauge {
    name: &'static str,
    totals: Box<dyn Fn() -> TierTotals + Send + Sync>,
    // As of the last rendering: the counter grows by the difference.
    evictions: u64,
}

fn with_none(names: &[Arc<str>]) -> Vec<Arc<str>> {
    names.iter().cloned().chain([Arc::from(NONE)]).collect()
}

/// Query values may be secret and are never logged (ADM-07).
fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

/// Why an answer is stale though nothing failed.
const CHOSEN: [StaleReason; 3] =
    [StaleReason::WhileRevalidate, StaleReason::MaxStale, StaleReason::Offline];

/// Lines a second about requests, calls and connections that failed, over all.
const LINES: u32 = 9;
/// And one about listeners that cannot accept: ten in all (OVL-11).
const ACCEPTS: u32 = 1;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_name_goes_on_counting_under_another_index_and_what_began_before_ends_as_it_began() {
        let name = |name: &str| -> Arc<str> { name.into() };
        let before = Telemetry::new(&[name("a"), name("b")], &[]);
        let after = before.renamed(&[name("b"), name("c")], &[], Redactor::default());
        before.stale_served(1, "x");
        after.stale_served(0, "x");
        before.stale_served(0, "x");
        after.stale_served(1, "x");
        after.stale_served(2, "x");
        let page = after.render();
        for (route, count) in [("a", 1), ("b", 2), ("c", 1), ("none", 1)] {
            let line =
                format!("larder_stale_served_total{{cause=\"x\",route=\"{route}\"}} {count}\n");
            assert!(page.contains(&line), "{line}{page}");
        }
        let lines = |page: String| page.lines().filter(|l| l.contains("stale")).count();
        assert_eq!(lines(page), lines(before.render()), "it is one page");
    }

    #[test]
    fn a_watched_tier_shows_what_it_holds_at_each_rendering() {
        let account = Telemetry::new(&[], &[]);
        let held = Arc::new(AtomicU64::new(3));
        let watched = Arc::clone(&held);
        account.watch_store("memory", move || {
            let entries = watched.load(Ordering::Relaxed);
            TierTotals { entries, bytes: entries * 10, evictions: entries * 2 }
        });
        let page = account.render();
        assert!(page.contains("larder_entries{tier=\"memory\"} 3\n"), "{page}");
        assert!(page.contains("larder_evictions_total{tier=\"memory\"} 6\n"), "{page}");
        held.store(4, Ordering::Relaxed);
        let page = account.render();
        assert!(page.contains("larder_store_bytes{tier=\"memory\"} 40\n"), "{page}");
        assert!(page.contains("larder_evictions_total{tier=\"memory\"} 8\n"), "{page}");
    }
}
