//! The budget of an upstream, seen by a call that is about to go out.
//!
//! Owns: whether it keeps the call back, and for how long. Never touches: counting (`account::ledger`),
//! waiting.

use std::time::Duration;

use crate::account::ledger::{Reservation, Shortage};
use crate::config::Upstream;
use crate::policy::conduct::{AtLimit, Budget};
use crate::upstream::gate::Gate;
use crate::upstream::held::{Cause, Held};
use crate::upstream::place::Place;

impl Gate {
    /// Why the budget of an upstream keeps calls back right now, if it does.
    pub(super) fn over_budget(&self, upstream: &Upstream) -> Option<Held> {
        let (budget, cause) = limiting(upstream)?;
        let short = self.account.ledger().shortage(&upstream.name, budget, self.clock.now())?;
        Some(short_of(short, cause))
    }

    /// Sets aside what a call usually costs; `None`: there is no budget that keeps calls back.
    pub(super) fn reserve(&self, place: &Place) -> Result<Option<Reservation>, Held> {
        let Some(upstream) = &place.upstream else { return Ok(None) };
        let Some((budget, cause)) = limiting(upstream) else { return Ok(None) };
        let reserved = self.account.ledger().reserve(&upstream.name, budget, self.clock.now());
        reserved.map(Some).map_err(|short| short_of(short, cause))
    }
}

/// The budget of an upstream, if it keeps calls back, and the cause to name then.
fn limiting(upstream: &Upstream) -> Option<(&Budget, Cause)> {
    let budget = upstream.conduct.cost.as_ref()?.budget.as_ref()?;
    let stale = match budget.at_limit {
        AtLimit::Warn => return None,
        AtLimit::StaleOnly => true,
        AtLimit::Refuse => false,
    };
    Some((budget, Cause::Budget { stale }))
}

/// Reserved credits may be free again with the next answer: as with a probe, no time is known.
fn short_of(short: Shortage, cause: Cause) -> Held {
    let left = match short {
        Shortage::Spent(left) => left,
        Shortage::Reserved => Duration::ZERO,
    };
    Held { cause, left }
}
