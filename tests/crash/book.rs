//! What the clients saw, and what must be found because of it.
//!
//! Owns: the figures.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::larder::clock::monotonic;

use crate::client::Answer;
use crate::content;

/// What was stored longer ago than this must be found.
const SETTLED: Duration = Duration::from_secs(2);

/// A change that was answered longer ago than this is on disk.
const WRITTEN: Duration = Duration::from_secs(1);

/// The book of all lives.
pub struct Book {
    pages: Mutex<Vec<Page>>,
    tally: Mutex<Tally>,
}

/// What is known of one URL.
#[derive(Debug, Clone, Default)]
struct Page {
    /// Answers up to this one were purged.
    purged: u64,
    /// And up to this one so that it must last.
    lasting: u64,
    /// The changes of this life that invalidated answers up to there, and when they were answered.
    changes: Vec<(u64, Instant)>,
    /// The newest answer that was seen to be kept, and when that was seen first.
    kept: Option<(u64, Instant)>,
    /// Whether it was kept for long enough when larder was killed.
    is_settled: bool,
}

impl Page {
    fn is_gone(&mut self, upto: u64) {
        self.purged = self.purged.max(upto);
        self.kept = self.kept.filter(|(seq, _)| *seq > upto);
    }
}

/// The figures.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub lives: u64,
    pub answers: u64,
    pub purges: u64,
    pub refused: u64,
    pub wrong: u64,
    pub resurrected: u64,
    pub settled: u64,
    pub found: u64,
    pub slowest_start: Duration,
}

impl Book {
    pub fn new() -> Self {
        let pages = Mutex::new(vec![Page::default(); content::KINDS]);
        Self { pages, tally: Mutex::default() }
    }

    pub fn tally(&self) -> Tally {
        self.tally.lock().expect("nobody panics with it").clone()
    }

    /// A larder answers and its store is open.
    pub fn started(&self, within: Duration) {
        self.count(|tally| {
            tally.lives += 1;
            tally.slowest_start = tally.slowest_start.max(within);
        });
    }

    /// Up to which answer the URL was purged: to be asked before a request is sent.
    pub fn purged(&self, n: usize) -> u64 {
        self.page(n, |page| page.purged)
    }

    /// Something is on its way that may replace or remove what is kept: until its answer has come
    /// nobody knows.
    pub fn unsettle(&self, n: usize) {
        self.page(n, |page| page.kept = None);
    }

    /// An operator's purge of the answers up to this one was acknowledged: it lasts.
    pub fn was_purged(&self, n: usize, upto: u64) {
        self.page(n, |page| {
            page.lasting = page.lasting.max(upto);
            page.is_gone(upto);
        });
        self.count(|tally| tally.purges += 1);
    }

    /// A purge was not acknowledged: it would not last.
    pub fn was_refused(&self) {
        self.count(|tally| tally.refused += 1);
    }

    /// A change was answered, which invalidates the answers up to this one at once, and to last as
    /// soon as it is on disk: larder waits for that, but not for long.
    pub fn was_changed(&self, n: usize, upto: u64) {
        self.page(n, |page| {
            page.changes.push((upto, monotonic()));
            page.is_gone(upto);
        });
        self.count(|tally| tally.purges += 1);
    }

    /// A whole answer came to a request that was sent when the URL was `purged` up to there.
    pub fn came(&self, n: usize, answer: &Answer, purged: u64) {
        self.count(|tally| tally.answers += 1);
        let Some(seq) = self.judged(n, answer, purged) else { return };
        if answer.is_kept() {
            self.page(n, |page| match page.kept {
                Some((kept, _)) if kept >= seq => {}
                _ if seq <= page.purged => {}
                _ => page.kept = Some((seq, monotonic())),
            });
        }
    }

    /// What a look at the store after a start showed.
    pub fn looked(&self, n: usize, answer: &Answer) {
        let found = answer.status == 200;
        let seq = if found { self.judged(n, answer, self.purged(n)) } else { None };
        let due = self.page(n, |page| {
            let due = page.is_settled;
            // From now on this is what is kept, and for as long as before.
            let since = page.kept.map_or_else(monotonic, |(_, since)| since);
            page.kept = seq.map(|seq| (seq, since));
            due
        });
        self.count(|tally| {
            tally.settled += u64::from(due);
            tally.found += u64::from(due && found);
        });
    }

    /// Larder was killed.
    pub fn killed(&self) {
        let now = monotonic();
        for page in self.pages.lock().expect("nobody panics with it").iter_mut() {
            let before = |at: Instant| now.saturating_duration_since(at);
            page.is_settled = page.kept.is_some_and(|(_, since)| before(since) > SETTLED);
            let written = page.changes.drain(..).filter(|(_, at)| before(*at) > WRITTEN);
            page.lasting = written.fold(page.lasting, |most, (upto, _)| most.max(upto));
            page.purged = page.lasting;
        }
    }

    pub fn expects_anything(&self) -> bool {
        self.pages.lock().expect("nobody panics with it").iter().any(|page| page.is_settled)
    }

    /// The store was damaged: anything may be lost.
    pub fn expect_nothing(&self) {
        for page in self.pages.lock().expect("nobody panics with it").iter_mut() {
            page.is_settled = false;
        }
    }

    /// Counts from zero.
    pub fn begin_anew(&self) {
        *self.tally.lock().expect("nobody panics with it") = Tally::default();
    }

    /// Which answer it is, where it is right.
    fn judged(&self, n: usize, answer: &Answer, purged: u64) -> Option<u64> {
        let seq = content::seq_of(n, &answer.body).filter(|_| answer.status == 200);
        let resurrected = seq.is_some_and(|seq| seq <= purged);
        self.count(|tally| {
            tally.wrong += u64::from(seq.is_none());
            tally.resurrected += u64::from(resurrected);
        });
        seq
    }

    fn page<T>(&self, n: usize, act: impl FnOnce(&mut Page) -> T) -> T {
        act(&mut self.pages.lock().expect("nobody panics with it")[n])
    }

    fn count(&self, act: impl FnOnce(&mut Tally)) {
        act(&mut self.tally.lock().expect("nobody panics with it"));
    }
}

impl Tally {
    /// Of what must be found, how much was.
    #[expect(clippy::cast_precision_loss, reason = "a part of some thousands")]
    pub fn found_part(&self) -> f64 {
        if self.settled == 0 { 1.0 } else { self.found as f64 / self.settled as f64 }
    }

    /// Whether every figure was reached.
    pub fn is_good(&self) -> bool {
        let right = self.wrong == 0 && self.resurrected == 0 && self.refused == 0;
        right && self.found_part() >= 0.99 && self.slowest_start <= crate::START
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "lives": self.lives, "answers": self.answers, "purges": self.purges, "refused": self.refused,
            "wrong": self.wrong, "resurrected": self.resurrected, "settled": self.settled,
            "found": self.found, "slowest_start_seconds": self.slowest_start.as_secs_f64(),
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, wrong, resurrected, settled, found, .. } = self;
        let start = self.slowest_start;
        write!(f, "{answers} answers, {wrong} wrong, {resurrected} came back, ")?;
        write!(f, "{found} of {settled} found, slowest start {start:.2?}")
    }
}
