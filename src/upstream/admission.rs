//! Admission control: every call to an origin passes it, from the cache engine and from pass-through.
//!
//! Owns: the checks before a call (cooldowns, rate limits, in-flight limit, budgets) and the steps after it
//! (classifying the response, learning limits, telemetry). Never touches: the call itself.

pub(in crate::upstream) mod ban_guard;
mod budget;
pub mod call;
mod call_metrics;
mod call_slots;
mod charge;
pub(in crate::upstream) mod circuit_breaker;
pub(in crate::upstream) mod cooldown;
pub mod credit_cost;
mod cut_refresh;
mod failure_groups;
mod feedback;
mod limit_map;
mod limit_store;
mod permit;
mod persistence;
mod queues;
pub(in crate::upstream) mod rate_limiter;
pub mod refusal_capture;
pub mod refusals;
mod registry;
pub mod rejection;
mod retry_budget;
mod retry_pauses;
mod state;
pub mod status;
mod wait_queue;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Clock;
use crate::key::KeyBuilder;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::telemetry::cost::Reservation;
use crate::telemetry::{RetryEvent, Telemetry};
use crate::upstream::admission::call::{CallContext, LimitKeys};
use crate::upstream::admission::charge::{CallCharge, ReservedCredits};
use crate::upstream::admission::cooldown::{CooldownCheck, CooldownScope};
use crate::upstream::admission::refusals::{Refusal, RefusalKey};
use crate::upstream::admission::rejection::{RejectReason, Rejection};
use crate::upstream::admission::state::{Admission, AdmissionDecision, UpstreamState};
use crate::upstream::admission::wait_queue::{QueueKind, QueuePosition};
use crate::upstream::outcome::reason::Reason;
use crate::upstream::routed_request::RoutedRequest;
use crate::upstream::routing::UpstreamTarget;

pub use crate::upstream::admission::call_metrics::CallTimer;
pub use crate::upstream::admission::limit_store::LimitStore;
pub use crate::upstream::admission::permit::Permit;
pub use crate::upstream::admission::registry::UpstreamRegistry;

use crate::upstream::admission::permit::ActiveCall;

/// How many credentials and buckets have a limit of their own. Beyond it, idle ones are removed.
const MAX_LIMITS: usize = 4096;

/// Admission control. Cheap to clone.
#[derive(Clone)]
pub struct AdmissionControl {
    telemetry: Arc<Telemetry>,
    registry: Arc<UpstreamRegistry>,
    clock: Clock,
    /// Tells clients apart; `None`: refusals are not remembered.
    key_builder: Option<Arc<KeyBuilder>>,
}

/// A refusal for a later call.
#[derive(Debug, Clone)]
pub struct ReplayedRefusal {
    /// The refusal.
    pub refusal: Arc<Refusal>,
    /// The time since it was received.
    pub elapsed: Duration,
    /// The time of day.
    pub now: SystemTime,
}

impl fmt::Debug for AdmissionControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdmissionControl")
    }
}

impl AdmissionControl {
    /// Creates an admission control with the telemetry to report to and the registry of upstream states.
    pub fn new(telemetry: Arc<Telemetry>, registry: Arc<UpstreamRegistry>, clock: Clock) -> Self {
        Self { telemetry, registry, clock, key_builder: None }
    }

    /// The same admission control, which remembers the refusals of each client that `key_builder` tells apart.
    #[must_use]
    pub fn with_refusals(self, key_builder: Arc<KeyBuilder>) -> Self {
        Self { key_builder: Some(key_builder), ..self }
    }

    /// Admits a call, at once or after a wait, or rejects it. The caller reports the end of the call to the
    /// returned permit.
    pub async fn acquire(&self, call: CallContext) -> Result<Permit, Rejection> {
        let target = call.target();
        let (mut active, mut reserved, mut waited, mut unsaved) = (None, None, None, false);
        if let Some(upstream) = self.upstream_state(&call) {
            let admitted = self.wait_for_admission(&upstream, &call).await;
            let admitted = admitted.inspect_err(|rejection| {
                self.telemetry.refused_call(target.index, rejection.reason.token());
            })?;
            (reserved, waited) = (admitted.reserved, admitted.waited);
            unsaved = admitted.admission.unsaved;
            active = Some(ActiveCall { upstream, admission: admitted.admission });
        }
        let timer = self.start_timer(target.clone(), call.routed.route_index);
        let charge = CallCharge::new(self.clone(), target.upstream.clone(), reserved);
        let on_admitted = call.on_admitted.clone();
        let mut permit = Permit::new(self.clone(), call, timer, charge, active);
        permit.waited = waited;
        if unsaved {
            // If the process is killed now, a call that was not made is counted, never the reverse.
            self.registry.flush().await;
        }
        on_admitted.call();
        Ok(permit)
    }

    /// The reason, if any, to reject this call right now, not counting the wait in a queue. Requests that
    /// have a stale response check this first.
    pub fn check_admission(&self, call: &CallContext) -> Option<Rejection> {
        let upstream = self.upstream_state(call)?;
        if let Some(rejection) = call.target().upstream.as_ref().and_then(|one| self.over_budget(one)) {
            return Some(rejection);
        }
        let keys = LimitKeys::new(call);
        let check = upstream.limiter.lock().check_cooldowns(&keys, self.clock.instant());
        match check {
            CooldownCheck::Clear(_) => None,
            CooldownCheck::Until(rejection) | CooldownCheck::Probing(rejection) => Some(rejection),
        }
    }

    /// Takes a retry that follows after `wait` because of `reason` from the retry budget of the upstream.
    /// Returns false if the budget is used up, or if the retry would be blocked for longer than it may wait
    /// (`cooldown_wait`).
    pub fn try_acquire_retry(&self, call: &CallContext, reason: Reason, wait: Duration) -> bool {
        let Some(upstream) = self.upstream_state(call) else { return true };
        let until = wait.saturating_add(call.cooldown_wait);
        if self.check_admission(call).is_some_and(|rejection| rejection.left > until) {
            return false;
        }
        let granted = upstream.limiter.lock().retry_budget.try_acquire(self.clock.instant());
        if granted {
            self.record_retry(&call.routed, reason, wait);
        } else {
            self.telemetry.refused_call(call.target().index, Reason::RetryBudget.token());
        }
        granted
    }

    /// Whether the call is not to be retried, because retries of the same call, or of its origin, have just
    /// failed.
    pub fn are_retries_paused(&self, call: &CallContext) -> bool {
        let Some(upstream) = self.upstream_state(call) else { return false };
        let limiter = upstream.limiter.lock();
        // None are, usually: the keys of the call are not built for that.
        !limiter.retry_pauses.is_empty()
            && limiter.are_retries_paused(&LimitKeys::new(call), self.clock.instant())
    }

    /// All retries of this call have failed: until its cooldown is over, calls like it are not retried.
    pub fn pause_retries(&self, call: &CallContext) {
        if let Some(upstream) = self.upstream_state(call) {
            upstream.limiter.lock().pause_retries(&LimitKeys::new(call), self.clock.instant());
        }
    }

    /// Remembers that the API refused this call, for later calls of the same client.
    fn remember_refusal(&self, call: &CallContext, refusal: Refusal) {
        let (Some(upstream), Some(client)) = (self.upstream_state(call), self.client(call)) else { return };
        let mut limiter = upstream.limiter.lock();
        let limit = if refusal.is_limit { limiter.limit_scopes(&LimitKeys::new(call)).next() } else { None };
        let scopes = limit.into_iter().chain([CooldownScope::Key(call.retry_id())]);
        let keys: Vec<_> = scopes.map(|scope| RefusalKey { scope, client }).collect();
        limiter.refusals.insert(&keys, &Arc::new(refusal));
    }

    /// The refusal that explains to the client of this call why it is not made: the last one that the API sent to
    /// the same client, for the same response or limit.
    pub fn last_refusal(&self, call: &CallContext, rejection: Rejection) -> Option<ReplayedRefusal> {
        let (upstream, client) = (self.upstream_state(call)?, self.client(call)?);
        let limiter = upstream.limiter.lock();
        let limits = limiter.limit_scopes(&LimitKeys::new(call)).chain([CooldownScope::Key(call.retry_id())]);
        let keys: Vec<_> = limits.map(|scope| RefusalKey { scope, client }).collect();
        let refusal = limiter.refusals.find(&keys, rejection.reason)?;
        if self.variant(call, &refusal.vary) != Some(refusal.variant) {
            return None;
        }
        let elapsed = self.clock.instant().saturating_duration_since(refusal.received);
        Some(ReplayedRefusal { refusal, elapsed, now: self.clock.now() })
    }

    /// The variant of a response with this `Vary` that the request of the call selects.
    fn variant(&self, call: &CallContext, vary: &VaryFields) -> Option<VariantId> {
        self.key_builder.as_ref().map(|builder| builder.variant(vary, &call.routed.request.headers))
    }

    fn client(&self, call: &CallContext) -> Option<u128> {
        self.key_builder.as_ref().map(|builder| builder.client(&call.routed.request, &call.routed.policy))
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
    pub fn start_timer(&self, target: UpstreamTarget, route: usize) -> CallTimer {
        CallTimer::new(Arc::clone(&self.telemetry), target, route, self.clock.clone())
    }

    /// Records that a call was retried because its pooled connection was dead.
    pub fn record_reconnect(&self, routed: &RoutedRequest) {
        self.record_retry(routed, Reason::DeadConnection, Duration::ZERO);
    }

    fn record_retry(&self, routed: &RoutedRequest, reason: Reason, wait: Duration) {
        let UpstreamTarget { index: upstream, ref host, port, .. } = *routed.upstream();
        let route = routed.route_index;
        let cause = reason.token();
        self.telemetry.upstream_retry(&RetryEvent { upstream, route, host, port, cause, wait });
    }

    /// The state of the upstream of a call. `None`: the call is not governed.
    fn upstream_state(&self, call: &CallContext) -> Option<Arc<UpstreamState>> {
        let target = call.target();
        let governed = call.governed || target.upstream.is_some();
        governed.then(|| self.registry.for_target(target, self.clock.instant()))
    }

    /// Decides whether a call goes out now: by the budget, all cooldowns and the queues. If the call has to
    /// wait, its reserved credits are released before another call of the upstream is checked.
    fn admit(
        &self,
        upstream: &UpstreamState,
        keys: &LimitKeys<'_>,
        position: QueuePosition,
    ) -> (AdmissionDecision, Option<Reservation>) {
        let mut state = upstream.limiter.lock();
        let reservation = match self.reserve(keys.call.target()) {
            Ok(reservation) => reservation,
            Err(rejection) => return (AdmissionDecision::Blocked(rejection), None),
        };
        let admit = state.admit(keys, position, self.clock.instant());
        let admitted = matches!(admit, AdmissionDecision::Admitted(_));
        (admit, reservation.filter(|_| admitted))
    }

    /// Waits for cooldowns to end, for credits that calls in flight have reserved, and in the queues, each
    /// for at most as long as the call may wait.
    async fn wait_for_admission(
        &self,
        upstream: &Arc<UpstreamState>,
        call: &CallContext,
    ) -> Result<AdmittedCall, Rejection> {
        let keys = LimitKeys::new(call);
        let position = upstream.limiter.lock().new_position(call.audience.is_present());
        let (index, since) = (call.target().index, self.clock.instant());
        let (control, queue, reason) = (self, None, None);
        let mut guard = QueueGuard { control, upstream, index, position, since, queue, reason };
        loop {
            guard.set_for_client(call.audience.is_present());
            // Registered before the check, so that no notification in between is lost.
            let recheck = upstream.recheck.notified();
            tokio::pin!(recheck);
            recheck.as_mut().enable();
            let (admit, reservation) = self.admit(upstream, &keys, guard.position);
            match admit {
                AdmissionDecision::Admitted(admission) => {
                    let reserved = reservation.map(|one| ReservedCredits::new(one, upstream));
                    return Ok(AdmittedCall { admission, reserved, waited: guard.reason });
                }
                AdmissionDecision::Blocked(rejection) => {
                    let time = guard.cooldown_wait(rejection, call.cooldown_wait)?;
                    tokio::select! {
                        () = recheck => {}
                        () = self.clock.sleep(time) => {}
                    }
                }
                AdmissionDecision::Queued(queue, wakeup, time) => {
                    let time = guard.queue_wait(queue, time, keys.policy.rate_limit.max_wait)?;
                    call.queued.store(true, Ordering::Relaxed);
                    tokio::select! {
                        () = wakeup.notified() => {}
                        () = call.audience.wait_for_change() => {}
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

impl QueueGuard<'_> {
    /// The longest time to wait for this cooldown to end. Returns an error if the call must not wait for it.
    fn cooldown_wait(&mut self, rejection: Rejection, longest: Duration) -> Result<Duration, Rejection> {
        self.leave();
        let remaining = self.remaining(longest, rejection.reason);
        if remaining.is_zero() || rejection.left > remaining {
            return Err(rejection);
        }
        // A probe notifies when its response arrives. Other cooldowns end by time or by a response.
        Ok(if rejection.left.is_zero() { remaining } else { rejection.left })
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
        let reason = queue.timeout_reason();
        let remaining = self.remaining(max_wait, reason);
        let now = self.control.clock.instant();
        let estimate = self.upstream.limiter.lock().estimate_wait(queue, self.position, now);
        if estimate.is_zero() {
            // There is capacity for this call and for those before it, which are about to wake up.
            return Ok(WAKE_DELAY);
        }
        let too_long = time.is_some_and(|time| time > remaining)
            || (reason == RejectReason::RateLimit && estimate > remaining);
        if remaining.is_zero() || too_long {
            return Err(Rejection { reason, left: estimate });
        }
        Ok(time.unwrap_or(remaining).min(remaining))
    }

    /// Updates whether a client waits for the call. On a change it gets a new position in the queues.
    fn set_for_client(&mut self, for_client: bool) {
        if self.position.background == for_client {
            self.leave();
            self.position = self.upstream.limiter.lock().new_position(for_client);
        }
    }

    fn join(&mut self, queue: QueueKind) {
        if self.queue != Some(queue) {
            self.leave();
            self.queue = Some(queue);
        }
    }

    fn leave(&mut self) {
        if let Some(queue) = self.queue.take() {
            self.upstream.limiter.lock().queue(queue).leave(self.position);
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
            self.control.telemetry.waited(self.index, reason.token(), self.waited());
        }
    }
}

#[cfg(test)]
mod tests;
