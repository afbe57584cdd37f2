//! The results of the crowd and the flood, and the targets.
//!
//! Owns: the figures, their targets, the table. Never touches: the clients.

use std::time::Duration;

use crate::load::Seen;
use crate::report::{millis, percentile};

/// The measured figures.
pub(crate) struct Figures {
    pub(crate) peak: Seen,
    pub(crate) crowd: Seen,
    /// larder's CPU time during the peak and during the crowd, in hundredths of a second.
    pub(crate) cpu: [u32; 2],
    /// The time from the crowd's end until a new client is served.
    pub(crate) recovery: Duration,
    pub(crate) after: Seen,
    pub(crate) flood: Seen,
    /// Log lines during the flood.
    pub(crate) lines: usize,
    /// Log lines from start to end.
    pub(crate) all_lines: usize,
    /// The number of calls to the API.
    pub(crate) calls: usize,
    /// Whether larder exited with status 0.
    pub(crate) clean: bool,
}

/// Target: log lines per second.
const MAX_LOG_LINES: f64 = 10.0;
/// Target: responses per CPU time, as a share of the peak.
const MIN_GOODPUT: f64 = 0.8;
const MAX_RECOVERY: Duration = Duration::from_secs(2);
/// Target: the time until a 503. A burst may wait a second; the rest is for the way there and back on a
/// machine that does all of this at once.
const MAX_REJECTION_TIME: Duration = Duration::from_secs(3);

impl Figures {
    /// The missed targets.
    pub(crate) fn missed(&self) -> Vec<String> {
        let failures = || [&self.peak, &self.crowd, &self.after, &self.flood].into_iter();
        let checks = [
            (failures().all(|seen| seen.failures.is_empty()), "0 broken connections"),
            (self.by_cpu() >= MIN_GOODPUT, "responses per CPU time in the crowd at least 80 % of the peak's"),
            (!self.crowd.rejection_times.is_empty(), "a crowd with rejected clients"),
            (rejection_time(&self.crowd, 99) < MAX_REJECTION_TIME, "a 503 within three seconds"),
            (self.recovery < MAX_RECOVERY, "recovered within two seconds"),
            (self.lines_a_second() <= MAX_LOG_LINES, "at most ten lines a second"),
            (self.calls == 1, "one call to the API"),
            (self.clean, "larder exited with status 0"),
        ];
        let missed = checks.into_iter().filter(|(reached, _)| !reached);
        let missed = missed.map(|(_, figure)| figure.to_owned());
        missed.chain(failures().flat_map(|seen| seen.failures.iter().take(3).cloned())).collect()
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let row = |name: &str, value: String| println!("{name:<42}{value:>12}");
        row("peak, responses a second", rate(&self.peak));
        row("in the crowd, responses a second", rate(&self.crowd));
        row("  of the peak", format!("{:.0} %", self.goodput() * 100.0));
        row("  by CPU time", format!("{:.0} %", self.by_cpu() * 100.0));
        row("  rejected with 503", self.crowd.rejection_times.len().to_string());
        row("  503 received within, p50", millis(rejection_time(&self.crowd, 50)));
        row("  503 received within, p99", millis(rejection_time(&self.crowd, 99)));
        row("a new client is served after", millis(self.recovery));
        row("afterwards, responses a second", rate(&self.after));
        row("malformed requests a second", rate(&self.flood));
        row("  log lines a second", format!("{:.1}", self.lines_a_second()));
        row("log lines in all", self.all_lines.to_string());
        println!();
    }

    /// The same as one line of JSON.
    pub(crate) fn json(&self, reached: bool) -> serde_json::Value {
        serde_json::json!({
            "example": "overload",
            "peak_rps": per_second(&self.peak),
            "crowd_rps": per_second(&self.crowd),
            "goodput": self.goodput(),
            "goodput_by_cpu": self.by_cpu(),
            "told_503": self.crowd.rejection_times.len(),
            "told_p50_seconds": rejection_time(&self.crowd, 50).as_secs_f64(),
            "told_p99_seconds": rejection_time(&self.crowd, 99).as_secs_f64(),
            "recovery_seconds": self.recovery.as_secs_f64(),
            "after_rps": per_second(&self.after),
            "malformed_rps": per_second(&self.flood),
            "log_lines_per_second": self.lines_a_second(),
            "log_lines": self.all_lines,
            "reached": reached,
        })
    }

    fn goodput(&self) -> f64 {
        per_second(&self.crowd) / per_second(&self.peak).max(1.0)
    }

    /// Responses per CPU time of larder, relative to the peak: the clients use the same processors, and
    /// so may other programs.
    fn by_cpu(&self) -> f64 {
        let [peak, crowd] = self.cpu.map(|time| f64::from(time.max(1)));
        (responses(&self.crowd) / crowd) / (responses(&self.peak) / peak).max(f64::MIN_POSITIVE)
    }

    fn lines_a_second(&self) -> f64 {
        // The log limiter's seconds do not start with the flood: the first and the last may be partial.
        let lines = u32::try_from(self.lines).unwrap_or(u32::MAX);
        f64::from(lines) / (self.flood.took.as_secs_f64() + 1.0)
    }
}

fn responses(seen: &Seen) -> f64 {
    f64::from(u32::try_from(seen.good).unwrap_or(u32::MAX))
}

fn per_second(seen: &Seen) -> f64 {
    responses(seen) / seen.took.as_secs_f64()
}

fn rate(seen: &Seen) -> String {
    format!("{:.0}", per_second(seen))
}

/// The time until the 503 that this percentage of the rejected clients did not exceed.
fn rejection_time(seen: &Seen, percent: usize) -> Duration {
    percentile(&seen.rejection_times, percent)
}
