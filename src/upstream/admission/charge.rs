//! The price of one call: set aside while the call is under way, then in the books.
//!
//! Owns: that each call is in the books once, however it ends. Never touches: how an answer tells its
//! price (`bill`), the books (`account::ledger`).

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::config::Upstream;
use crate::policy::upstream::CreditSource;
use crate::telemetry::cost::Reservation;
use crate::upstream::admission::AdmissionControl;
use crate::upstream::admission::state::UpstreamState;
use crate::upstream::credit_cost;

/// A call that costs one of so many parts of a budget is on disk at once: of a small budget, a crash
/// forgets none.
const A_PART: f64 = 64.0;

/// The price of one call. Dropped, it is in the books if an answer to use has begun.
pub(super) struct CallCharge {
    gate: AdmissionControl,
    upstream: Option<Arc<Upstream>>,
    reserved: Option<ReservedCredits>,
    due: PriceState,
}

/// How far the price is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PriceState {
    /// No answer came so far.
    Nothing,
    /// Nor need one be heard: who asked has left, and the API charges all the same.
    Left,
    /// The head of an answer came, and its body will tell the price. `ok`: it is an answer to use.
    Unread { ok: bool },
    /// It is in the books.
    Settled,
}

/// Credits that are set aside, and the calls that wait for what is left.
pub(super) struct ReservedCredits {
    /// `None` once it is released.
    reservation: Option<Reservation>,
    traffic: Arc<UpstreamState>,
}

impl ReservedCredits {
    pub(super) fn new(reservation: Reservation, traffic: &Arc<UpstreamState>) -> Self {
        Self { reservation: Some(reservation), traffic: Arc::clone(traffic) }
    }
}

impl Drop for ReservedCredits {
    fn drop(&mut self) {
        // First the release, then the news of it: a call that looks again finds the room.
        self.reservation = None;
        self.traffic.eased.notify_waiters();
    }
}

impl CallCharge {
    pub(super) fn new(
        gate: AdmissionControl,
        upstream: Option<Arc<Upstream>>,
        reserved: Option<ReservedCredits>,
    ) -> Self {
        Self { gate, upstream, reserved, due: PriceState::Nothing }
    }

    /// The head of the answer came, and its body, if it is read at all: `json`. Its price is what they
    /// tell; where neither can be read, an answer to use costs what calls usually cost.
    pub(super) fn answered(
        &mut self,
        status: StatusCode,
        ok: bool,
        headers: &HeaderMap,
        json: Option<&Value>,
    ) {
        let upstream = self.upstream.clone();
        let Some(cost) = upstream.as_ref().and_then(|one| one.conduct.cost.as_ref()) else {
            return;
        };
        if self.due == PriceState::Settled {
            return;
        }
        if status == StatusCode::NOT_MODIFIED && !cost.not_modified {
            self.spare();
        } else if json.is_none() && matches!(cost.credits, CreditSource::Body(_)) {
            self.due = PriceState::Unread { ok };
            self.unread();
        } else {
            let credits = credit_cost::credits(cost, ok, headers, json);
            self.spend(credits.unwrap_or_default());
        }
    }

    /// The head of the answer came; if the price stands in its body, that will be read as it passes.
    pub(super) fn begun(&mut self, status: StatusCode, ok: bool, headers: &HeaderMap) {
        let cost = self.upstream.as_ref().and_then(|one| one.conduct.cost.as_ref());
        let in_body = cost.is_some_and(|cost| matches!(cost.credits, CreditSource::Body(_)));
        let free = status == StatusCode::NOT_MODIFIED;
        if in_body && !free && self.due != PriceState::Settled {
            self.due = PriceState::Unread { ok };
        } else {
            self.answered(status, ok, headers, None);
        }
    }

    /// The body of the answer was not read to its end, or not understood, and will not be.
    pub(super) fn unread(&mut self) {
        if let PriceState::Unread { ok } = self.due {
            let usual = self.usual().filter(|_| ok);
            self.spend(usual.unwrap_or_default());
        }
    }

    /// All of the request was sent, and whoever asked is gone: unless an answer tells another price, the
    /// call costs the usual one.
    pub(super) fn left(&mut self) {
        if self.due == PriceState::Nothing {
            self.due = PriceState::Left;
        }
    }

    /// No answer came: the call costs nothing.
    pub(super) fn failed(&mut self) {
        if self.due == PriceState::Nothing {
            self.settled();
        }
    }

    /// The usual price of a call; `None`: calls to this upstream are not counted.
    fn usual(&self) -> Option<f64> {
        let upstream = self.upstream.as_ref().filter(|one| one.conduct.cost.is_some())?;
        Some(self.gate.account.ledger().usual(&upstream.name))
    }

    fn spend(&mut self, credits: f64) {
        let Some(upstream) = &self.upstream else { return };
        let now = self.gate.clock.now();
        self.gate.account.ledger().spend(&upstream.name, credits, now);
        let budget = upstream.conduct.cost.as_ref().and_then(|cost| cost.budget);
        if budget.is_some_and(|budget| credits * A_PART >= budget.credits) {
            self.gate.traffics.nudge();
        }
        self.settled();
    }

    /// The call confirmed what is stored, at no cost.
    fn spare(&mut self) {
        let Some(upstream) = &self.upstream else { return };
        let (ledger, now) = (self.gate.account.ledger(), self.gate.clock.now());
        ledger.avoided(&upstream.name, ledger.usual(&upstream.name), now);
        self.settled();
    }

    fn settled(&mut self) {
        self.due = PriceState::Settled;
        self.reserved = None;
    }
}

impl Drop for CallCharge {
    fn drop(&mut self) {
        self.unread();
        if let (PriceState::Left, Some(usual)) = (self.due, self.usual()) {
            self.spend(usual);
        }
    }
}
