//! The budget of an upstream, checked before a call goes out.
//!
//! Owns: whether the budget blocks the call, and for how long. Never touches: counting credits
//! (`telemetry::cost`), waiting.

use std::time::Duration;

use crate::config::Upstream;
use crate::policy::upstream::{CostBudget, OverBudgetAction};
use crate::telemetry::cost::{BudgetShortage, Reservation};
use crate::upstream::admission::AdmissionControl;
use crate::upstream::admission::rejection::{RejectReason, Rejection};
use crate::upstream::routing::UpstreamTarget;

impl AdmissionControl {
    /// The rejection by the budget of an upstream, if it blocks calls right now.
    pub(super) fn over_budget(&self, upstream: &Upstream) -> Option<Rejection> {
        let (budget, reason) = limiting(upstream)?;
        let shortage = self.telemetry.cost().shortage(&upstream.name, budget, self.clock.now())?;
        Some(budget_rejection(shortage, reason))
    }

    /// Reserves the usual cost of a call. `None`: the upstream has no budget that blocks calls.
    pub(super) fn reserve(&self, target: &UpstreamTarget) -> Result<Option<Reservation>, Rejection> {
        let Some(upstream) = &target.upstream else { return Ok(None) };
        let Some((budget, reason)) = limiting(upstream) else { return Ok(None) };
        let reserved = self.telemetry.cost().reserve(&upstream.name, budget, self.clock.now());
        reserved.map(Some).map_err(|shortage| budget_rejection(shortage, reason))
    }
}

/// The budget of an upstream and the reason for rejections, if the budget blocks calls.
fn limiting(upstream: &Upstream) -> Option<(&CostBudget, RejectReason)> {
    let budget = upstream.policy.cost.as_ref()?.budget.as_ref()?;
    let stale = match budget.at_limit {
        OverBudgetAction::Warn => return None,
        OverBudgetAction::StaleOnly => true,
        OverBudgetAction::Refuse => false,
    };
    Some((budget, RejectReason::Budget { stale }))
}

/// Reserved credits may be released by the next response. As with a probe, the time is unknown.
fn budget_rejection(shortage: BudgetShortage, reason: RejectReason) -> Rejection {
    let left = match shortage {
        BudgetShortage::Spent(left) => left,
        BudgetShortage::Reserved => Duration::ZERO,
    };
    Rejection { reason, left }
}
