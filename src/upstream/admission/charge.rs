//! The price of one call: reserved while the call is in flight, then recorded.
//!
//! Owns: that each call is recorded once, however it ends. Never touches: how a response contains its price
//! (`credit_cost`), the usage records (`telemetry::cost`).

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::config::Upstream;
use crate::policy::upstream::CreditSource;
use crate::telemetry::cost::Reservation;
use crate::upstream::admission::AdmissionControl;
use crate::upstream::admission::credit_cost;
use crate::upstream::admission::state::UpstreamState;

/// A call that costs at least one part in this many of a budget is written to disk at once, so that a crash
/// loses no call of a small budget.
const URGENT_SHARE: f64 = 64.0;

/// The price of one call. If it is dropped after the head of a usable response, the usual price is recorded.
pub(super) struct CallCharge {
    control: AdmissionControl,
    upstream: Option<Arc<Upstream>>,
    reserved: Option<ReservedCredits>,
    price: PriceState,
}

/// Whether the price is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PriceState {
    /// No response yet.
    NoResponse,
    /// The client is gone and no response is needed: the API charges for the call anyway.
    ClientGone,
    /// The head of a response arrived; its body contains the price. `ok`: the response is usable.
    InBody { ok: bool },
    /// The price is recorded.
    Recorded,
}

/// Reserved credits, and the upstream whose calls wait for them.
pub(super) struct ReservedCredits {
    /// `None` once released.
    reservation: Option<Reservation>,
    upstream: Arc<UpstreamState>,
}

impl ReservedCredits {
    pub(super) fn new(reservation: Reservation, upstream: &Arc<UpstreamState>) -> Self {
        Self { reservation: Some(reservation), upstream: Arc::clone(upstream) }
    }
}

impl Drop for ReservedCredits {
    fn drop(&mut self) {
        // Release before the notification: a call that checks again finds the released credits.
        self.reservation = None;
        self.upstream.recheck.notify_waiters();
    }
}

impl CallCharge {
    pub(super) fn new(
        control: AdmissionControl,
        upstream: Option<Arc<Upstream>>,
        reserved: Option<ReservedCredits>,
    ) -> Self {
        Self { control, upstream, reserved, price: PriceState::NoResponse }
    }

    /// The head arrived, and the body as `json` if it is read. They contain the price. If it cannot be read
    /// from them, a usable response costs the usual price.
    pub(super) fn on_response(
        &mut self,
        status: StatusCode,
        ok: bool,
        headers: &HeaderMap,
        json: Option<&Value>,
    ) {
        let upstream = self.upstream.clone();
        let Some(cost) = upstream.as_ref().and_then(|one| one.policy.cost.as_ref()) else {
            return;
        };
        if self.price == PriceState::Recorded {
            return;
        }
        if status == StatusCode::NOT_MODIFIED && !cost.not_modified {
            self.record_avoided();
        } else if json.is_none() && matches!(cost.credits, CreditSource::Body(_)) {
            self.price = PriceState::InBody { ok };
            self.on_body_unread();
        } else {
            let credits = credit_cost::credits(cost, ok, headers, json);
            self.spend(credits.unwrap_or_default());
        }
    }

    /// The head arrived. If the body contains the price, the body is read as it passes.
    pub(super) fn on_head(&mut self, status: StatusCode, ok: bool, headers: &HeaderMap) {
        let cost = self.upstream.as_ref().and_then(|one| one.policy.cost.as_ref());
        let in_body = cost.is_some_and(|cost| matches!(cost.credits, CreditSource::Body(_)));
        let free = status == StatusCode::NOT_MODIFIED;
        if in_body && !free && self.price != PriceState::Recorded {
            self.price = PriceState::InBody { ok };
        } else {
            self.on_response(status, ok, headers, None);
        }
    }

    /// The body was not read to its end or could not be parsed, and will not be.
    pub(super) fn on_body_unread(&mut self) {
        if let PriceState::InBody { ok } = self.price {
            let usual = self.usual_price().filter(|_| ok);
            self.spend(usual.unwrap_or_default());
        }
    }

    /// The whole request was sent and the client is gone. The call costs the usual price unless a response
    /// states another one.
    pub(super) fn on_client_gone(&mut self) {
        if self.price == PriceState::NoResponse {
            self.price = PriceState::ClientGone;
        }
    }

    /// No response arrived: the call costs nothing.
    pub(super) fn on_failure(&mut self) {
        if self.price == PriceState::NoResponse {
            self.finish();
        }
    }

    /// The usual price of a call. `None`: calls to this upstream are not counted.
    fn usual_price(&self) -> Option<f64> {
        let upstream = self.upstream.as_ref().filter(|one| one.policy.cost.is_some())?;
        Some(self.control.telemetry.cost().usual_cost(&upstream.name))
    }

    fn spend(&mut self, credits: f64) {
        let Some(upstream) = &self.upstream else { return };
        let now = self.control.clock.now();
        self.control.telemetry.cost().spend(&upstream.name, credits, now);
        let budget = upstream.policy.cost.as_ref().and_then(|cost| cost.budget);
        if budget.is_some_and(|budget| credits * URGENT_SHARE >= budget.credits) {
            self.control.registry.flush_soon();
        }
        self.finish();
    }

    /// The call revalidated a stored response at no cost.
    fn record_avoided(&mut self) {
        let Some(upstream) = &self.upstream else { return };
        let (ledger, now) = (self.control.telemetry.cost(), self.control.clock.now());
        ledger.record_free_call(&upstream.name, ledger.usual_cost(&upstream.name), now);
        self.finish();
    }

    fn finish(&mut self) {
        self.price = PriceState::Recorded;
        self.reserved = None;
    }
}

impl Drop for CallCharge {
    fn drop(&mut self) {
        self.on_body_unread();
        if let (PriceState::ClientGone, Some(usual)) = (self.price, self.usual_price()) {
            self.spend(usual);
        }
    }
}
