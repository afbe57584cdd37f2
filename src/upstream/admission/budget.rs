//! The budget of an upstream, seen by a call that is about to go out.
//!
//! Owns: whether it keeps the call back, and for how long. Never touches: counting (`account::ledger`),
//! waiting.

use std::time::Duration;

use crate::config::Upstream;
use crate::policy::upstream::{CostBudget, OverBudgetAction};
use crate::telemetry::cost::{BudgetShortage, Reservation};
use crate::upstream::admission::AdmissionControl;
use crate::upstream::rejection::{RejectReason, Rejection};
use crate::upstream::routing::UpstreamTarget;

impl AdmissionControl {
    /// Why the budget of an upstream keeps calls back right now, if it does.
    pub(super) fn over_budget(&self, upstream: &Upstream) -> Option<Rejection> {
        let (budget, cause) = limiting(upstream)?;
        let short = self.account.ledger().shortage(&upstream.name, budget, self.clock.now())?;
        Some(short_of(short, cause))
    }

    /// Sets aside what a call usually costs; `None`: there is no budget that keeps calls back.
    pub(super) fn reserve(&self, place: &UpstreamTarget) -> Result<Option<Reservation>, Rejection> {
        let Some(upstream) = &place.upstream else { return Ok(None) };
        let Some((budget, cause)) = limiting(upstream) else { return Ok(None) };
        let reserved = self.account.ledger().reserve(&upstream.name, budget, self.clock.now());
        reserved.map(Some).map_err(|short| short_of(short, cause))
    }
}

/// The budget of an upstream, if it keeps calls back, and the cause to name then.
fn limiting(upstream: &Upstream) -> Option<(&CostBudget, RejectReason)> {
    let budget = upstream.conduct.cost.as_ref()?.budget.as_ref()?;
    let stale = match budget.at_limit {
        OverBudgetAction::Warn => return None,
        OverBudgetAction::StaleOnly => true,
        OverBudgetAction::Refuse => false,
    };
    Some((budget, RejectReason::Budget { stale }))
}

/// Reserved credits may be free again with the next answer: as with a probe, no time is known.
fn short_of(short: BudgetShortage, cause: RejectReason) -> Rejection {
    let left = match short {
        BudgetShortage::Spent(left) => left,
        BudgetShortage::Reserved => Duration::ZERO,
    };
    Rejection { cause, left }
}
