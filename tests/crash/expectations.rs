//! The expected state of the store, derived from the responses that the clients received.
//!
//! Owns: the counters and the pass criteria of the test.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::larder::clock::Clock;

use crate::client::Response;
use crate::content;

/// A response that was stored longer ago than this must be found after a kill.
const MUST_BE_FOUND_AFTER: Duration = Duration::from_secs(2);

/// An invalidation whose response came longer ago than this is on disk.
const DURABLE_AFTER: Duration = Duration::from_secs(1);

/// The expected state of all URLs, over all runs of larder.
pub struct Expectations {
    urls: Mutex<Vec<UrlState>>,
    counters: Mutex<Counters>,
}

/// The expected state of one URL.
#[derive(Debug, Clone, Default)]
struct UrlState {
    /// Responses up to this number are purged or invalidated.
    purged: u64,
    /// Responses up to this number must stay purged after a restart.
    durable: u64,
    /// The invalidations of this run: the last invalidated response, and the time of the confirmation.
    invalidations: Vec<(u64, Instant)>,
    /// The newest response that is known to be stored, and since when.
    stored: Option<(u64, Instant)>,
    /// Whether it was stored long enough before the kill that larder must find it after the restart.
    must_be_found: bool,
}

impl UrlState {
    fn purge(&mut self, upto: u64) {
        self.purged = self.purged.max(upto);
        self.stored = self.stored.filter(|(seq, _)| *seq > upto);
    }
}

/// The counts of one phase of the test.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    pub lives: u64,
    pub answers: u64,
    pub purges: u64,
    pub refused: u64,
    pub wrong: u64,
    pub resurrected: u64,
    pub expected: u64,
    pub found: u64,
    pub slowest_start: Duration,
}

impl Expectations {
    pub fn new() -> Self {
        let urls = Mutex::new(vec![UrlState::default(); content::URLS]);
        Self { urls, counters: Mutex::default() }
    }

    pub fn counters(&self) -> Counters {
        self.counters.lock().expect("no thread panics with it").clone()
    }

    /// Records that larder has started and its store is open, `within` this time.
    pub fn record_start(&self, within: Duration) {
        self.count(|counters| {
            counters.lives += 1;
            counters.slowest_start = counters.slowest_start.max(within);
        });
    }

    /// The number of the last purged response of a URL; to be read before a request is sent.
    pub fn purged(&self, n: usize) -> u64 {
        self.with_url(n, |url| url.purged)
    }

    /// Records that a request was sent that may replace or remove the stored response: the expected
    /// state is unknown until its response has come.
    pub fn set_unknown(&self, n: usize) {
        self.with_url(n, |url| url.stored = None);
    }

    /// Records that a purge of the responses up to `upto` was acknowledged: it must survive a kill.
    pub fn record_purge(&self, n: usize, upto: u64) {
        self.with_url(n, |url| {
            url.durable = url.durable.max(upto);
            url.purge(upto);
        });
        self.count(|counters| counters.purges += 1);
    }

    /// Records that a purge was not acknowledged.
    pub fn record_failed_purge(&self) {
        self.count(|counters| counters.refused += 1);
    }

    /// Records the response to a POST, which invalidates the responses up to `upto` at once. The
    /// invalidation survives a kill once it is on disk; larder waits for the write only a short time.
    pub fn record_invalidation(&self, n: usize, upto: u64) {
        self.with_url(n, |url| {
            url.invalidations.push((upto, Clock::system().instant()));
            url.purge(upto);
        });
        self.count(|counters| counters.purges += 1);
    }

    /// Records a complete response; `purged` is the last purged response when its request was sent.
    pub fn record_response(&self, n: usize, response: &Response, purged: u64) {
        self.count(|counters| counters.answers += 1);
        let Some(seq) = self.check(n, response, purged) else { return };
        if response.is_stored() {
            self.with_url(n, |url| match url.stored {
                Some((stored, _)) if stored >= seq => {}
                _ if seq <= url.purged => {}
                _ => url.stored = Some((seq, Clock::system().instant())),
            });
        }
    }

    /// Records the result of an `only-if-cached` request after a start.
    pub fn record_lookup(&self, n: usize, response: &Response) {
        let found = response.status == 200;
        let seq = if found { self.check(n, response, self.purged(n)) } else { None };
        let expected = self.with_url(n, |url| {
            let expected = url.must_be_found;
            // The state after the restart replaces the expected one; its age continues.
            let since = url.stored.map_or_else(|| Clock::system().instant(), |(_, since)| since);
            url.stored = seq.map(|seq| (seq, since));
            expected
        });
        self.count(|counters| {
            counters.expected += u64::from(expected);
            counters.found += u64::from(expected && found);
        });
    }

    /// Records that larder was killed.
    pub fn record_kill(&self) {
        let now = Clock::system().instant();
        for url in self.urls.lock().expect("no thread panics with it").iter_mut() {
            let age = |at: Instant| now.saturating_duration_since(at);
            url.must_be_found = url.stored.is_some_and(|(_, since)| age(since) > MUST_BE_FOUND_AFTER);
            let durable = url.invalidations.drain(..).filter(|(_, at)| age(*at) > DURABLE_AFTER);
            url.durable = durable.fold(url.durable, |max, (upto, _)| max.max(upto));
            url.purged = url.durable;
        }
    }

    pub fn expects_anything(&self) -> bool {
        self.urls.lock().expect("no thread panics with it").iter().any(|url| url.must_be_found)
    }

    /// Records that the store was damaged: any entry may be lost.
    pub fn expect_nothing(&self) {
        for url in self.urls.lock().expect("no thread panics with it").iter_mut() {
            url.must_be_found = false;
        }
    }

    /// Sets all counters to zero.
    pub fn reset_counters(&self) {
        *self.counters.lock().expect("no thread panics with it") = Counters::default();
    }

    /// Checks the body and counts wrong and purged ones; returns the response's number if it is correct.
    fn check(&self, n: usize, response: &Response, purged: u64) -> Option<u64> {
        let seq = content::seq_of(n, &response.body).filter(|_| response.status == 200);
        let resurrected = seq.is_some_and(|seq| seq <= purged);
        self.count(|counters| {
            counters.wrong += u64::from(seq.is_none());
            counters.resurrected += u64::from(resurrected);
        });
        seq
    }

    fn with_url<T>(&self, n: usize, change: impl FnOnce(&mut UrlState) -> T) -> T {
        change(&mut self.urls.lock().expect("no thread panics with it")[n])
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters.lock().expect("no thread panics with it"));
    }
}

impl Counters {
    /// The share of the expected responses that was found.
    #[expect(clippy::cast_precision_loss, reason = "the counts are some thousands")]
    pub fn found_share(&self) -> f64 {
        if self.expected == 0 { 1.0 } else { self.found as f64 / self.expected as f64 }
    }

    /// Whether every criterion is met.
    pub fn meets_criteria(&self) -> bool {
        let correct = self.wrong == 0 && self.resurrected == 0 && self.refused == 0;
        correct && self.found_share() >= 0.99 && self.slowest_start <= crate::START
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "lives": self.lives, "answers": self.answers, "purges": self.purges, "refused": self.refused,
            "wrong": self.wrong, "resurrected": self.resurrected, "settled": self.expected,
            "found": self.found, "slowest_start_seconds": self.slowest_start.as_secs_f64(),
        })
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, wrong, resurrected, expected: settled, found, .. } = self;
        let start = self.slowest_start;
        write!(f, "{answers} responses, {wrong} wrong, {resurrected} purged ones came back, ")?;
        write!(f, "{found} of {settled} found, slowest start {start:.2?}")
    }
}
