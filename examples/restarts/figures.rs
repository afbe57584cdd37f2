//! The effect of restarts and reloads on the app, and the targets.
//!
//! Owns: the figures, their targets, the table. Never touches: the load and the larders.

use std::time::Duration;

use crate::load::Seen;
use crate::report::{millis, percentile};

/// The measured figures.
pub(crate) struct Figures {
    /// For each restart, whether the replaced larder finished all requests and the next one has its address.
    pub(crate) restarts: Vec<bool>,
    /// For each reload, whether a valid configuration was accepted or an invalid one refused.
    pub(crate) reloads: Vec<bool>,
    /// The longest time from the start of a larder to the exit of the one before.
    pub(crate) longest_restart: Duration,
    pub(crate) seen: Seen,
}

impl Figures {
    /// The missed targets.
    pub(crate) fn missed(&self) -> Vec<String> {
        let checks = [
            (self.seen.failures.is_empty(), "0 failed requests"),
            (self.restarts.iter().all(|clean| *clean), "every larder finished and exited with status 0"),
            (self.reloads.iter().all(|right| *right), "every invalid configuration refused"),
            (self.seen.on_kept > 0, "requests on kept-alive connections"),
        ];
        let missed = checks.into_iter().filter(|(reached, _)| !reached);
        let missed = missed.map(|(_, figure)| figure.to_owned());
        missed.chain(self.seen.failures.iter().take(10).cloned()).collect()
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let seen = &self.seen;
        let row = |name: &str, value: String| println!("{name:<34}{value:>12}");
        row("restarts with hand-over", self.restarts.len().to_string());
        row("reloads, every second invalid", self.reloads.len().to_string());
        row("requests with a response", seen.latencies.len().to_string());
        row("  on kept-alive connections", seen.on_kept.to_string());
        row("  with Connection: close", seen.last_on_connection.to_string());
        row("  hits", seen.hits.to_string());
        row("requests failed", seen.failures.len().to_string());
        row("latency p50", millis(self.percentile(50)));
        row("latency p99", millis(self.percentile(99)));
        row("longest latency", millis(self.percentile(100)));
        row("longest restart", millis(self.longest_restart));
        println!();
    }

    /// The same as one line of JSON.
    pub(crate) fn json(&self, reached: bool) -> serde_json::Value {
        serde_json::json!({
            "example": "restarts",
            "restarts": self.restarts.len(),
            "reloads": self.reloads.len(),
            "requests": self.seen.latencies.len() + self.seen.failures.len(),
            "on_kept_connections": self.seen.on_kept,
            "hits": self.seen.hits,
            "failed": self.seen.failures.len(),
            "p50_seconds": self.percentile(50).as_secs_f64(),
            "p99_seconds": self.percentile(99).as_secs_f64(),
            "longest_seconds": self.percentile(100).as_secs_f64(),
            "longest_restart_seconds": self.longest_restart.as_secs_f64(),
            "reached": reached,
        })
    }

    fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.seen.latencies, percent)
    }
}
