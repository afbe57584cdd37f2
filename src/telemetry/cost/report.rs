//! What an upstream has cost, for its operator (`larder cost`, `/v1/cost`).
//!
//! Owns: the values that are shown. Never touches: their JSON (`admin`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::policy::upstream::{Cost, CostBudget, Period};
use crate::telemetry::cost::usage::UsageHistory;
use crate::telemetry::cost::utc_day::Day;
use crate::telemetry::cost::{BudgetStatus, money, standing};

/// One upstream that costs something.
#[derive(Debug, Clone, PartialEq)]
pub struct CostReport {
    /// The configured name.
    pub upstream: Arc<str>,
    /// What money is counted in.
    pub currency: String,
    /// What a credit costs.
    pub per_credit: f64,
    /// Since midnight (UTC).
    pub today: PeriodUsage,
    /// Since the first of the month (UTC).
    pub month: PeriodUsage,
    /// The budget, and how it stands; `None`: there is none.
    pub budget: Option<(CostBudget, BudgetStatus)>,
}

/// What was spent in a window, and what was not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeriodUsage {
    /// When the window began.
    pub since: SystemTime,
    /// How long it still lasts.
    pub ends_in: Duration,
    /// Calls that were made: answered, or left by a client that did not wait for the answer.
    pub calls: u64,
    /// What they cost in credits.
    pub credits: f64,
    /// What they cost.
    pub money: f64,
    /// Calls that were not made.
    pub avoided_calls: u64,
    /// What they, and calls that cost nothing, would have cost in credits.
    pub avoided_credits: f64,
    /// What they would have cost.
    pub avoided_money: f64,
}

impl CostReport {
    pub(super) fn of(book: &UsageHistory, cost: &Cost, now: SystemTime) -> Self {
        let budget = cost.budget.map(|budget| (budget, standing(book, &budget, now)));
        Self {
            upstream: Arc::clone(book.name()),
            currency: cost.currency.clone(),
            per_credit: cost.per_credit,
            today: PeriodUsage::of(book, cost, Period::Day, now),
            month: PeriodUsage::of(book, cost, Period::Month, now),
            budget,
        }
    }
}

impl PeriodUsage {
    fn of(book: &UsageHistory, cost: &Cost, period: Period, now: SystemTime) -> Self {
        let (sum, day) = (book.window(period, now), Day::of(now));
        Self {
            since: day.first(period).begin(),
            ends_in: day.next(period).begin().duration_since(now).unwrap_or_default(),
            calls: sum.calls,
            credits: sum.credits.credits(),
            money: money(sum.credits, cost),
            avoided_calls: sum.avoided_calls,
            avoided_credits: sum.avoided.credits(),
            avoided_money: money(sum.avoided, cost),
        }
    }
}
