//! Cost report of an upstream for operators (`larder cost`, `/v1/cost`).
//!
//! Owns: the reported values. Never touches: their JSON form (`admin`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::policy::upstream::{Cost, CostBudget, Period};
use crate::telemetry::cost::usage::UsageHistory;
use crate::telemetry::cost::utc_day::Day;
use crate::telemetry::cost::{BudgetStatus, budget_status, money};

/// The costs of one priced upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct CostReport {
    /// The configured name of the upstream.
    pub upstream: Arc<str>,
    /// The currency of all amounts of money.
    pub currency: String,
    /// The price of a credit.
    pub per_credit: f64,
    /// Usage since midnight (UTC).
    pub today: PeriodUsage,
    /// Usage since the first of the month (UTC).
    pub month: PeriodUsage,
    /// The budget and its status, if one is configured.
    pub budget: Option<(CostBudget, BudgetStatus)>,
}

/// The spent and the avoided cost in a period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeriodUsage {
    /// The start of the period.
    pub since: SystemTime,
    /// Time until the period ends.
    pub ends_in: Duration,
    /// Calls that were made, including those whose client disconnected before the response.
    pub calls: u64,
    /// The cost of the calls in credits.
    pub credits: f64,
    /// The cost of the calls in money.
    pub money: f64,
    /// Calls that were avoided.
    pub avoided_calls: u64,
    /// The avoided cost in credits: of avoided calls, and of calls without a charge.
    pub avoided_credits: f64,
    /// The avoided cost in money.
    pub avoided_money: f64,
}

impl CostReport {
    pub(super) fn new(history: &UsageHistory, cost: &Cost, now: SystemTime) -> Self {
        let budget = cost.budget.map(|budget| (budget, budget_status(history, &budget, now)));
        Self {
            upstream: Arc::clone(history.name()),
            currency: cost.currency.clone(),
            per_credit: cost.per_credit,
            today: PeriodUsage::new(history, cost, Period::Day, now),
            month: PeriodUsage::new(history, cost, Period::Month, now),
            budget,
        }
    }
}

impl PeriodUsage {
    fn new(history: &UsageHistory, cost: &Cost, period: Period, now: SystemTime) -> Self {
        let (sum, day) = (history.usage_in_period(period, now), Day::from_time(now));
        Self {
            since: day.period_start(period).start_time(),
            ends_in: day.next_period_start(period).start_time().duration_since(now).unwrap_or_default(),
            calls: sum.calls,
            credits: sum.credits.credits(),
            money: money(sum.credits, cost),
            avoided_calls: sum.avoided_calls,
            avoided_credits: sum.avoided.credits(),
            avoided_money: money(sum.avoided, cost),
        }
    }
}
