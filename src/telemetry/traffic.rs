//! Requests since the start, by route: the sums of `/v1/stats`, of `larder stats` and of the log line of each
//! minute.
//!
//! Owns: the sums and the log line. Never touches: counting (`metrics`), the text for people (`cli::stats`).

use std::collections::BTreeMap;

use crate::telemetry::Telemetry;
use crate::telemetry::event::ResultKind;

/// The requests since the start of larder, or in some period.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By the name of the route, also of routes that a reload removed; [`NONE`](crate::telemetry::NONE) for requests without one.
    pub routes: BTreeMap<String, RouteTraffic>,
    /// Bytes sent to clients.
    pub client_bytes: u64,
    /// The part of `client_bytes` that is errors which no origin sent for that client.
    pub error_bytes: u64,
    /// Bytes received from origins.
    pub upstream_bytes: u64,
}

/// The requests of one route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTraffic {
    /// The number of requests by result.
    pub results: BTreeMap<String, u64>,
    /// The number of forwarded requests by reason.
    pub misses: BTreeMap<String, u64>,
    /// Background refreshes: calls that no client waited for.
    pub refreshes: u64,
}

impl RouteTraffic {
    /// The requests, without tunnels.
    pub fn calls(&self) -> u64 {
        self.results.values().sum::<u64>().saturating_sub(self.tunnels())
    }

    /// The requests whose response required no call of their own.
    pub fn hits(&self) -> u64 {
        ResultKind::ALL.into_iter().filter(|kind| kind.needs_no_call()).map(|kind| self.result(kind)).sum()
    }

    /// The requests without a response of the origin or the store.
    pub fn failed(&self) -> u64 {
        self.result(ResultKind::Error)
    }

    /// The requests that were sent to the origin, and the background refreshes.
    pub fn to_api(&self) -> u64 {
        self.calls().saturating_sub(self.hits() + self.failed()) + self.refreshes
    }

    /// The tunnels, whose content larder does not read.
    pub fn tunnels(&self) -> u64 {
        self.result(ResultKind::Tunnel)
    }

    /// The reasons for forwarding requests, the most frequent first. Requests that were passed through count
    /// as `bypass`.
    pub fn top_misses(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.misses.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        all.push((ResultKind::Bypass.token(), self.result(ResultKind::Bypass)));
        all.retain(|(_, count)| *count > 0);
        all.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
        all
    }

    fn result(&self, kind: ResultKind) -> u64 {
        self.results.get(kind.token()).copied().unwrap_or_default()
    }

    fn add(&mut self, other: &Self) {
        add_all(&mut self.results, &other.results);
        add_all(&mut self.misses, &other.misses);
        self.refreshes += other.refreshes;
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            results: difference(&self.results, &before.results),
            misses: difference(&self.misses, &before.misses),
            refreshes: self.refreshes.saturating_sub(before.refreshes),
        }
    }
}

impl Traffic {
    /// The sum of all routes.
    pub fn total(&self) -> RouteTraffic {
        let mut total = RouteTraffic::default();
        self.routes.values().for_each(|route| total.add(route));
        total
    }

    /// The bytes of API responses, from the store or from the API.
    pub fn response_bytes(&self) -> u64 {
        self.client_bytes.saturating_sub(self.error_bytes)
    }

    /// The bytes that were not received from origins again.
    pub fn saved_bytes(&self) -> u64 {
        self.response_bytes().saturating_sub(self.upstream_bytes)
    }

    /// The requests since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let none = RouteTraffic::default();
        let route = |(name, route): (&String, &RouteTraffic)| {
            (name.clone(), route.since(before.routes.get(name).unwrap_or(&none)))
        };
        Self {
            routes: self.routes.iter().map(route).collect(),
            client_bytes: self.client_bytes.saturating_sub(before.client_bytes),
            error_bytes: self.error_bytes.saturating_sub(before.error_bytes),
            upstream_bytes: self.upstream_bytes.saturating_sub(before.upstream_bytes),
        }
    }

    /// Hits of requests for each route with traffic, the route with most requests first.
    fn routes_text(&self) -> String {
        let mut routes: Vec<_> = self.routes.iter().filter(|(_, route)| route.calls() > 0).collect();
        routes.sort_by_key(|(_, route)| std::cmp::Reverse(route.calls()));
        let one =
            |(name, route): &(&String, &RouteTraffic)| format!("{name} {}/{}", route.hits(), route.calls());
        let shown: Vec<_> = routes.iter().take(SHOWN).map(one).collect();
        let more = if routes.len() > SHOWN { ", …" } else { "" };
        format!("{}{more}", shown.join(", "))
    }
}

impl Telemetry {
    /// The requests since the start.
    pub fn traffic(&self) -> Traffic {
        self.metrics.traffic()
    }

    /// Logs the requests since `before`, if there are any, and returns those since the start.
    pub fn log_traffic(&self, before: &Traffic) -> Traffic {
        let now = self.traffic();
        let period = now.since(before);
        let total = period.total();
        if total.calls() + total.refreshes + total.tunnels() > 0 {
            let misses = total.top_misses();
            let misses = misses.iter().take(SHOWN).map(|(reason, count)| format!("{reason} {count}"));
            tracing::info!(
                calls = total.calls(),
                hits = total.hits(),
                to_api = total.to_api(),
                failed = total.failed(),
                tunnels = total.tunnels(),
                saved_bytes = period.saved_bytes(),
                routes = period.routes_text(),
                misses = misses.collect::<Vec<_>>().join(", "),
                "Requests of the last minute"
            );
        }
        now
    }
}

fn add_all(sums: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (name, count) in more {
        *sums.entry(name.clone()).or_default() += count;
    }
}

fn difference(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let left = |(name, count): (&String, &u64)| {
        (name.clone(), count.saturating_sub(before.get(name).copied().unwrap_or_default()))
    };
    now.iter().map(left).collect()
}

/// The most routes and reasons that a log line names.
const SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn route(results: &[(&str, u64)], misses: &[(&str, u64)], refreshes: u64) -> RouteTraffic {
        let counts = |all: &[(&str, u64)]| all.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        RouteTraffic { results: counts(results), misses: counts(misses), refreshes }
    }

    fn traffic(routes: &[(&str, RouteTraffic)], bytes: [u64; 3]) -> Traffic {
        let routes = routes.iter().map(|(name, route)| ((*name).to_owned(), route.clone())).collect();
        let [client_bytes, error_bytes, upstream_bytes] = bytes;
        Traffic { routes, client_bytes, error_bytes, upstream_bytes }
    }

    #[test]
    fn refreshes_are_calls_and_errors_are_neither_hits_nor_saved() {
        let results = [("hit", 5), ("stale", 2), ("coalesced", 1), ("miss", 3), ("error", 4), ("tunnel", 9)];
        let api = route(&results, &[("stale", 1), ("uri-miss", 2), ("vary-miss", 0)], 2);
        assert_eq!((api.calls(), api.hits(), api.failed(), api.to_api()), (15, 8, 4, 5));
        assert_eq!(api.top_misses(), [("uri-miss", 2), ("stale", 1)]);
        assert_eq!(route(&[("bypass", 4)], &[], 0).top_misses(), [("bypass", 4)]);
        let all =
            traffic(&[("api", api.clone()), ("none", route(&[("bypass", 1)], &[], 0))], [1000, 300, 200]);
        assert_eq!((all.total().calls(), all.total().to_api()), (16, 6));
        assert_eq!((all.response_bytes(), all.saved_bytes()), (700, 500));
        let none = all.since(&all);
        assert_eq!((none.total().calls(), none.saved_bytes(), none.total().refreshes), (0, 0, 0));
    }
}
