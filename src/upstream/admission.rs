//! The one gate that every call to an origin passes, on both ways out.
//!
//! Owns: what happens before a call (holds, pace, the cap of calls under way, budgets) and after it
//! (classifying, learning, accounting). Never touches: the call itself.

mod budget;
pub mod call;
mod call_metrics;
mod charge;
mod failure_groups;
mod feedback;
mod permit;
mod persistence;
mod registry;
mod state;
mod status;
mod wait_queue;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::policy::upstream::UpstreamPolicy;
use crate::telemetry::cost::Reservation;
use crate::telemetry::{RetryEvent, Telemetry};
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::charge::{CallCharge, ReservedCredits};
use crate::upstream::admission::state::{
    Admission, AdmissionDecision, LimitKeys, QueueKind, UpstreamState, no_turn,
};
use crate::upstream::admission::wait_queue::QueuePosition;
use crate::upstream::cooldown::CooldownCheck;
use crate::upstream::rejection::{RejectReason, Rejection};
use crate::upstream::routing::UpstreamTarget;

pub use crate::upstream::admission::call_metrics::CallTimer;
pub use crate::upstream::admission::permit::Permit;
pub use crate::upstream::admission::persistence::LimitStore;
pub use crate::upstream::admission::registry::UpstreamRegistry;

use crate::upstream::admission::permit::ActiveCall;

/// The gate. Cheap to clone.
#[derive(Clone)]
pub struct AdmissionControl {
    account: Arc<Telemetry>,
    traffics: Arc<UpstreamRegistry>,
    clock: Clock,
}

impl AdmissionControl {
    /// A gate that accounts to `account` and goes by what is known of `traffics`.
    pub fn new(account: Arc<Telemetry>, traffics: Arc<UpstreamRegistry>, clock: Clock) -> Self {
        Self { account, traffics, clock }
    }

    /// Lets a call through, at once or after a wait, or says why not. The pass says how the call ended.
    pub async fn acquire(
        &self,
        place: &UpstreamTarget,
        knock: CallContext,
    ) -> Result<Permit, Rejection> {
        let (mut out, mut reserved, mut waited, mut unsaved) = (None, None, None, false);
        if let Some(traffic) = self.traffic(place, &knock) {
            let admitted = self.wait_for_admission(&traffic, place, &knock).await;
            let admitted = admitted.inspect_err(|held| {
                self.account.refused_call(place.index, held.cause.token());
            })?;
            (reserved, waited) = (admitted.reserved, admitted.waited);
            unsaved = admitted.ticket.unsaved;
            out = Some(ActiveCall { traffic, ticket: admitted.ticket });
        }
        let record = self.record(place.clone(), knock.route);
        let charge = CallCharge::new(self.clone(), place.upstream.clone(), reserved);
        let goes_out = knock.goes_out.clone();
        let mut pass = Permit::new(self.clone(), knock, record, charge, out);
        pass.waited = waited;
        if unsaved {
            // A larder that is killed now has counted a call that was not made, never the reverse.
            self.traffics.settle().await;
        }
        goes_out.tell();
        Ok(pass)
    }

    /// What would keep a call back right now, short of waiting for its turn. A call for which something
    /// stale can be shown looks here first.
    pub fn check_admission(
        &self,
        place: &UpstreamTarget,
        knock: &CallContext,
    ) -> Option<Rejection> {
        let traffic = self.traffic(place, knock)?;
        if let Some(held) = place.upstream.as_ref().and_then(|one| self.over_budget(one)) {
            return Some(held);
        }
        let subject = LimitKeys::new(knock, conduct(place), place);
        let look = traffic.state.lock().check_cooldowns(&subject, self.clock.instant());
        match look {
            CooldownCheck::Clear(_) => None,
            CooldownCheck::Until(held) | CooldownCheck::Probing(held) => Some(held),
        }
    }

    /// Takes a retry, which comes after this wait because of `cause`, from the budget that all calls of
    /// an upstream share; false: there is none left, or it would not be let through for longer than it
    /// may wait (`patience`).
    pub fn try_acquire_retry(
        &self,
        place: &UpstreamTarget,
        knock: &CallContext,
        cause: &'static str,
        wait: Duration,
    ) -> bool {
        let Some(traffic) = self.traffic(place, knock) else { return true };
        let until = wait.saturating_add(knock.patience);
        if self.check_admission(place, knock).is_some_and(|held| held.left > until) {
            return false;
        }
        let spare = traffic.state.lock().retries.spend(self.clock.instant());
        if spare {
            self.again(place, knock.route, cause, wait);
        } else {
            self.account.refused_call(place.index, "retry-budget");
        }
        spare
    }

    /// Returns when so much time has passed.
    pub async fn sleep(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    /// Now, by the gate's clock.
    pub fn instant(&self) -> Instant {
        self.clock.instant()
    }

    /// A call that nobody keeps back, and whose answer nobody sees: a tunnel.
    pub fn record(&self, place: UpstreamTarget, route: usize) -> CallTimer {
        CallTimer::new(Arc::clone(&self.account), place, route)
    }

    /// A connection that had died in the pool led to another attempt.
    pub fn redialled(&self, place: &UpstreamTarget, route: usize) {
        self.again(place, route, "dead-connection", Duration::ZERO);
    }

    fn again(&self, place: &UpstreamTarget, route: usize, cause: &'static str, wait: Duration) {
        let (upstream, host, port) = (place.index, &*place.host, place.port);
        self.account.upstream_retry(&RetryEvent { upstream, route, host, port, cause, wait });
    }

    /// What is known of the upstream at `place`; `None`: it is nobody's business.
    fn traffic(&self, place: &UpstreamTarget, knock: &CallContext) -> Option<Arc<UpstreamState>> {
        let governed = knock.governed || place.upstream.is_some();
        governed.then(|| self.traffics.of(place, self.clock.instant()))
    }

    /// Lets a call go out if its budget, all holds and its turn allow it. What was set aside for a call
    /// that has to wait is free again before another call of the upstream looks.
    fn admit(
        &self,
        traffic: &UpstreamState,
        place: &UpstreamTarget,
        subject: &LimitKeys<'_>,
        turn: QueuePosition,
    ) -> (AdmissionDecision, Option<Reservation>) {
        let mut state = traffic.state.lock();
        let reservation = match self.reserve(place) {
            Ok(reservation) => reservation,
            Err(held) => return (AdmissionDecision::Hold(held), None),
        };
        let admit = state.admit(subject, turn, self.clock.instant());
        let goes = matches!(admit, AdmissionDecision::Go(_));
        (admit, reservation.filter(|_| goes))
    }

    /// Waits for holds to end, for what calls under way have set aside of the budget, and for its turn,
    /// each for as long as the call may.
    async fn wait_for_admission(
        &self,
        traffic: &Arc<UpstreamState>,
        place: &UpstreamTarget,
        knock: &CallContext,
    ) -> Result<AdmittedCall, Rejection> {
        let subject = LimitKeys::new(knock, conduct(place), place);
        let turn = traffic.state.lock().turn(knock.audience.is_there());
        let mut waiting = QueueGuard::new(self, traffic, place, turn);
        loop {
            waiting.is_for(knock.audience.is_there());
            // Before the look: what eases meanwhile is not missed.
            let eased = traffic.eased.notified();
            tokio::pin!(eased);
            eased.as_mut().enable();
            let (admit, reservation) = self.admit(traffic, place, &subject, waiting.turn);
            match admit {
                AdmissionDecision::Go(ticket) => {
                    return Ok(waiting.over(ticket, reservation, traffic));
                }
                AdmissionDecision::Hold(held) => {
                    let time = waiting.for_hold(held, knock.patience)?;
                    tokio::select! {
                        () = eased => {}
                        () = self.clock.sleep(time) => {}
                    }
                }
                AdmissionDecision::Line(station, woken, time) => {
                    let time =
                        waiting.in_line(station, time, subject.conduct.rate_limit.max_wait)?;
                    knock.in_line.store(true, Ordering::Relaxed);
                    tokio::select! {
                        () = woken.notified() => {}
                        () = knock.audience.changes() => {}
                        () = self.clock.sleep(time) => {}
                    }
                }
            }
        }
    }
}

/// A call that may go out.
struct AdmittedCall {
    ticket: Admission,
    /// The credits set aside for it, where its upstream has a budget.
    reserved: Option<ReservedCredits>,
    /// The cause that it waited for last.
    waited: Option<RejectReason>,
}

/// How long it may take to wake those who may go.
const AT_ONCE: Duration = Duration::from_millis(10);

/// How an upstream is treated; what none names is left alone but for holds.
fn conduct(place: &UpstreamTarget) -> &UpstreamPolicy {
    static UNNAMED: std::sync::LazyLock<UpstreamPolicy> =
        std::sync::LazyLock::new(UpstreamPolicy::default);
    place.upstream.as_ref().map_or(&UNNAMED, |upstream| &upstream.conduct)
}

/// A call that may have to wait. However its wait ends, it leaves its line.
struct QueueGuard<'a> {
    gate: &'a AdmissionControl,
    traffic: &'a UpstreamState,
    upstream: usize,
    turn: QueuePosition,
    since: Instant,
    station: Option<QueueKind>,
    cause: Option<RejectReason>,
}

impl<'a> QueueGuard<'a> {
    fn new(
        gate: &'a AdmissionControl,
        traffic: &'a UpstreamState,
        place: &UpstreamTarget,
        turn: QueuePosition,
    ) -> Self {
        let since = gate.clock.instant();
        Self { gate, traffic, upstream: place.index, turn, since, station: None, cause: None }
    }

    /// How long to wait for this hold to end, at most; an error: it is not worth it.
    fn for_hold(&mut self, held: Rejection, patience: Duration) -> Result<Duration, Rejection> {
        self.leave();
        let patience = self.patience(patience, held.cause);
        if patience.is_zero() || held.left > patience {
            return Err(held);
        }
        // A probe tells when it is answered; other holds end with time or with an answer.
        Ok(if held.left.is_zero() { patience } else { held.left })
    }

    /// How long to wait in this line, at most, before looking again; `time`: when it is the first one's
    /// turn. An error: it is not worth it.
    fn in_line(
        &mut self,
        station: QueueKind,
        time: Option<Duration>,
        max_wait: Duration,
    ) -> Result<Duration, Rejection> {
        self.stand(station);
        let cause = no_turn(station);
        let patience = self.patience(max_wait, cause);
        let now = self.gate.clock.instant();
        let outlook = self.traffic.state.lock().estimate_wait(station, self.turn, now);
        if outlook.is_zero() {
            // There is room for it, and for who is before it and about to wake.
            return Ok(AT_ONCE);
        }
        let hopeless = time.is_some_and(|time| time > patience)
            || (cause == RejectReason::Pace && outlook > patience);
        if patience.is_zero() || hopeless {
            return Err(Rejection { cause, left: outlook });
        }
        Ok(time.unwrap_or(patience).min(patience))
    }

    /// A client waits for it, or nobody does any more: it stands where it would, had it come so now.
    fn is_for(&mut self, a_client: bool) {
        if self.turn.background == a_client {
            self.leave();
            self.turn = self.traffic.state.lock().turn(a_client);
        }
    }

    /// The call goes out.
    fn over(
        &self,
        ticket: Admission,
        reservation: Option<Reservation>,
        traffic: &Arc<UpstreamState>,
    ) -> AdmittedCall {
        let reserved = reservation.map(|one| ReservedCredits::new(one, traffic));
        AdmittedCall { ticket, reserved, waited: self.cause }
    }

    fn stand(&mut self, station: QueueKind) {
        if self.station != Some(station) {
            self.leave();
            self.station = Some(station);
        }
    }

    fn leave(&mut self) {
        if let Some(station) = self.station.take() {
            self.traffic.state.lock().leave(station, self.turn);
        }
    }

    /// What is left of `time`, which it waits because of `cause`.
    fn patience(&mut self, time: Duration, cause: RejectReason) -> Duration {
        self.cause = Some(cause);
        time.saturating_sub(self.waited())
    }

    fn waited(&self) -> Duration {
        self.gate.clock.instant().saturating_duration_since(self.since)
    }
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        self.leave();
        if let Some(cause) = self.cause {
            self.gate.account.waited(self.upstream, cause.token(), self.waited());
        }
    }
}

#[cfg(test)]
mod tests;
