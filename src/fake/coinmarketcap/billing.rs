//! The bill: the cost of every call, by UTC day and month; and the usage that `/v1/key/info` returns.
//!
//! Owns: credits and their price. Never touches: the clock; the number of credits that a call costs.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};

use crate::fake::coinmarketcap::Plan;
use crate::fake::coinmarketcap::calendar::{day, month, next_day, next_month, stamp};

/// The cost of all calls since the fake started or was reset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Billing {
    /// Calls that cost at least one credit.
    pub calls: u64,
    /// All credits.
    pub credits: u64,
    /// The price of one credit.
    pub price_per_credit: f64,
    /// The price of all credits.
    pub price: f64,
    /// The currency of the prices.
    pub currency: &'static str,
    /// Credits by UTC day, such as `2026-10-01`.
    pub by_day: BTreeMap<String, u64>,
    /// Credits by UTC month, such as `2026-10`.
    pub by_month: BTreeMap<String, u64>,
}

/// The credits that were charged.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    price_per_credit: f64,
    calls: u64,
    by_day: BTreeMap<String, u64>,
    by_month: BTreeMap<String, u64>,
}

/// Credits used in the UTC day and month of a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BilledUsage {
    pub(super) day: u64,
    pub(super) month: u64,
}

impl Ledger {
    pub(super) fn new(price_per_credit: f64) -> Self {
        Self { price_per_credit, calls: 0, by_day: BTreeMap::new(), by_month: BTreeMap::new() }
    }

    pub(super) fn charge(&mut self, credits: u64, now: SystemTime) {
        if credits > 0 {
            self.calls += 1;
            *self.by_day.entry(day(now)).or_default() += credits;
            *self.by_month.entry(month(now)).or_default() += credits;
        }
    }

    pub(super) fn spent(&self, now: SystemTime) -> BilledUsage {
        let credits = |by_period: &BTreeMap<String, u64>, name| by_period.get(&name).copied().unwrap_or(0);
        BilledUsage { day: credits(&self.by_day, day(now)), month: credits(&self.by_month, month(now)) }
    }

    pub(super) fn bill(&self) -> Billing {
        let credits = self.by_month.values().sum();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 credits")]
        let price = credits as f64 * self.price_per_credit;
        Billing {
            calls: self.calls,
            credits,
            price_per_credit: self.price_per_credit,
            price,
            currency: "USD",
            by_day: self.by_day.clone(),
            by_month: self.by_month.clone(),
        }
    }
}

/// The data of `/v1/key/info`; `minute`: calls in the current minute.
pub(super) fn key_info(plan: Plan, minute: u64, spent: BilledUsage, now: SystemTime) -> Value {
    let left = |limit: Option<u64>, used: u64| limit.map(|limit| limit.saturating_sub(used));
    let (tomorrow, next) = (next_day(now), next_month(now));
    json!({
        "plan": {
            "credit_limit_daily": plan.day,
            "credit_limit_daily_reset": until(now, tomorrow),
            "credit_limit_daily_reset_timestamp": stamp(tomorrow),
            "credit_limit_monthly": plan.month,
            "credit_limit_monthly_reset": until(now, next),
            "credit_limit_monthly_reset_timestamp": stamp(next),
            "rate_limit_minute": plan.minute,
        },
        "usage": {
            "current_minute": { "requests_made": minute, "requests_left": left(plan.minute, minute) },
            "current_day": { "credits_used": spent.day, "credits_left": left(plan.day, spent.day) },
            "current_month": {
                "credits_used": spent.month,
                "credits_left": left(plan.month, spent.month),
            },
        },
    })
}

/// The time until a reset, such as `In 19 hours, 56 minutes`.
fn until(now: SystemTime, then: SystemTime) -> String {
    let minutes = then.duration_since(now).unwrap_or_default().as_secs() / 60;
    let (days, hours, minutes) = (minutes / 1_440, minutes / 60 % 24, minutes % 60);
    if days > 0 {
        format!("In {days} days, {hours} hours, {minutes} minutes")
    } else {
        format!("In {hours} hours, {minutes} minutes")
    }
}
