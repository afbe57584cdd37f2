//! Admission control: every call to an origin passes it, from the cache engine and from pass-through.
//!
//! Owns: the checks before a call (cooldowns, rate limits, in-flight limit, budgets) and the steps after it
//! (classifying the response, learning limits, telemetry). Never touches: the call itself.

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

/// Admission control. Cheap to clone.
#[derive(Clone)]
pub struct AdmissionControl {
    account: Arc<Telemetry>,
    traffics: Arc<UpstreamRegistry>,
    clock: Clock,
}

impl AdmissionControl {
    /// Creates an admission control with the telemetry to report to and the registry of upstream states.
    pub fn new(telemetry: Arc<Telemetry>, registry: Arc<UpstreamRegistry>, clock: Clock) -> Self {
        Self { account: telemetry, traffics: registry, clock }
    }

    /// Admits a call, at once or after a wait, or rejects it. The caller reports the end of the call to the
    /// returned permit.
    pub async fn acquire(
        &self,
        target: &UpstreamTarget,
        call: CallContext,
    ) -> Result<Permit, Rejection> {
        let (mut active, mut reserved, mut waited, mut unsaved) = (None, None, None, false);
        if let Some(upstream) = self.traffic(target, &call) {
            let admitted = self.wait_for_admission(&upstream, target, &call).await;
            let admitted = admitted.inspect_err(|rejection| {
                self.account.refused_call(target.index, rejection.cause.token());
            })?;
            (reserved, waited) = (admitted.reserved, admitted.waited);
            unsaved = admitted.admission.unsaved;
            active = Some(ActiveCall { traffic: upstream, ticket: admitted.admission });
        }
        let timer = self.record(target.clone(), call.route);
        let charge = CallCharge::new(self.clone(), target.upstream.clone(), reserved);
        let on_admitted = call.goes_out.clone();
        let mut permit = Permit::new(self.clone(), call, timer, charge, active);
        permit.waited = waited;
        if unsaved {
            // If the process is killed now, a call that was not made is counted, never the reverse.
            self.traffics.settle().await;
        }
        on_admitted.tell();
        Ok(permit)
    }

    /// The reason, if any, to reject this call right now, not counting the wait in a queue. Requests that
    /// have a stale response check this first.
    pub fn check_admission(
        &self,
        target: &UpstreamTarget,
        call: &CallContext,
    ) -> Option<Rejection> {
        let upstream = self.traffic(target, call)?;
        if let Some(rejection) = target.upstream.as_ref().and_then(|one| self.over_budget(one)) {
            return Some(rejection);
        }
        let subject = LimitKeys::new(call, conduct(target), target);
        let check = upstream.state.lock().check_cooldowns(&subject, self.clock.instant());
        match check {
            CooldownCheck::Clear(_) => None,
            CooldownCheck::Until(rejection) | CooldownCheck::Probing(rejection) => Some(rejection),
        }
    }

    /// Takes a retry that follows after `wait` because of `cause` from the retry budget of the upstream.
    /// Returns false if the budget is used up, or if the retry would be blocked for longer than it may wait
    /// (`patience`).
    pub fn try_acquire_retry(
        &self,
        target: &UpstreamTarget,
        call: &CallContext,
        cause: &'static str,
        wait: Duration,
    ) -> bool {
        let Some(upstream) = self.traffic(target, call) else { return true };
        let until = wait.saturating_add(call.patience);
        if self.check_admission(target, call).is_some_and(|rejection| rejection.left > until) {
            return false;
        }
        let granted = upstream.state.lock().retries.spend(self.clock.instant());
        if granted {
            self.again(target, call.route, cause, wait);
        } else {
            self.account.refused_call(target.index, "retry-budget");
        }
        granted
    }

    /// Returns after this time.
    pub async fn sleep(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    /// The current time on its clock.
    pub fn instant(&self) -> Instant {
        self.clock.instant()
    }

    /// Starts the timer of a call that needs no admission and whose response is not inspected: a tunnel.
    pub fn record(&self, target: UpstreamTarget, route: usize) -> CallTimer {
        CallTimer::new(Arc::clone(&self.account), target, route)
    }

    /// Records that a call was retried because its pooled connection was dead.
    pub fn redialled(&self, target: &UpstreamTarget, route: usize) {
        self.again(target, route, "dead-connection", Duration::ZERO);
    }

    fn again(&self, target: &UpstreamTarget, route: usize, cause: &'static str, wait: Duration) {
        let (upstream, host, port) = (target.index, &*target.host, target.port);
        self.account.upstream_retry(&RetryEvent { upstream, route, host, port, cause, wait });
    }

    /// The state of the upstream at `target`. `None`: the call is not governed.
    fn traffic(&self, target: &UpstreamTarget, call: &CallContext) -> Option<Arc<UpstreamState>> {
        let governed = call.governed || target.upstream.is_some();
        governed.then(|| self.traffics.of(target, self.clock.instant()))
    }

    /// Decides whether a call goes out now: by the budget, all cooldowns and the queues. If the call has to
    /// wait, its reserved credits are released before another call of the upstream is checked.
    fn admit(
        &self,
        upstream: &UpstreamState,
        target: &UpstreamTarget,
        subject: &LimitKeys<'_>,
        position: QueuePosition,
    ) -> (AdmissionDecision, Option<Reservation>) {
        let mut state = upstream.state.lock();
        let reservation = match self.reserve(target) {
            Ok(reservation) => reservation,
            Err(rejection) => return (AdmissionDecision::Hold(rejection), None),
        };
        let admit = state.admit(subject, position, self.clock.instant());
        let admitted = matches!(admit, AdmissionDecision::Go(_));
        (admit, reservation.filter(|_| admitted))
    }

    /// Waits for cooldowns to end, for credits that calls in flight have reserved, and in the queues, each
    /// for at most as long as the call may wait.
    async fn wait_for_admission(
        &self,
        upstream: &Arc<UpstreamState>,
        target: &UpstreamTarget,
        call: &CallContext,
    ) -> Result<AdmittedCall, Rejection> {
        let subject = LimitKeys::new(call, conduct(target), target);
        let position = upstream.state.lock().turn(call.audience.is_there());
        let mut guard = QueueGuard::new(self, upstream, target, position);
        loop {
            guard.set_for_client(call.audience.is_there());
            // Registered before the check, so that no notification in between is lost.
            let recheck = upstream.eased.notified();
            tokio::pin!(recheck);
            recheck.as_mut().enable();
            let (admit, reservation) = self.admit(upstream, target, &subject, guard.position);
            match admit {
                AdmissionDecision::Go(admission) => {
                    return Ok(guard.finish(admission, reservation, upstream));
                }
                AdmissionDecision::Hold(rejection) => {
                    let time = guard.cooldown_wait(rejection, call.patience)?;
                    tokio::select! {
                        () = recheck => {}
                        () = self.clock.sleep(time) => {}
                    }
                }
                AdmissionDecision::Line(queue, wakeup, time) => {
                    let time =
                        guard.queue_wait(queue, time, subject.conduct.rate_limit.max_wait)?;
                    call.in_line.store(true, Ordering::Relaxed);
                    tokio::select! {
                        () = wakeup.notified() => {}
                        () = call.audience.changes() => {}
                        () = self.clock.sleep(time) => {}
                    }
                }
            }
        }
    }
}

/// An admitted call.
struct AdmittedCall {
    admission: Admission,
    /// The credits that are reserved for it, if its upstream has a budget.
    reserved: Option<ReservedCredits>,
    /// The reason of its last wait.
    waited: Option<RejectReason>,
}

/// The time that the waiters before this one may take to wake up.
const WAKE_DELAY: Duration = Duration::from_millis(10);

/// The policy of an upstream. Hosts without a configured upstream get the default: no limits, only cooldowns.
fn conduct(target: &UpstreamTarget) -> &UpstreamPolicy {
    static DEFAULT: std::sync::LazyLock<UpstreamPolicy> =
        std::sync::LazyLock::new(UpstreamPolicy::default);
    target.upstream.as_ref().map_or(&DEFAULT, |upstream| &upstream.conduct)
}

/// A call that may have to wait. It leaves its queue when it is dropped.
struct QueueGuard<'a> {
    control: &'a AdmissionControl,
    upstream: &'a UpstreamState,
    index: usize,
    position: QueuePosition,
    since: Instant,
    queue: Option<QueueKind>,
    reason: Option<RejectReason>,
}

impl<'a> QueueGuard<'a> {
    fn new(
        control: &'a AdmissionControl,
        upstream: &'a UpstreamState,
        target: &UpstreamTarget,
        position: QueuePosition,
    ) -> Self {
        let since = control.clock.instant();
        Self { control, upstream, index: target.index, position, since, queue: None, reason: None }
    }

    /// The longest time to wait for this cooldown to end. Returns an error if the call must not wait for it.
    fn cooldown_wait(
        &mut self,
        rejection: Rejection,
        patience: Duration,
    ) -> Result<Duration, Rejection> {
        self.leave();
        let patience = self.remaining(patience, rejection.cause);
        if patience.is_zero() || rejection.left > patience {
            return Err(rejection);
        }
        // A probe notifies when its response arrives. Other cooldowns end by time or by a response.
        Ok(if rejection.left.is_zero() { patience } else { rejection.left })
    }

    /// The longest time to wait in this queue before the next check. `time` is the wait of the first call in
    /// the queue. Returns an error if the call must not wait.
    fn queue_wait(
        &mut self,
        queue: QueueKind,
        time: Option<Duration>,
        max_wait: Duration,
    ) -> Result<Duration, Rejection> {
        self.join(queue);
        let reason = no_turn(queue);
        let patience = self.remaining(max_wait, reason);
        let now = self.control.clock.instant();
        let estimate = self.upstream.state.lock().estimate_wait(queue, self.position, now);
        if estimate.is_zero() {
            // There is capacity for this call and for those before it, which are about to wake up.
            return Ok(WAKE_DELAY);
        }
        let too_long = time.is_some_and(|time| time > patience)
            || (reason == RejectReason::Pace && estimate > patience);
        if patience.is_zero() || too_long {
            return Err(Rejection { cause: reason, left: estimate });
        }
        Ok(time.unwrap_or(patience).min(patience))
    }

    /// Updates whether a client waits for the call. On a change it gets a new position in the queues.
    fn set_for_client(&mut self, for_client: bool) {
        if self.position.background == for_client {
            self.leave();
            self.position = self.upstream.state.lock().turn(for_client);
        }
    }

    /// The call is admitted.
    fn finish(
        &self,
        admission: Admission,
        reservation: Option<Reservation>,
        upstream: &Arc<UpstreamState>,
    ) -> AdmittedCall {
        let reserved = reservation.map(|one| ReservedCredits::new(one, upstream));
        AdmittedCall { admission, reserved, waited: self.reason }
    }

    fn join(&mut self, queue: QueueKind) {
        if self.queue != Some(queue) {
            self.leave();
            self.queue = Some(queue);
        }
    }

    fn leave(&mut self) {
        if let Some(queue) = self.queue.take() {
            self.upstream.state.lock().leave(queue, self.position);
        }
    }

    /// The rest of `time`, which the call waits because of `reason`.
    fn remaining(&mut self, time: Duration, reason: RejectReason) -> Duration {
        self.reason = Some(reason);
        time.saturating_sub(self.waited())
    }

    fn waited(&self) -> Duration {
        self.control.clock.instant().saturating_duration_since(self.since)
    }
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        self.leave();
        if let Some(reason) = self.reason {
            self.control.account.waited(self.index, reason.token(), self.waited());
        }
    }
}

#[cfg(test)]
mod tests;
