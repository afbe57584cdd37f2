//! Budget reservations: a pending call reserves its usual cost until its actual cost is known.
//!
//! Owns: releasing a reservation exactly once, however its call ends. Never touches: the cost of a call, the
//! handling of calls for which no credits are left (`upstream::admission`).

use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::cost::credits::MicroCredits;
use crate::telemetry::cost::usage::UsageHistory;

/// Credits that are reserved for one call. Dropping the reservation releases them; the call's cost has been
/// recorded by then, or the call cost nothing.
#[derive(Debug)]
pub struct Reservation {
    history: Arc<UsageHistory>,
    price: MicroCredits,
}

/// The reason why a budget does not permit a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetShortage {
    /// The budget is spent; the period ends after this time.
    Spent(Duration),
    /// Pending calls are expected to spend all remaining credits.
    Reserved,
}

impl Reservation {
    /// Takes over credits that are already reserved in `history`.
    pub(super) fn new(history: &Arc<UsageHistory>, price: MicroCredits) -> Self {
        Self { history: Arc::clone(history), price }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.history.release(self.price);
    }
}
