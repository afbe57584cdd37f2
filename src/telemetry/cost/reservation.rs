//! Reservations: calls under way set their usual price aside until their bills are known.
//!
//! Owns: that a reservation is released once, however its call ends. Never touches: how much a call
//! costs, what becomes of a call for which nothing is left (`upstream::gate`).

use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::cost::credits::MicroCredits;
use crate::telemetry::cost::usage::UsageHistory;

/// Credits that are set aside for one call. Dropped, they are free again: the call's bill is in the book
/// by then, or the call cost nothing.
#[derive(Debug)]
pub struct Reservation {
    book: Arc<UsageHistory>,
    price: MicroCredits,
}

/// Why a call may not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetShortage {
    /// The budget is spent; its window ends in so long.
    Spent(Duration),
    /// The calls under way are expected to spend all that is left.
    Reserved,
}

impl Reservation {
    /// Credits that `book` has set aside already.
    pub(super) fn new(book: &Arc<UsageHistory>, price: MicroCredits) -> Self {
        Self { book: Arc::clone(book), price }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.book.release(self.price);
    }
}
