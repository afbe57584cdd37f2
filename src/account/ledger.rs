//! The ledger: what calls to each upstream cost, day by day, and what was not spent.
//!
//! Owns: counting exactly, whatever is reloaded meanwhile; how a budget stands; the line that warns of it.
//! Never touches: what a call costs and what becomes of one that the budget forbids (`upstream::gate`),
//! where the days are kept (`store::state`).

mod book;
mod calendar;
mod row;
mod spending;
mod sum;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::account::ledger::book::{Book, Told};
use crate::account::ledger::calendar::Day;
use crate::account::ledger::sum::Micros;
use crate::account::metrics;
use crate::clock::Clock;
use crate::config::Upstream;
use crate::policy::conduct::{Budget, Cost, Credits};

pub use crate::account::ledger::row::Row;
pub use crate::account::ledger::spending::{Spending, Spent};

/// The ledger under the prices of one configuration. All configurations of a process count in the same
/// books, by the names of upstreams.
pub struct Ledger {
    books: Arc<Books>,
    priced: Vec<Priced>,
    /// Whose hosts are whose, up to the last upstream that costs something.
    places: Vec<(Arc<Upstream>, Option<usize>)>,
}

/// What outlives a configuration.
struct Books {
    clock: Clock,
    by_name: Mutex<HashMap<Arc<str>, Arc<Book>>>,
    /// The budgets of the configuration in force.
    budgets: Mutex<Vec<(Arc<Book>, Budget)>>,
}

/// An upstream that costs something.
struct Priced {
    book: Arc<Book>,
    cost: Cost,
    metrics: metrics::cost::Cost,
}

/// How a budget stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Credits that were spent in the window.
    pub used: f64,
    /// The share of the budget that they are; above 1 when more was spent.
    pub share: f64,
    /// Whether nothing of it is left.
    pub spent: bool,
    /// Whether it is time to warn: `warn_at` is reached.
    pub warn: bool,
    /// How long the window still lasts.
    pub ends_in: Duration,
}

impl Ledger {
    /// Empty books and no prices.
    pub(super) fn new(clock: Clock) -> Self {
        let (by_name, budgets) = (Mutex::default(), Mutex::default());
        let books = Arc::new(Books { clock, by_name, budgets });
        Self { books, priced: Vec::new(), places: Vec::new() }
    }

    /// The same books under the prices of these upstreams.
    pub(super) fn priced(&self, upstreams: &[Arc<Upstream>], costs: &metrics::cost::Costs) -> Self {
        let (mut priced, mut places) = (Vec::new(), Vec::new());
        let last = upstreams.iter().rposition(|upstream| upstream.conduct.cost.is_some());
        for upstream in upstreams.iter().take(last.map_or(0, |last| last + 1)) {
            let cost = upstream.conduct.cost.clone();
            places.push((Arc::clone(upstream), cost.as_ref().map(|_| priced.len())));
            if let Some(cost) = cost {
                let (book, metrics) = (self.books.of(&upstream.name), costs.of(&upstream.name));
                priced.push(Priced { book, cost, metrics });
            }
        }
        Self { books: Arc::clone(&self.books), priced, places }
    }

    /// The budgets of this configuration are the ones that count from now on.
    pub(super) fn in_force(&self) {
        let budget = |one: &Priced| Some((Arc::clone(&one.book), one.cost.budget?));
        *self.books.budgets.lock() = self.priced.iter().filter_map(budget).collect();
    }

    /// The shares of the budgets in force that are spent.
    pub(super) fn used(&self) -> Vec<(Arc<str>, f64)> {
        let now = self.books.clock.now();
        let budgets = self.books.budgets.lock();
        let used = |(book, budget): &(Arc<Book>, Budget)| {
            (Arc::clone(book.name()), standing(book, budget, now).share)
        };
        budgets.iter().map(used).collect()
    }

    /// A call to an upstream that was answered and cost so many credits, or none.
    pub fn spend(&self, upstream: &str, credits: f64, now: SystemTime) {
        let Some(one) = self.find(upstream) else { return };
        let credits = Micros::of(credits);
        one.book.spend(credits, now);
        one.metrics.spent(credits.credits(), one.money(credits));
        if let Some(budget) = &one.cost.budget {
            one.told(budget, standing(&one.book, budget, now), now);
        }
    }

    /// A call that was made and cost nothing, because what is stored was confirmed: so many credits were
    /// not spent. Calls that were not made at all are counted where their answers are recorded.
    pub fn avoided(&self, upstream: &str, credits: f64, now: SystemTime) {
        let Some(one) = self.find(upstream) else { return };
        let credits = Micros::of(credits);
        one.book.spare(credits, now);
        one.metrics.avoided(one.money(credits));
    }

    /// What a call to an upstream costs: as configured, else as its calls cost on average so far.
    pub fn usual(&self, upstream: &str) -> f64 {
        self.find(upstream).map_or(0.0, |one| one.usual().credits())
    }

    /// How a budget of an upstream stands.
    pub fn standing(&self, upstream: &str, budget: &Budget, now: SystemTime) -> Standing {
        let Some(one) = self.find(upstream) else {
            return of_window(Micros::default(), budget, now);
        };
        let standing = standing(&one.book, budget, now);
        // What an earlier larder spent may be all there is.
        one.told(budget, standing, now);
        standing
    }

    /// What each upstream that costs something has cost, in the order of the configuration.
    pub fn spendings(&self, now: SystemTime) -> Vec<Spending> {
        let spending = |one: &Priced| Spending::of(&one.book, &one.cost, now);
        self.priced.iter().map(spending).collect()
    }

    /// An answer that needed no call of its own.
    pub(super) fn answered(&self, host: &str, port: u16) {
        let own = |(upstream, _): &&(Arc<Upstream>, Option<usize>)| {
            upstream.hosts.iter().any(|named| named.host.matches(host, port))
        };
        // A host belongs to the first that names it, whether that one costs something or not.
        let place = self.places.iter().find(own);
        let Some(one) = place.and_then(|(_, at)| self.priced.get((*at)?)) else { return };
        let credits = one.usual();
        one.book.avoid(credits, self.books.clock.now());
        one.metrics.avoided(one.money(credits));
    }

    /// Whether nothing costs anything.
    pub(super) fn is_free(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds what an earlier larder kept; what this one has counted so far stays. Returns how many of the
    /// rows could not be read.
    pub fn restore<'a>(&self, rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> usize {
        let mut unread = 0;
        for (key, value) in rows {
            match row::decode(key, value) {
                Some((upstream, day, sum)) => self.books.of(&upstream).adopt(day, sum),
                None => unread += 1,
            }
        }
        unread
    }

    /// What is to be kept that changed since this was asked last.
    pub fn changed(&self) -> Vec<Row> {
        let books: Vec<_> = self.books.by_name.lock().values().cloned().collect();
        let mut rows = Vec::new();
        for book in books {
            book.changed(&mut rows);
        }
        rows
    }

    fn find(&self, upstream: &str) -> Option<&Priced> {
        self.priced.iter().find(|one| **one.book.name() == *upstream)
    }
}

impl Books {
    fn of(&self, upstream: &Arc<str>) -> Arc<Book> {
        let mut by_name = self.by_name.lock();
        let book = by_name
            .entry(Arc::clone(upstream))
            .or_insert_with(|| Arc::new(Book::new(Arc::clone(upstream))));
        Arc::clone(book)
    }
}

impl Priced {
    fn usual(&self) -> Micros {
        match self.cost.credits {
            Credits::PerCall(credits) => Micros::of(credits),
            Credits::Header(_) | Credits::Body(_) => self.book.usual().unwrap_or(Micros::CREDIT),
        }
    }

    fn money(&self, credits: Micros) -> f64 {
        money(credits, &self.cost)
    }

    /// Warns once in each window when the budget nears its end, and once when it is spent.
    fn told(&self, budget: &Budget, standing: Standing, now: SystemTime) {
        if !standing.warn && !standing.spent {
            return;
        }
        let window = Day::of(now).first(budget.period);
        let told = Told { window, budget: Micros::of(budget.credits), spent: standing.spent };
        if !self.book.tell(told) {
            return;
        }
        let (upstream, used, credits) = (&**self.book.name(), standing.used, budget.credits);
        let (period, at_limit) = (budget.period.token(), budget.at_limit.token());
        let seconds_left = standing.ends_in.as_secs();
        if standing.spent {
            tracing::warn!(upstream, used, credits, period, at_limit, seconds_left, "Budget spent");
        } else {
            tracing::warn!(
                upstream,
                used,
                credits,
                period,
                at_limit,
                seconds_left,
                "Budget nearly spent"
            );
        }
    }
}

fn money(credits: Micros, cost: &Cost) -> f64 {
    (credits.credits() * cost.per_credit).max(0.0)
}

fn standing(book: &Book, budget: &Budget, now: SystemTime) -> Standing {
    of_window(book.window(budget.period, now).credits, budget, now)
}

fn of_window(used: Micros, budget: &Budget, now: SystemTime) -> Standing {
    let all = Micros::of(budget.credits);
    let share = if all > Micros::default() { used.credits() / all.credits() } else { 1.0 };
    let end = Day::of(now).next(budget.period).begin();
    Standing {
        used: used.credits(),
        share,
        spent: used >= all,
        warn: share >= budget.warn_at,
        ends_in: end.duration_since(now).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
