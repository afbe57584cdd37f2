//! The permit of one admitted call.
//!
//! Owns: that each call is completed once, however it ends. Never touches: the call itself.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;

use crate::policy::upstream::{OutcomeClass, RateLimit};
use crate::upstream::admission::AdmissionControl;
use crate::upstream::admission::call::{CallContext, LimitKeys};
use crate::upstream::admission::call_metrics::CallTimer;
use crate::upstream::admission::charge::CallCharge;
use crate::upstream::admission::feedback::{CallEnd, CallReport};
use crate::upstream::admission::refusal_capture::RefusalCapture;
use crate::upstream::admission::rejection::{RejectReason, Rejection};
use crate::upstream::admission::state::{Admission, LimiterState, UpstreamState};
use crate::upstream::outcome::CallOutcome;
use crate::upstream::outcome::classify;
use crate::upstream::outcome::error::UpstreamError;

/// An admitted call. If it is dropped without an outcome, it counts as abandoned.
pub struct Permit {
    control: AdmissionControl,
    call: CallContext,
    timer: CallTimer,
    charge: CallCharge,
    /// `None` once the call is completed, or if it is not governed.
    active: Option<ActiveCall>,
    outcome: Option<CallOutcome>,
    preempted: Option<Arc<Notify>>,
    /// The call whose head is usable, while its body may still change the outcome.
    awaiting_body: Option<ActiveCall>,
    /// Whether the client may be the cause of an error.
    client_at_fault: bool,
    slowness: Slowness,
    /// The reason for which the call waited, if it did.
    pub(super) waited: Option<RejectReason>,
}

/// Whether the head of a call's response was slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slowness {
    /// The soft deadline has not passed.
    InTime,
    /// It has: the call has counted as a failure.
    Slow,
    /// It has, as may be expected of this call.
    Expected,
}

/// A call that counts towards limits.
pub(super) struct ActiveCall {
    pub(super) upstream: Arc<UpstreamState>,
    pub(super) admission: Admission,
}

impl Permit {
    pub(super) fn new(
        control: AdmissionControl,
        call: CallContext,
        timer: CallTimer,
        charge: CallCharge,
        active: Option<ActiveCall>,
    ) -> Self {
        let (outcome, preempted, awaiting_body, waited) = (None, None, None, None);
        Self {
            control,
            call,
            timer,
            charge,
            active,
            outcome,
            preempted,
            awaiting_body,
            client_at_fault: false,
            slowness: Slowness::InTime,
            waited,
        }
    }

    /// Marks the response as one to an incomplete request, for which the client may be the cause: an error
    /// does not count against the origin.
    pub fn mark_client_at_fault(&mut self) {
        self.client_at_fault = true;
    }

    /// The head of the final response arrived, and its body as far as rules read it.
    pub fn on_response(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        json: Option<&Value>,
    ) -> CallOutcome {
        let outcome = self.classify(status, headers, json);
        self.record_response(status, &outcome);
        self.charge.on_response(status, outcome.is_ok(), headers, json);
        outcome
    }

    /// The head arrived, and the body is read while it passes. The outcome, for this call and for later ones,
    /// is known once the body was read.
    pub fn on_head_unread(&mut self, status: StatusCode, headers: &HeaderMap) -> CallOutcome {
        let outcome = self.classify(status, headers, None);
        if outcome.is_ok() && self.body_affects_outcome(status) {
            self.awaiting_body = self.active.take();
        }
        if let Some(ActiveCall { upstream, mut admission }) = self.awaiting_body.take() {
            let keys = self.keys();
            let now = self.control.clock.instant();
            let report = CallReport { keys: &keys, outcome: &outcome, now };
            self.update(&upstream, |state| {
                state.on_head(report, &mut admission, CallEnd::Response(status));
            });
            self.awaiting_body = Some(ActiveCall { upstream, admission });
            self.release_probe();
        }
        self.record_response(status, &outcome);
        self.charge.on_head(status, outcome.is_ok(), headers);
        outcome
    }

    /// The head has not arrived by the soft deadline. The call goes on, but no longer counts as in flight, and
    /// counts as a failure of its origin, unless such a call is `expected` to take long.
    pub fn on_slow(&mut self, expected: bool) {
        if !expected {
            self.slowness = Slowness::Slow;
            self.complete(&CallOutcome::from_class(OutcomeClass::Timeout), CallEnd::NoResponse);
            return;
        }
        self.slowness = Slowness::Expected;
        if let Some(ActiveCall { upstream, admission }) = &mut self.active {
            upstream.limiter.lock().slots.release(&mut admission.slot);
        }
    }

    /// Whether the head had not arrived by the soft deadline.
    pub fn is_slow(&self) -> bool {
        self.slowness != Slowness::InTime
    }

    /// The head arrived after the soft deadline: its success, or its rate limit, counts after all.
    fn on_late_response(&mut self, status: StatusCode, outcome: &CallOutcome) {
        let is_failure = match outcome.class {
            OutcomeClass::Server | OutcomeClass::Timeout | OutcomeClass::Network => true,
            OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::RateLimited(_) => false,
        };
        if self.slowness == Slowness::Slow && self.outcome.is_none() && !is_failure {
            self.active = self
                .control
                .upstream_state(&self.call)
                .map(|upstream| ActiveCall { upstream, admission: Admission::default() });
            self.complete(outcome, CallEnd::Response(status));
        }
    }

    fn record_response(&mut self, status: StatusCode, outcome: &CallOutcome) {
        self.timer.on_response(status);
        if self.outcome.is_none() {
            self.count_rate_limit(outcome);
        }
        self.on_late_response(status, outcome);
        self.complete(outcome, CallEnd::Response(status));
        self.outcome = Some(outcome.clone());
    }

    /// The body of a response that was already forwarded. It may change the outcome. Returns whether the
    /// response is usable.
    pub fn on_body(&mut self, status: StatusCode, headers: &HeaderMap, json: &Value) -> bool {
        let outcome = self.classify(status, headers, Some(json));
        self.charge.on_response(status, outcome.is_ok(), headers, Some(json));
        if self.outcome.as_ref().is_none_or(|known| known.class != outcome.class) {
            self.count_rate_limit(&outcome);
        }
        let is_news = self.outcome.as_ref() != Some(&outcome) && !outcome.is_ok();
        match self.awaiting_body.take() {
            Some(active) => self.apply_outcome(&active, &outcome),
            None if is_news => {
                if let Some(upstream) = self.control.upstream_state(&self.call) {
                    self.apply_outcome(&ActiveCall { upstream, admission: Admission::default() }, &outcome);
                }
            }
            None => {}
        }
        outcome.is_ok()
    }

    /// No head arrived.
    pub fn on_failure(&mut self, failure: UpstreamError) {
        self.timer.on_failure(failure);
        self.charge.on_failure();
        match classify::failure(failure) {
            Some(outcome) if failure.is_connect_failure() => {
                self.complete(&outcome, CallEnd::Unreachable);
            }
            Some(outcome) => self.complete(&outcome, CallEnd::NoResponse),
            None => self.abandon(),
        }
    }

    /// The whole request was sent, and the client no longer waits for the response.
    pub fn on_client_gone(&mut self) {
        self.charge.on_client_gone();
    }

    /// The client left before the head arrived. Returns whether the call continues without it, so that its
    /// outcome is counted. It does where the upstream limits calls by their outcome; elsewhere it ends at
    /// once, and the API sees that no client waits. `whole`: the whole request was sent. An incomplete
    /// request gets an early response, if any, which matters only to the ban guard.
    pub fn continues_without_client(&mut self, whole: bool) -> bool {
        if whole {
            self.charge.on_client_gone();
        }
        let Some(upstream) = &self.call.target().upstream else { return false };
        let guards = upstream.policy.ban_guard.is_some();
        let bounds = upstream.policy.rate_limit.in_flight < RateLimit::default().in_flight;
        if !(guards || whole && bounds) {
            return false;
        }
        if let Some(ActiveCall { upstream, admission }) = &mut self.active {
            upstream.limiter.lock().slots.resume(&mut admission.slot);
        }
        true
    }

    /// A capture of the response's body, if the response refuses the call.
    pub fn capture_refusal(&self, status: StatusCode, headers: &HeaderMap) -> Option<RefusalCapture> {
        RefusalCapture::new(&self.control, &self.call, status, headers, self.outcome.as_ref()?)
    }

    /// Whether the response was a rate limit.
    pub fn is_rate_limited(&self) -> bool {
        self.outcome.as_ref().is_some_and(CallOutcome::is_rate_limited)
    }

    /// Rules cannot read the body: the outcome is that of the head.
    pub fn finish_without_body(&mut self) {
        self.charge.on_body_unread();
        if let (Some(active), Some(outcome)) = (self.awaiting_body.take(), &self.outcome) {
            self.apply_outcome(&active, outcome);
        }
    }

    /// The head arrived. While the body is read, other calls may probe.
    pub fn release_probe(&mut self) {
        for ActiveCall { upstream, admission } in
            [&mut self.active, &mut self.awaiting_body].into_iter().flatten()
        {
            upstream.limiter.lock().release_probe(admission);
            upstream.recheck.notify_waiters();
        }
    }

    /// The client stalls the call by sending or reading slowly. Other calls do not wait for it.
    pub fn on_client_stalled(&mut self) {
        let now = self.control.clock.instant();
        for ActiveCall { upstream, admission } in
            [&mut self.active, &mut self.awaiting_body].into_iter().flatten()
        {
            let preempted = upstream.limiter.lock().stall(admission, now);
            self.preempted = preempted.or(self.preempted.take());
            upstream.recheck.notify_waiters();
        }
    }

    /// Notifies when the call must end because others wait for its slot. `None`: its client does not stall
    /// it.
    pub fn preemption(&self) -> Option<Arc<Notify>> {
        self.preempted.clone()
    }

    /// The reason for which the call waited before it was admitted.
    pub fn waited(&self) -> Option<RejectReason> {
        self.waited
    }

    /// Whether the body of a response with this status matters beyond its head.
    pub fn reads_body_of(&self, status: StatusCode) -> bool {
        self.call.target().policy().reads_body_of(status)
    }

    /// Whether the body may turn a response with this status into an error.
    pub fn body_affects_outcome(&self, status: StatusCode) -> bool {
        self.call.target().policy().rules.read_body_of(status)
    }

    fn keys(&self) -> LimitKeys<'_> {
        LimitKeys::new(&self.call)
    }

    fn classify(&self, status: StatusCode, headers: &HeaderMap, json: Option<&Value>) -> CallOutcome {
        let rules = &self.call.target().policy().rules;
        classify::response(status, headers, json, rules, self.control.clock.now())
    }

    fn count_rate_limit(&self, outcome: &CallOutcome) {
        if let OutcomeClass::RateLimited(limit) = outcome.class {
            self.control.telemetry.rate_limited(self.call.target().index, limit.token());
        }
    }

    fn complete(&mut self, outcome: &CallOutcome, end: CallEnd) {
        let Some(ActiveCall { upstream, mut admission }) = self.active.take() else {
            return;
        };
        let keys = self.keys();
        let now = self.control.clock.instant();
        let end = if self.client_at_fault { end.attribute_to_client(outcome.class) } else { end };
        let report = CallReport { keys: &keys, outcome, now };
        self.update(&upstream, |state| state.on_completed(report, &mut admission, end));
        upstream.recheck.notify_waiters();
    }

    fn apply_outcome(&self, ActiveCall { upstream, admission }: &ActiveCall, outcome: &CallOutcome) {
        let keys = self.keys();
        let now = self.control.clock.instant();
        let report = CallReport { keys: &keys, outcome, now };
        self.update(upstream, |state| state.on_outcome(report, admission));
        upstream.recheck.notify_waiters();
    }

    /// Updates the limiter state after a call. Urgent changes are written to disk soon.
    fn update(&self, upstream_state: &UpstreamState, change: impl FnOnce(&mut LimiterState)) {
        let mut limiter = upstream_state.limiter.lock();
        change(&mut limiter);
        let (urgent, stopped) = (std::mem::take(&mut limiter.urgent), limiter.unlogged_block.take());
        let long_cooldown = limiter.unlogged_cooldown.take();
        drop(limiter);
        let target = self.call.target();
        let upstream = target.upstream.as_ref().map(|upstream| &*upstream.name);
        if let Some(rejection) = stopped {
            self.log_block(&upstream_state.name, rejection);
        }
        if let Some((scope, Rejection { reason, left })) = long_cooldown {
            let (host, reason, seconds) = (&*target.host, reason.token(), left.as_secs());
            tracing::warn!(upstream, host, scope, reason, seconds, "The origin limits calls: cooldown");
        }
        if urgent {
            self.control.registry.flush_soon();
        }
    }

    fn log_block(&self, name: &str, rejection: Rejection) {
        let reason = rejection.reason.token();
        if rejection.is_until_released() {
            tracing::warn!(
                upstream = name,
                reason,
                "The quota of a credential is spent: its calls are blocked until `larder upstreams release`"
            );
            return;
        }
        let upstream = self.call.target().upstream.as_ref().map(|upstream| &*upstream.name);
        let seconds = rejection.left.as_secs();
        tracing::warn!(upstream, reason, seconds, "All calls to an upstream are blocked");
    }

    fn abandon(&mut self) {
        let Some(ActiveCall { upstream, mut admission }) = self.active.take() else {
            return;
        };
        upstream.limiter.lock().on_abandoned(&mut admission);
        upstream.recheck.notify_waiters();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.finish_without_body();
        self.abandon();
    }
}
