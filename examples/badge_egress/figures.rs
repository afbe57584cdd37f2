//! The cost of the badge page before and with larder, and its targets.
//!
//! Owns: the figures, their targets, the table. Never touches: the workload.

use std::time::Duration;

use larder::fake::discord::CallLog;

use crate::report::{millis, percentile};
use crate::{ROLE_CHECKS, Seen, Workload};

/// One column of the table.
pub(crate) struct Side {
    upstream_calls: u64,
    upstream_bytes: u64,
    client_calls: usize,
    hits: usize,
    p50: Duration,
    p99: Duration,
}

impl Side {
    pub(crate) fn new(seen: &Seen, calls: &CallLog) -> Self {
        Self {
            upstream_calls: calls.total,
            upstream_bytes: calls.bytes,
            client_calls: seen.latencies.len(),
            hits: seen.hits,
            p50: percentile(&seen.latencies, 50),
            p99: percentile(&seen.latencies, 99),
        }
    }

    fn hit_rate(&self) -> f64 {
        share(self.hits as u64, self.client_calls as u64)
    }
}

/// The measured figures.
pub(crate) struct Figures {
    pub(crate) workload: Workload,
    pub(crate) before: Side,
    pub(crate) after: Side,
    /// Calls to Discord with larder, before any refresh was forced.
    pub(crate) visits_upstream: u64,
    /// Hits among the calls that each followed a forced refresh.
    pub(crate) hits_after_refresh: usize,
    /// Whether every path had the same body in both runs.
    pub(crate) same_bodies: bool,
}

impl Figures {
    /// The missed targets.
    pub(crate) fn missed(&self) -> Vec<String> {
        let Workload { refreshes, .. } = self.workload;
        let needed = self.workload.needed() as u64;
        let calls = self.workload.visit_calls();
        let checks = [
            (self.before.client_calls == calls, format!("{calls} calls before")),
            (self.after.client_calls == calls, format!("{calls} calls after")),
            (self.visits_upstream == needed, format!("exactly {needed} calls to Discord")),
            (
                self.after.upstream_calls == needed + refreshes as u64,
                format!("exactly one more call for each of {refreshes} forced refreshes"),
            ),
            (self.hits_after_refresh == refreshes, "a hit after each forced refresh".to_owned()),
            (self.after.hit_rate() >= 0.95, "95 % hits".to_owned()),
            (self.bytes_share() <= 0.10, "10 % of the bytes from Discord".to_owned()),
            (self.same_bodies, "the same bodies as without larder".to_owned()),
        ];
        checks.into_iter().filter(|(reached, _)| !reached).map(|(_, figure)| figure).collect()
    }

    fn bytes_share(&self) -> f64 {
        share(self.after.upstream_bytes, self.before.upstream_bytes)
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let Workload { users, visits, refreshes, .. } = self.workload;
        let (before, after) = (&self.before, &self.after);
        println!("{users} users x {visits} visits, {} calls each\n", ROLE_CHECKS + 1);
        println!("{:<24}{:>12}{:>12}", "", "before", "after");
        let row = |name: &str, before: String, after: String, note: &str| {
            println!("{name:<24}{before:>12}{after:>12}  {note}");
        };
        row("calls of the app", before.client_calls.to_string(), after.client_calls.to_string(), "");
        row(
            "calls to Discord",
            before.upstream_calls.to_string(),
            self.visits_upstream.to_string(),
            &format!("and {} for {refreshes} forced refreshes", after.upstream_calls - self.visits_upstream),
        );
        row(
            "bytes from Discord",
            before.upstream_bytes.to_string(),
            after.upstream_bytes.to_string(),
            &percent(self.bytes_share()),
        );
        row("hits", percent(before.hit_rate()), percent(after.hit_rate()), "");
        row("latency p50", millis(before.p50), millis(after.p50), "");
        row("latency p99", millis(before.p99), millis(after.p99), "");
        println!();
    }

    /// The same as one line of JSON.
    pub(crate) fn json(&self, reached: bool) -> serde_json::Value {
        let side = |side: &Side| {
            serde_json::json!({
                "client_calls": side.client_calls,
                "upstream_calls": side.upstream_calls,
                "upstream_bytes": side.upstream_bytes,
                "hit_rate": side.hit_rate(),
                "p50_seconds": side.p50.as_secs_f64(),
                "p99_seconds": side.p99.as_secs_f64(),
            })
        };
        serde_json::json!({
            "example": "badge_egress",
            "users": self.workload.users,
            "visits": self.workload.visits,
            "forced_refreshes": self.workload.refreshes,
            "visits_upstream_calls": self.visits_upstream,
            "upstream_bytes_share": self.bytes_share(),
            "before": side(&self.before),
            "after": side(&self.after),
            "reached": reached,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of an example are far below 2^52")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
