//! Cost tracking: the daily cost of the calls to each upstream, and the avoided cost.
//!
//! Owns: exact counts, also across reloads; the status of budgets; the log line that warns about them.
//! Never touches: the cost of a call and the handling of calls that exceed the budget
//! (`upstream::admission`), the persistence of the daily usage (`store::state_db`).

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

pub use crate::telemetry::cost::codec::StateRow;
pub use crate::telemetry::cost::report::{CostReport, PeriodUsage};
pub use crate::telemetry::cost::reservation::{BudgetShortage, Reservation};

/// The usage histories of all upstreams by name, and the prices of the current configuration.
pub struct CostTracker {
    clock: Clock,
    metrics: CostMetrics,
    histories: Mutex<HashMap<Arc<str>, Arc<UsageHistory>>>,
    prices: ArcSwap<Prices>,
    /// Whether no upstream has a price. Hits then skip the cost tracking.
    free: AtomicBool,
}

/// The cost settings of a configuration.
#[derive(Default)]
struct Prices {
    priced: Vec<PricedUpstream>,
    /// All upstreams up to the last priced one, in order, for the lookup by host; the index points into
    /// `priced`.
    host_table: Vec<(Arc<Upstream>, Option<usize>)>,
}

/// An upstream with a price.
struct PricedUpstream {
    history: Arc<UsageHistory>,
    cost: Cost,
    metrics: metrics::cost::CostHandles,
}

/// The status of a budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetStatus {
    /// Credits spent in the current period.
    pub used: f64,
    /// The spent share of the budget; above 1 if the budget is exceeded.
    pub share: f64,
    /// Whether the budget is spent completely.
    pub spent: bool,
    /// Whether the share has reached `warn_at`.
    pub warn: bool,
    /// Time until the period ends.
    pub ends_in: Duration,
}

impl CostTracker {
    /// Creates a tracker without usage and prices.
    pub(super) fn new(clock: Clock, metrics: CostMetrics) -> Self {
        let (histories, prices, free) = (Mutex::default(), ArcSwap::default(), true.into());
        Self { clock, metrics, histories, prices, free }
    }

    /// Replaces all prices and budgets by those of these upstreams.
    pub fn set_prices(&self, upstreams: &[Arc<Upstream>]) {
        let (mut priced, mut host_table) = (Vec::new(), Vec::new());
        let last = upstreams.iter().rposition(|upstream| upstream.policy.cost.is_some());
        for upstream in upstreams.iter().take(last.map_or(0, |last| last + 1)) {
            let cost = upstream.policy.cost.clone();
            host_table.push((Arc::clone(upstream), cost.as_ref().map(|_| priced.len())));
            if let Some(cost) = cost {
                let history = self.history(&upstream.name);
                priced.push(PricedUpstream {
                    history,
                    cost,
                    metrics: self.metrics.for_upstream(&upstream.name),
                });
            }
        }
        self.free.store(priced.is_empty(), Ordering::Relaxed);
        self.prices.store(Arc::new(Prices { priced, host_table }));
    }

    /// Updates the metrics of the spent budget shares.
    pub(super) fn update_budget_metrics(&self) {
        let (prices, now) = (self.prices.load(), self.clock.now());
        let used = prices.priced.iter().filter_map(|priced| {
            let share = budget_status(&priced.history, priced.cost.budget.as_ref()?, now).share;
            Some((Arc::clone(priced.history.name()), share))
        });
        self.metrics.set_used(&used.collect::<Vec<_>>());
    }

    /// Records a call to an upstream and its cost, which may be zero.
    pub fn spend(&self, upstream: &str, credits: f64, now: SystemTime) {
        let (prices, credits) = (self.prices.load(), MicroCredits::from_credits(credits));
        let Some(entry) = prices.find(upstream) else {
            // A reload removed the price during the call; the call cost credits nevertheless.
            return self.history(&upstream.into()).spend(credits, now);
        };
        entry.history.spend(credits, now);
        entry.metrics.spent(credits.credits(), entry.money(credits));
        if let Some(budget) = &entry.cost.budget {
            entry.warn_if_due(budget, budget_status(&entry.history, budget, now), now);
        }
    }

    /// Records a call that cost nothing because the origin confirmed the stored response; `credits` is the
    /// avoided cost. `record_avoided_call` records requests that needed no call.
    pub fn record_free_call(&self, upstream: &str, credits: f64, now: SystemTime) {
        let (prices, credits) = (self.prices.load(), MicroCredits::from_credits(credits));
        let Some(entry) = prices.find(upstream) else { return };
        entry.history.add_free_call(credits, now);
        entry.metrics.avoided(entry.money(credits));
    }

    /// The usual cost of a call to an upstream: the configured one, else the average of its calls so far.
    pub fn usual_cost(&self, upstream: &str) -> f64 {
        self.prices.load().find(upstream).map_or(0.0, |priced| priced.usual_cost().credits())
    }

    /// The status of an upstream's budget. Logs a warning if one is due.
    pub fn budget_status(&self, upstream: &str, budget: &CostBudget, now: SystemTime) -> BudgetStatus {
        let prices = self.prices.load();
        let Some(entry) = prices.find(upstream) else {
            return budget_status(&self.history(&upstream.into()), budget, now);
        };
        let status = budget_status(&entry.history, budget, now);
        // The restored usage of an earlier larder may already exceed a threshold.
        entry.warn_if_due(budget, status, now);
        status
    }

    /// Reserves the usual cost of a call until its actual cost is known. Fails if the budget has no credits
    /// left for the call.
    pub fn reserve(
        &self,
        upstream: &str,
        budget: &CostBudget,
        now: SystemTime,
    ) -> Result<Reservation, BudgetShortage> {
        let (history, price) = match self.prices.load().find(upstream) {
            Some(priced) => (Arc::clone(&priced.history), priced.expected()),
            None => (self.history(&upstream.into()), MicroCredits::CREDIT),
        };
        if history.reserve(price, MicroCredits::from_credits(budget.credits), budget.period, now) {
            return Ok(Reservation::new(&history, price));
        }
        let shortage = self.shortage(upstream, budget, now);
        // A call may have cost less than expected in the meantime; the next attempt finds the free credits.
        Err(shortage.unwrap_or(BudgetShortage::Reserved))
    }

    /// The reason why the budget does not permit a call now; `None` if it does.
    pub fn shortage(&self, upstream: &str, budget: &CostBudget, now: SystemTime) -> Option<BudgetShortage> {
        let status = self.budget_status(upstream, budget, now);
        if status.spent {
            return Some(BudgetShortage::Spent(status.ends_in));
        }
        let reserved = self.history(&upstream.into()).reserved();
        let used_or_reserved = MicroCredits::from_credits(status.used).plus(reserved);
        (used_or_reserved >= MicroCredits::from_credits(budget.credits)).then_some(BudgetShortage::Reserved)
    }

    /// The cost reports of all priced upstreams, in the order of the configuration.
    pub fn reports(&self, now: SystemTime) -> Vec<CostReport> {
        let report = |upstream: &PricedUpstream| CostReport::new(&upstream.history, &upstream.cost, now);
        self.prices.load().priced.iter().map(report).collect()
    }

    /// Records a response that needed no call of its own. Runs for every hit.
    pub(super) fn record_avoided_call(&self, host: &str, port: u16) {
        if self.free.load(Ordering::Relaxed) {
            return;
        }
        let prices = self.prices.load();
        let Some(entry) = prices.find_by_host(host, port) else { return };
        let credits = entry.usual_cost();
        entry.history.add_avoided_call(credits, self.clock.now());
        entry.metrics.avoided(entry.money(credits));
    }

    /// Adds the persisted usage of an earlier larder to the usage so far. Returns the number of unreadable
    /// rows.
    pub fn restore<'a>(&self, rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> usize {
        let mut unreadable = 0;
        for (key, value) in rows {
            match codec::decode(key, value) {
                Some((upstream, day, sum)) => self.history(&upstream).add_restored(day, sum),
                None => unreadable += 1,
            }
        }
        unreadable
    }

    /// The rows to persist that changed since the last call of this method.
    pub fn take_changed_rows(&self) -> Vec<StateRow> {
        let histories: Vec<_> = self.histories.lock().values().cloned().collect();
        let mut rows = Vec::new();
        for history in histories {
            history.take_changed_rows(&mut rows);
        }
        rows
    }

    fn history(&self, upstream: &Arc<str>) -> Arc<UsageHistory> {
        let mut histories = self.histories.lock();
        let history = histories
            .entry(Arc::clone(upstream))
            .or_insert_with(|| Arc::new(UsageHistory::new(Arc::clone(upstream))));
        Arc::clone(history)
    }
}

impl Prices {
    fn find(&self, upstream: &str) -> Option<&PricedUpstream> {
        self.priced.iter().find(|priced| **priced.history.name() == *upstream)
    }

    /// The priced upstream of a host. The first upstream that names the host counts, priced or not.
    fn find_by_host(&self, host: &str, port: u16) -> Option<&PricedUpstream> {
        let names_host = |(upstream, _): &&(Arc<Upstream>, Option<usize>)| {
            upstream.hosts.iter().any(|named| named.host.matches(host, port))
        };
        let (_, index) = self.host_table.iter().find(names_host)?;
        self.priced.get((*index)?)
    }
}

impl PricedUpstream {
    fn usual_cost(&self) -> MicroCredits {
        match self.cost.credits {
            CreditSource::PerCall(credits) => MicroCredits::from_credits(credits),
            CreditSource::Header(_) | CreditSource::Body(_) => {
                self.history.average_cost().unwrap_or(MicroCredits::CREDIT)
            }
        }
    }

    /// The credits to reserve for a call; at least one if the price is learned from responses.
    fn expected(&self) -> MicroCredits {
        match self.cost.credits {
            CreditSource::PerCall(_) => self.usual_cost(),
            CreditSource::Header(_) | CreditSource::Body(_) => self.usual_cost().max(MicroCredits::CREDIT),
        }
    }

    fn money(&self, credits: MicroCredits) -> f64 {
        money(credits, &self.cost)
    }

    /// Logs a warning once per period when the budget is nearly spent, and once when it is spent.
    fn warn_if_due(&self, budget: &CostBudget, status: BudgetStatus, now: SystemTime) {
        if !status.warn && !status.spent {
            return;
        }
        let window = Day::from_time(now).period_start(budget.period);
        let alert = AlertState {
            period_start: window,
            budget: MicroCredits::from_credits(budget.credits),
            spent: status.spent,
        };
        if !self.history.record_alert(alert) {
            return;
        }
        let (upstream, used, credits) = (&**self.history.name(), status.used, budget.credits);
        let (period, at_limit) = (budget.period.token(), budget.at_limit.token());
        let seconds_left = status.ends_in.as_secs();
        if status.spent {
            tracing::warn!(upstream, used, credits, period, at_limit, seconds_left, "Budget spent");
        } else {
            tracing::warn!(upstream, used, credits, period, at_limit, seconds_left, "Budget nearly spent");
        }
    }
}

fn money(credits: MicroCredits, cost: &Cost) -> f64 {
    (credits.credits() * cost.per_credit).max(0.0)
}

fn budget_status(history: &UsageHistory, budget: &CostBudget, now: SystemTime) -> BudgetStatus {
    let used = history.usage_in_period(budget.period, now).credits;
    let total = MicroCredits::from_credits(budget.credits);
    let share = if total > MicroCredits::default() { used.credits() / total.credits() } else { 1.0 };
    let end = Day::from_time(now).next_period_start(budget.period).start_time();
    BudgetStatus {
        used: used.credits(),
        share,
        spent: used >= total,
        warn: share >= budget.warn_at,
        ends_in: end.duration_since(now).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
