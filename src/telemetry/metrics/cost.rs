//! The metrics of what upstreams cost.
//!
//! Owns: their names and help texts. Never touches: what a call costs (`ledger`).

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Counter, CounterVec, GaugeVec, Registry};

use crate::telemetry::metrics::registry::{amounts, shares};

/// They hold for all configurations.
#[derive(Clone)]
pub(in crate::telemetry) struct CostMetrics {
    cost: CounterVec,
    avoided: CounterVec,
    credits: CounterVec,
    used: GaugeVec,
    /// The upstreams whose budgets are shown.
    shown: Arc<Mutex<Vec<Arc<str>>>>,
}

/// Those of one upstream, resolved: a hit looks nothing up.
pub(in crate::telemetry) struct CostHandles {
    money: Counter,
    avoided: Counter,
    credits: Counter,
}

impl CostMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            cost: amounts(
                r,
                "larder_cost_total",
                "What calls to origins cost, in the currency of `upstreams.*.cost`.",
                &["upstream"],
            ),
            avoided: amounts(
                r,
                "larder_cost_avoided_total",
                "What calls would have cost that were not made, or cost nothing, thanks to what is \
                 stored.",
                &["upstream"],
            ),
            credits: amounts(
                r,
                "larder_credits_total",
                "What calls to origins cost in credits.",
                &["upstream"],
            ),
            used: shares(
                r,
                "larder_budget_used_ratio",
                "The share of the budget of the current day or month that is spent.",
                &["upstream"],
            ),
            shown: Arc::default(),
        }
    }

    /// Those of an upstream.
    pub(in crate::telemetry) fn of(&self, upstream: &str) -> CostHandles {
        CostHandles {
            money: self.cost.with_label_values(&[upstream]),
            avoided: self.avoided.with_label_values(&[upstream]),
            credits: self.credits.with_label_values(&[upstream]),
        }
    }

    /// How much of their budgets these have spent, and no others. Nobody who looks meanwhile misses
    /// one.
    pub(in crate::telemetry) fn used(&self, shares: &[(Arc<str>, f64)]) {
        let mut shown = self.shown.lock();
        for gone in shown.iter().filter(|name| shares.iter().all(|(one, _)| one != *name)) {
            // It was shown: it is there.
            let _there = self.used.remove_label_values(&[&**gone]);
        }
        for (upstream, share) in shares {
            self.used.with_label_values(&[&**upstream]).set(*share);
        }
        *shown = shares.iter().map(|(upstream, _)| Arc::clone(upstream)).collect();
    }
}

impl CostHandles {
    /// A call that cost so much.
    pub(in crate::telemetry) fn spent(&self, credits: f64, money: f64) {
        self.credits.inc_by(credits);
        self.money.inc_by(money);
    }

    /// What was not spent.
    pub(in crate::telemetry) fn avoided(&self, money: f64) {
        self.avoided.inc_by(money);
    }
}
