//! The metrics of upstream costs.
//!
//! Owns: their names and help texts. Never touches: the cost of a call (`telemetry::cost`).

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Counter, CounterVec, GaugeVec, Registry};

use crate::telemetry::metrics::registry::{float_counters, float_gauges};

/// The cost metrics, shared by all configurations.
#[derive(Clone)]
pub(in crate::telemetry) struct CostMetrics {
    cost: CounterVec,
    avoided: CounterVec,
    credits: CounterVec,
    used: GaugeVec,
    /// The upstreams that have a budget gauge.
    with_budget: Arc<Mutex<Vec<Arc<str>>>>,
}

/// The resolved handles of one upstream, so that a hit needs no lookup.
pub(in crate::telemetry) struct CostHandles {
    money: Counter,
    avoided: Counter,
    credits: Counter,
}

impl CostMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            cost: float_counters(
                r,
                "larder_cost_total",
                "Cost of calls to origins, in the currency of `upstreams.*.cost`.",
                &["upstream"],
            ),
            avoided: float_counters(
                r,
                "larder_cost_avoided_total",
                "Cost of calls that were avoided, or were free of charge, because of a stored response.",
                &["upstream"],
            ),
            credits: float_counters(
                r,
                "larder_credits_total",
                "Cost of calls to origins, in credits.",
                &["upstream"],
            ),
            used: float_gauges(
                r,
                "larder_budget_used_ratio",
                "Spent share of the budget of the current day or month.",
                &["upstream"],
            ),
            with_budget: Arc::default(),
        }
    }

    /// The handles of an upstream.
    pub(in crate::telemetry) fn for_upstream(&self, upstream: &str) -> CostHandles {
        CostHandles {
            money: self.cost.with_label_values(&[upstream]),
            avoided: self.avoided.with_label_values(&[upstream]),
            credits: self.credits.with_label_values(&[upstream]),
        }
    }

    /// Sets the spent shares of the budgets and removes the gauges of all other upstreams. A concurrent
    /// rendering always contains the gauges that stay.
    pub(in crate::telemetry) fn set_used(&self, shares: &[(Arc<str>, f64)]) {
        let mut with_budget = self.with_budget.lock();
        for removed in with_budget.iter().filter(|name| shares.iter().all(|(one, _)| one != *name)) {
            // The gauge exists, so removing it does not fail.
            let _removed = self.used.remove_label_values(&[&**removed]);
        }
        for (upstream, share) in shares {
            self.used.with_label_values(&[&**upstream]).set(*share);
        }
        *with_budget = shares.iter().map(|(upstream, _)| Arc::clone(upstream)).collect();
    }
}

impl CostHandles {
    /// Records a call with this cost.
    pub(in crate::telemetry) fn spent(&self, credits: f64, money: f64) {
        self.credits.inc_by(credits);
        self.money.inc_by(money);
    }

    /// Records avoided cost.
    pub(in crate::telemetry) fn avoided(&self, money: f64) {
        self.avoided.inc_by(money);
    }
}
