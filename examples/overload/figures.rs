//! What a crowd and a flood cost, and what they may cost.
//!
//! Owns: the figures, their bounds, the table. Never touches: how they came about.

use std::time::Duration;

use crate::load::Seen;

/// What was found, and what it must be.
pub(crate) struct Figures {
    pub(crate) peak: Seen,
    pub(crate) crowd: Seen,
    /// What each of the two took of larder's processor time, in hundredths of a second.
    pub(crate) cpu: [u32; 2],
    /// From the crowd's end until a newcomer is served.
    pub(crate) recovery: Duration,
    pub(crate) after: Seen,
    pub(crate) flood: Seen,
    /// Lines that the flood made larder log.
    pub(crate) lines: usize,
    /// Lines from its start to its end.
    pub(crate) all_lines: usize,
    /// How often the API was asked.
    pub(crate) calls: usize,
    /// Whether larder ended as it should.
    pub(crate) clean: bool,
}

/// Lines a second.
const LINES: f64 = 10.0;
/// Of the peak.
const GOODPUT: f64 = 0.8;
const RECOVERY: Duration = Duration::from_secs(2);
/// A second's patience for a burst, and the way there and back on a machine that does all of this at once.
const TOLD: Duration = Duration::from_secs(3);

impl Figures {
    /// What was not reached.
    pub(crate) fn missed(&self) -> Vec<String> {
        let failures = || [&self.peak, &self.crowd, &self.after, &self.flood].into_iter();
        let checks = [
            (failures().all(|seen| seen.failures.is_empty()), "0 broken connections"),
            (
                self.by_cpu() >= GOODPUT,
                "answers by processor time in the crowd at least 80 % of the peak's",
            ),
            (!self.crowd.told.is_empty(), "a crowd that is more than larder takes"),
            (told(&self.crowd, 99) < TOLD, "a 503 within three seconds"),
            (self.recovery < RECOVERY, "recovered within two seconds"),
            (self.lines_a_second() <= LINES, "at most ten lines a second"),
            (self.calls == 1, "one call to the API"),
            (self.clean, "larder ended cleanly"),
        ];
        let missed = checks.into_iter().filter(|(reached, _)| !reached);
        let missed = missed.map(|(_, figure)| figure.to_owned());
        missed.chain(failures().flat_map(|seen| seen.failures.iter().take(3).cloned())).collect()
    }

    /// The table.
    pub(crate) fn print(&self) {
        let row = |name: &str, value: String| println!("{name:<42}{value:>12}");
        row("peak, answers a second", rate(&self.peak));
        row("in the crowd, answers a second", rate(&self.crowd));
        row("  of the peak", format!("{:.0} %", self.goodput() * 100.0));
        row("  by processor time", format!("{:.0} %", self.by_cpu() * 100.0));
        row("  told 503", self.crowd.told.len().to_string());
        row("  told within, p50", millis(told(&self.crowd, 50)));
        row("  told within, p99", millis(told(&self.crowd, 99)));
        row("a newcomer is served after", millis(self.recovery));
        row("afterwards, answers a second", rate(&self.after));
        row("malformed requests a second", rate(&self.flood));
        row("  lines of log a second", format!("{:.1}", self.lines_a_second()));
        row("lines of log in all", self.all_lines.to_string());
        println!();
    }

    /// The same for machines, as one line.
    pub(crate) fn json(&self, reached: bool) -> serde_json::Value {
        serde_json::json!({
            "example": "overload",
            "peak_rps": per_second(&self.peak),
            "crowd_rps": per_second(&self.crowd),
            "goodput": self.goodput(),
            "goodput_by_cpu": self.by_cpu(),
            "told_503": self.crowd.told.len(),
            "told_p50_seconds": told(&self.crowd, 50).as_secs_f64(),
            "told_p99_seconds": told(&self.crowd, 99).as_secs_f64(),
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

    /// Answers for larder's own processor time, of those at the peak: the clients take theirs from the
    /// same processors, and others may too.
    fn by_cpu(&self) -> f64 {
        let [peak, crowd] = self.cpu.map(|time| f64::from(time.max(1)));
        (answers(&self.crowd) / crowd) / (answers(&self.peak) / peak).max(f64::MIN_POSITIVE)
    }

    fn lines_a_second(&self) -> f64 {
        // The limiter's seconds are its own: the first and the last may be cut.
        let lines = u32::try_from(self.lines).unwrap_or(u32::MAX);
        f64::from(lines) / (self.flood.took.as_secs_f64() + 1.0)
    }
}

fn answers(seen: &Seen) -> f64 {
    f64::from(u32::try_from(seen.good).unwrap_or(u32::MAX))
}

fn per_second(seen: &Seen) -> f64 {
    answers(seen) / seen.took.as_secs_f64()
}

fn rate(seen: &Seen) -> String {
    format!("{:.0}", per_second(seen))
}

/// How long so many per cent of those who were told 503 waited for it at most.
fn told(seen: &Seen, percent: usize) -> Duration {
    let mut sorted = seen.told.clone();
    sorted.sort_unstable();
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
