//! The ledger: what calls to each upstream cost, day by day, and what was not spent.
//!
//! Owns: counting exactly, whatever is reloaded meanwhile; how a budget stands; the line that warns of it.
//! Never touches: what a call costs and what becomes of one that the budget forbids (`upstream::gate`),
//! where the days are kept (`store::state`).

mod codec;
mod credits;
mod report;
mod reservation;
mod usage;
mod utc_day;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::Upstream;
use crate::policy::upstream::{Cost, CostBudget, CreditSource};
use crate::telemetry::cost::credits::MicroCredits;
use crate::telemetry::cost::usage::{AlertState, UsageHistory};
use crate::telemetry::cost::utc_day::Day;
use crate::telemetry::metrics;
use crate::telemetry::metrics::cost::CostMetrics;

pub use crate::telemetry::cost::codec::UsageRow;
pub use crate::telemetry::cost::report::{CostReport, PeriodUsage};
pub use crate::telemetry::cost::reservation::{BudgetShortage, Reservation};

/// The books of all upstreams by their names, and the prices of the configuration in force.
pub struct CostTracker {
    clock: Clock,
    metrics: CostMetrics,
    books: Mutex<HashMap<Arc<str>, Arc<UsageHistory>>>,
    prices: ArcSwap<Prices>,
    /// Whether nothing costs anything: then a hit looks no further.
    free: AtomicBool,
}

/// What a configuration says about costs.
#[derive(Default)]
struct Prices {
    priced: Vec<PricedUpstream>,
    /// Whose hosts are whose, up to the last upstream that costs something.
    places: Vec<(Arc<Upstream>, Option<usize>)>,
}

/// An upstream that costs something.
struct PricedUpstream {
    book: Arc<UsageHistory>,
    cost: Cost,
    metrics: metrics::cost::CostHandles,
}

/// How a budget stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetStatus {
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

impl CostTracker {
    /// Empty books and no prices.
    pub(super) fn new(clock: Clock, metrics: CostMetrics) -> Self {
        let (books, prices, free) = (Mutex::default(), ArcSwap::default(), true.into());
        Self { clock, metrics, books, prices, free }
    }

    /// The prices and budgets of these upstreams are in force from now on, and no others.
    pub fn price(&self, upstreams: &[Arc<Upstream>]) {
        let (mut priced, mut places) = (Vec::new(), Vec::new());
        let last = upstreams.iter().rposition(|upstream| upstream.conduct.cost.is_some());
        for upstream in upstreams.iter().take(last.map_or(0, |last| last + 1)) {
            let cost = upstream.conduct.cost.clone();
            places.push((Arc::clone(upstream), cost.as_ref().map(|_| priced.len())));
            if let Some(cost) = cost {
                let book = self.book(&upstream.name);
                priced.push(PricedUpstream {
                    book,
                    cost,
                    metrics: self.metrics.of(&upstream.name),
                });
            }
        }
        self.free.store(priced.is_empty(), Ordering::Relaxed);
        self.prices.store(Arc::new(Prices { priced, places }));
    }

    /// Shows which shares of their budgets are spent.
    pub(super) fn show(&self) {
        let (prices, now) = (self.prices.load(), self.clock.now());
        let used = prices.priced.iter().filter_map(|one| {
            let share = standing(&one.book, one.cost.budget.as_ref()?, now).share;
            Some((Arc::clone(one.book.name()), share))
        });
        self.metrics.used(&used.collect::<Vec<_>>());
    }

    /// A call to an upstream that was made and cost so many credits, or none.
    pub fn spend(&self, upstream: &str, credits: f64, now: SystemTime) {
        let (prices, credits) = (self.prices.load(), MicroCredits::of(credits));
        let Some(one) = prices.find(upstream) else {
            // A reload has dropped its price while it was under way: it was paid all the same.
            return self.book(&upstream.into()).spend(credits, now);
        };
        one.book.spend(credits, now);
        one.metrics.spent(credits.credits(), one.money(credits));
        if let Some(budget) = &one.cost.budget {
            one.tell(budget, standing(&one.book, budget, now), now);
        }
    }

    /// A call that was made and cost nothing, because what is stored was confirmed: so many credits
    /// were not spent. Calls that were not made at all are counted where their answers are recorded.
    pub fn avoided(&self, upstream: &str, credits: f64, now: SystemTime) {
        let (prices, credits) = (self.prices.load(), MicroCredits::of(credits));
        let Some(one) = prices.find(upstream) else { return };
        one.book.spare(credits, now);
        one.metrics.avoided(one.money(credits));
    }

    /// What a call to an upstream costs: as configured, else as its calls cost on average so far.
    pub fn usual(&self, upstream: &str) -> f64 {
        self.prices.load().find(upstream).map_or(0.0, |one| one.usual().credits())
    }

    /// How a budget of an upstream stands.
    pub fn standing(&self, upstream: &str, budget: &CostBudget, now: SystemTime) -> BudgetStatus {
        let prices = self.prices.load();
        let Some(one) = prices.find(upstream) else {
            return standing(&self.book(&upstream.into()), budget, now);
        };
        let standing = standing(&one.book, budget, now);
        // What an earlier larder spent may be all there is.
        one.tell(budget, standing, now);
        standing
    }

    /// Sets aside what a call usually costs until its bill is known; an error: the budget has no room
    /// for it.
    pub fn reserve(
        &self,
        upstream: &str,
        budget: &CostBudget,
        now: SystemTime,
    ) -> Result<Reservation, BudgetShortage> {
        let (book, price) = match self.prices.load().find(upstream) {
            Some(one) => (Arc::clone(&one.book), one.expected()),
            None => (self.book(&upstream.into()), MicroCredits::CREDIT),
        };
        if book.reserve(price, MicroCredits::of(budget.credits), budget.period, now) {
            return Ok(Reservation::new(&book, price));
        }
        let shortage = self.shortage(upstream, budget, now);
        // A bill that came lower than expected may have made room since: the next look finds it.
        Err(shortage.unwrap_or(BudgetShortage::Reserved))
    }

    /// Why a call could not be made right now; `None`: the budget has room for it.
    pub fn shortage(
        &self,
        upstream: &str,
        budget: &CostBudget,
        now: SystemTime,
    ) -> Option<BudgetShortage> {
        let standing = self.standing(upstream, budget, now);
        if standing.spent {
            return Some(BudgetShortage::Spent(standing.ends_in));
        }
        let reserved = self.book(&upstream.into()).reserved();
        let taken = MicroCredits::of(standing.used).plus(reserved);
        (taken >= MicroCredits::of(budget.credits)).then_some(BudgetShortage::Reserved)
    }

    /// What each upstream that costs something has cost, in the order of the configuration.
    pub fn spendings(&self, now: SystemTime) -> Vec<CostReport> {
        let spending = |one: &PricedUpstream| CostReport::of(&one.book, &one.cost, now);
        self.prices.load().priced.iter().map(spending).collect()
    }

    /// An answer that needed no call of its own. On the way of every hit.
    pub(super) fn answered(&self, host: &str, port: u16) {
        if self.free.load(Ordering::Relaxed) {
            return;
        }
        let prices = self.prices.load();
        let Some(one) = prices.of_host(host, port) else { return };
        let credits = one.usual();
        one.book.avoid(credits, self.clock.now());
        one.metrics.avoided(one.money(credits));
    }

    /// Adds what an earlier larder kept; what this one has counted so far stays. Returns how many of
    /// the rows could not be read.
    pub fn restore<'a>(&self, rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> usize {
        let mut unread = 0;
        for (key, value) in rows {
            match codec::decode(key, value) {
                Some((upstream, day, sum)) => self.book(&upstream).adopt(day, sum),
                None => unread += 1,
            }
        }
        unread
    }

    /// What is to be kept that changed since this was asked last.
    pub fn changed(&self) -> Vec<UsageRow> {
        let books: Vec<_> = self.books.lock().values().cloned().collect();
        let mut rows = Vec::new();
        for book in books {
            book.changed(&mut rows);
        }
        rows
    }

    fn book(&self, upstream: &Arc<str>) -> Arc<UsageHistory> {
        let mut books = self.books.lock();
        let book = books
            .entry(Arc::clone(upstream))
            .or_insert_with(|| Arc::new(UsageHistory::new(Arc::clone(upstream))));
        Arc::clone(book)
    }
}

impl Prices {
    fn find(&self, upstream: &str) -> Option<&PricedUpstream> {
        self.priced.iter().find(|one| **one.book.name() == *upstream)
    }

    /// A host belongs to the first that names it, whether that one costs something or not.
    fn of_host(&self, host: &str, port: u16) -> Option<&PricedUpstream> {
        let own = |(upstream, _): &&(Arc<Upstream>, Option<usize>)| {
            upstream.hosts.iter().any(|named| named.host.matches(host, port))
        };
        let (_, at) = self.places.iter().find(own)?;
        self.priced.get((*at)?)
    }
}

impl PricedUpstream {
    fn usual(&self) -> MicroCredits {
        match self.cost.credits {
            CreditSource::PerCall(credits) => MicroCredits::of(credits),
            CreditSource::Header(_) | CreditSource::Body(_) => {
                self.book.usual().unwrap_or(MicroCredits::CREDIT)
            }
        }
    }

    /// The credits to set aside for a call: where prices are learned, one at least.
    fn expected(&self) -> MicroCredits {
        match self.cost.credits {
            CreditSource::PerCall(_) => self.usual(),
            CreditSource::Header(_) | CreditSource::Body(_) => {
                self.usual().max(MicroCredits::CREDIT)
            }
        }
    }

    fn money(&self, credits: MicroCredits) -> f64 {
        money(credits, &self.cost)
    }

    /// Warns once in each window when the budget nears its end, and once when it is spent.
    fn tell(&self, budget: &CostBudget, standing: BudgetStatus, now: SystemTime) {
        if !standing.warn && !standing.spent {
            return;
        }
        let window = Day::of(now).first(budget.period);
        let told =
            AlertState { window, budget: MicroCredits::of(budget.credits), spent: standing.spent };
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

fn money(credits: MicroCredits, cost: &Cost) -> f64 {
    (credits.credits() * cost.per_credit).max(0.0)
}

fn standing(book: &UsageHistory, budget: &CostBudget, now: SystemTime) -> BudgetStatus {
    let used = book.window(budget.period, now).credits;
    let all = MicroCredits::of(budget.credits);
    let share = if all > MicroCredits::default() { used.credits() / all.credits() } else { 1.0 };
    let end = Day::of(now).next(budget.period).begin();
    BudgetStatus {
        used: used.credits(),
        share,
        spent: used >= all,
        warn: share >= budget.warn_at,
        ends_in: end.duration_since(now).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
