//! What larder did for a command, in two lines.
//!
//! Owns: which counters tell it, and the words. Never touches: counting.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use crate::cli::admin_client::harmless;

/// What a page of metrics says about requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// By `result`.
    results: BTreeMap<String, u64>,
    to_clients: u64,
    /// Of those, what are errors of larder's own.
    errors: u64,
    from_origins: u64,
    /// The hosts of tunnels, where they are known.
    pub(super) tunnelled: Vec<String>,
}

/// The results that needed nothing of the API.
const WITHOUT: [&str; 3] = ["hit", "stale", "coalesced"];

impl Counts {
    /// Of a page in the text format of Prometheus.
    pub(super) fn of(page: &str) -> Self {
        let mut counts = Self::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "larder_requests_total" => {
                    if let Some(result) = label(labels, "result") {
                        *counts.results.entry(result.to_owned()).or_default() += value;
                    }
                }
                "larder_client_bytes_total" => counts.to_clients += value,
                "larder_error_bytes_total" => counts.errors += value,
                "larder_upstream_bytes_total" => counts.from_origins += value,
                _ => {}
            }
        }
        counts
    }

    /// What has been counted since `before`. A larder that was restarted began anew.
    pub(super) fn since(mut self, before: &Self) -> Self {
        for (result, count) in &mut self.results {
            *count = count.saturating_sub(before.result(result));
        }
        self.to_clients = self.to_clients.saturating_sub(before.to_clients);
        self.errors = self.errors.saturating_sub(before.errors);
        self.from_origins = self.from_origins.saturating_sub(before.from_origins);
        self
    }

    fn result(&self, name: &str) -> u64 {
        self.results.get(name).copied().unwrap_or_default()
    }

    fn tunnels(&self) -> u64 {
        self.result("tunnel")
    }

    /// Requests that larder saw.
    fn calls(&self) -> u64 {
        self.results.values().sum::<u64>() - self.tunnels()
    }

    fn without(&self) -> u64 {
        WITHOUT.iter().map(|result| self.result(result)).sum()
    }

    fn failed(&self) -> u64 {
        self.result("error")
    }

    fn went(&self) -> u64 {
        self.calls() - self.without() - self.failed()
    }

    /// Bytes of answers of the API, whoever gave them.
    fn answers(&self) -> u64 {
        self.to_clients.saturating_sub(self.errors)
    }

    fn saved(&self) -> u64 {
        self.answers().saturating_sub(self.from_origins)
    }

    /// For people.
    pub(super) fn lines(&self, shared: bool) -> String {
        let (calls, without) = (self.calls(), self.without());
        let word = if calls == 1 { "call" } else { "calls" };
        let mut text = format!("larder: {calls} {word}, {without} answered without the API");
        // Writing to a string does not fail.
        let _written = (|| {
            if calls > 0 {
                write!(text, " ({} %)", percent(without, calls))?;
            }
            write!(text, ", {} went to it", self.went())?;
            if self.failed() > 0 {
                write!(text, ", {} failed", self.failed())?;
            }
            let (saved, all) = (bytes(self.saved()), bytes(self.answers()));
            write!(text, "\nlarder: saved {saved} of {all}; {}", self.unseen())?;
            if shared {
                write!(text, "; with the calls of other clients in it")?;
            }
            fmt::Result::Ok(())
        })();
        text
    }

    fn unseen(&self) -> String {
        let mut text = match self.tunnels() {
            0 => "nothing was tunnelled unseen".to_owned(),
            1 => "1 connection was tunnelled unseen".to_owned(),
            count => format!("{count} connections were tunnelled unseen"),
        };
        if let [first, rest @ ..] = self.tunnelled.as_slice() {
            // A name came from the command: it goes to its terminal harmless.
            text.extend([" (", &harmless(first), if rest.is_empty() { ")" } else { ", …)" }]);
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self, shared: bool) -> Value {
        json!({
            "calls": self.calls(),
            "without_api": self.without(),
            "to_api": self.went(),
            "failed": self.failed(),
            "tunnelled": self.tunnels(),
            "tunnelled_hosts": self.tunnelled,
            "results": self.results,
            "client_bytes": self.to_clients,
            "error_bytes": self.errors,
            "upstream_bytes": self.from_origins,
            "shared": shared,
        })
    }
}

/// The value of a label: of a route's name perhaps, but no name has a quote in it.
fn label<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// With one decimal, rounded down: 100.0 only when nothing went to the API.
fn percent(part: u64, whole: u64) -> String {
    let thousandths = part.saturating_mul(1000) / whole.max(1);
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

/// With one decimal: `1.2 MiB`.
fn bytes(count: u64) -> String {
    let mut unit = 1;
    for (name, next) in [("B", 1 << 10), ("KiB", 1 << 20), ("MiB", 1 << 30)] {
        if count < next {
            return sized(count, unit, name);
        }
        unit = next;
    }
    sized(count, unit, "GiB")
}

fn sized(count: u64, unit: u64, name: &str) -> String {
    if unit == 1 {
        return format!("{count} {name}");
    }
    format!("{}.{} {name}", count / unit, count % unit * 10 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP larder_requests_total Requests of clients, by how they ended.
larder_requests_total{result=\"hit\",route=\"api\"} 30
larder_requests_total{result=\"hit\",route=\"other\"} 7
larder_requests_total{result=\"coalesced\",route=\"api\"} 1
larder_requests_total{result=\"miss\",route=\"api\"} 2
larder_requests_total{result=\"error\",route=\"none\"} 1
larder_requests_total{result=\"tunnel\",route=\"none\"} 3
larder_client_bytes_total 1364149
larder_error_bytes_total 1000
larder_upstream_bytes_total 104857
";

    #[test]
    fn two_lines_say_what_was_saved() {
        let lines = Counts::of(PAGE).lines(false);
        assert_eq!(
            lines,
            "larder: 41 calls, 38 answered without the API (92.6 %), 2 went to it, 1 failed\n\
             larder: saved 1.2 MiB of 1.3 MiB; 3 connections were tunnelled unseen"
        );
        let nothing = Counts::of("").lines(true);
        assert_eq!(
            nothing,
            "larder: 0 calls, 0 answered without the API, 0 went to it\n\
             larder: saved 0 B of 0 B; nothing was tunnelled unseen; with the calls of other clients \
             in it"
        );
    }

    #[test]
    fn what_was_counted_before_does_not_count() {
        let page = Counts::of(PAGE);
        assert_eq!(page.clone().since(&page).lines(false), Counts::of("").lines(false));
        assert_eq!(page.clone().since(&Counts::default()), page);
        let restarted = Counts::default().since(&page);
        assert_eq!((restarted.calls(), restarted.saved()), (0, 0));
    }

    #[test]
    fn sizes_and_shares_are_rounded_down() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(percent(9999, 10_000), "99.9");
    }
}
