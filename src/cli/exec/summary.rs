//! The statistics of a larder at the end of its command, and their summary in two lines.
//!
//! Owns: the choice of counters and the text. Never touches: counting.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::admin_client::sanitize;

/// The statistics of a larder at the end of its command.
#[derive(Default)]
pub(in crate::cli) struct FinalStats {
    /// Its metrics, in the text format of Prometheus.
    pub(in crate::cli) metrics: String,
    /// Its metrics before the command; `None`: it has not been asked.
    pub(in crate::cli) before: Option<String>,
    /// Whether other clients used it, too.
    pub(in crate::cli) shared: bool,
    /// The hosts of its tunnels, if known, and the number of connections for each.
    pub(in crate::cli) tunnelled: Vec<(String, u64)>,
    /// The hosts for which clients rejected its certificate, and the number of handshakes for each.
    pub(in crate::cli) distrusted: Vec<(String, u64)>,
}

/// The request counters of a page of metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests by `result`.
    results: BTreeMap<String, u64>,
    to_clients: u64,
    /// The part of `to_clients` that is errors which no API sent for that client.
    errors: u64,
    from_origins: u64,
    /// Calls for a new response after a stale one was served. No request of a client waits for them.
    refreshes: u64,
    /// The hosts of tunnels, if known.
    pub(super) tunnelled: Vec<String>,
}

/// The results that needed no call to the API.
const WITHOUT_API: [&str; 3] = ["hit", "stale", "coalesced"];

impl Counts {
    /// Parses a page in the text format of Prometheus.
    pub(super) fn parse(page: &str) -> Self {
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
                "larder_refreshes_total" => counts.refreshes += value,
                _ => {}
            }
        }
        counts
    }

    /// The counts since `before`. After a restart of larder, counters can be lower; differences stop at 0.
    pub(super) fn since(mut self, before: &Self) -> Self {
        for (result, count) in &mut self.results {
            *count = count.saturating_sub(before.result(result));
        }
        self.to_clients = self.to_clients.saturating_sub(before.to_clients);
        self.errors = self.errors.saturating_sub(before.errors);
        self.from_origins = self.from_origins.saturating_sub(before.from_origins);
        self.refreshes = self.refreshes.saturating_sub(before.refreshes);
        self
    }

    fn result(&self, name: &str) -> u64 {
        self.results.get(name).copied().unwrap_or_default()
    }

    fn tunnels(&self) -> u64 {
        self.result("tunnel")
    }

    /// The requests that larder handled, without tunnels.
    fn calls(&self) -> u64 {
        self.results.values().sum::<u64>() - self.tunnels()
    }

    fn without_api(&self) -> u64 {
        WITHOUT_API.iter().map(|result| self.result(result)).sum()
    }

    fn failed(&self) -> u64 {
        self.result("error")
    }

    fn to_api(&self) -> u64 {
        self.calls() - self.without_api() - self.failed()
    }

    /// The bytes of API responses, from the store or from the API.
    fn response_bytes(&self) -> u64 {
        self.to_clients.saturating_sub(self.errors)
    }

    fn saved(&self) -> u64 {
        self.response_bytes().saturating_sub(self.from_origins)
    }

    /// The text form.
    pub(super) fn to_text(&self, shared: bool) -> String {
        let (calls, without) = (self.calls(), self.without_api());
        let noun = if calls == 1 { "call" } else { "calls" };
        let empty = String::new;
        let share = if calls > 0 { format!(" ({} %)", percent(without, calls)) } else { empty() };
        let (sent, failed) = (self.to_api(), self.failed());
        let refreshed = match self.refreshes {
            0 => empty(),
            count => format!(" and {count} more to refresh stale responses"),
        };
        let failed = if failed > 0 { format!(", {failed} failed") } else { empty() };
        let (saved, all) = (bytes(self.saved()), bytes(self.response_bytes()));
        let (tunnels, others) = (self.tunnels_text(), if shared { OF_OTHERS } else { "" });
        format!(
            "larder: {calls} {noun}, {without} answered without the API{share}, {sent} went to it{refreshed}{failed}\n\
             larder: saved {saved} of {all}; {tunnels}{others}"
        )
    }

    fn tunnels_text(&self) -> String {
        let mut text = match self.tunnels() {
            0 => "no connection was tunnelled unread".to_owned(),
            1 => "1 connection was tunnelled unread".to_owned(),
            count => format!("{count} connections were tunnelled unread"),
        };
        if let [first, rest @ ..] = self.tunnelled.as_slice() {
            // The command chose the name, so its control characters are replaced before it is printed.
            text.extend([" (", &sanitize(first), if rest.is_empty() { ")" } else { ", …)" }]);
        }
        text
    }

    /// The JSON form.
    pub(super) fn to_json(&self, shared: bool) -> Value {
        json!({
            "calls": self.calls(),
            "without_api": self.without_api(),
            "to_api": self.to_api() + self.refreshes,
            "refreshes": self.refreshes,
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

/// The value of a label. No value contains a quote; route names cannot.
fn label<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// A percentage with one decimal, rounded down: 100.0 only if no request went to the API.
pub(in crate::cli) fn percent(part: u64, whole: u64) -> String {
    let thousandths = part.saturating_mul(1000) / whole.max(1);
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

const OF_OTHERS: &str = "; including the calls of other clients";

/// A size with one decimal: `1.2 MiB`.
pub(in crate::cli) fn bytes(count: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| count >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", count / unit, count % unit * 10 / unit),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP larder_requests_total Requests of clients, by result.
larder_requests_total{result=\"hit\",route=\"api\"} 30
larder_requests_total{result=\"hit\",route=\"other\"} 7
larder_requests_total{result=\"coalesced\",route=\"api\"} 1
larder_requests_total{result=\"miss\",route=\"api\"} 2
larder_requests_total{result=\"error\",route=\"none\"} 1
larder_requests_total{result=\"tunnel\",route=\"none\"} 3
larder_refreshes_total{outcome=\"confirmed\",route=\"api\",trigger=\"stale-while-revalidate\"} 2
larder_refreshes_total{outcome=\"failed\",route=\"other\",trigger=\"stale-while-revalidate\"} 1
larder_client_bytes_total 1364149
larder_error_bytes_total 1000
larder_upstream_bytes_total 104857
";

    #[test]
    fn two_lines_summarise_requests_and_saved_bytes() {
        let lines = Counts::parse(PAGE).to_text(false);
        assert_eq!(
            lines,
            "larder: 41 calls, 38 answered without the API (92.6 %), 2 went to it and 3 more to refresh \
             stale responses, 1 failed\n\
             larder: saved 1.2 MiB of 1.3 MiB; 3 connections were tunnelled unread"
        );
        let nothing = Counts::parse("").to_text(true);
        assert_eq!(
            nothing,
            "larder: 0 calls, 0 answered without the API, 0 went to it\n\
             larder: saved 0 B of 0 B; no connection was tunnelled unread; including the calls of other clients"
        );
    }

    #[test]
    fn requests_before_the_command_are_not_counted() {
        let page = Counts::parse(PAGE);
        assert_eq!(page.clone().since(&page).to_text(false), Counts::parse("").to_text(false));
        assert_eq!(page.clone().since(&Counts::default()), page);
        let restarted = Counts::default().since(&page);
        assert_eq!((restarted.calls(), restarted.saved()), (0, 0));
    }

    #[test]
    fn sizes_and_shares_are_rounded_down() {
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1023.9 KiB"), (5 << 30, "5.0 GiB")]
        {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(percent(9999, 10_000), "99.9");
    }
}
