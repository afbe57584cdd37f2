//! How a response, or its absence, affects later calls.
//!
//! Owns: which cooldown begins, is renewed or ends; what is learned. Pure: time is an argument. Never
//! touches: how a response is classified (`classify`).

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::policy::upstream::{OutcomeClass, RateLimitKind};
use crate::semantics::rate_limit::LimitScope;
use crate::upstream::admission::failure_groups::FailureKind;
use crate::upstream::admission::state::{Admission, LimitKeys, LimiterState, bucket_id, entry, of};
use crate::upstream::cooldown::{CooldownScope, WORTH_KEEPING};
use crate::upstream::outcome::CallOutcome;
use crate::upstream::rate_limiter::AdaptiveLimit;
use crate::upstream::rejection::RejectReason;
use crate::upstream::retry::backoff;

/// A response that counts towards a ban limit of at most this many is written to disk at once.
const URGENT_LIMIT: u32 = 64;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallEnd {
    /// With a response.
    Answered(StatusCode),
    /// Without a response, though the origin was reached.
    Broken,
    /// With an error, or without a response, for which the call's own client may be the cause. The call
    /// counts towards limits and the ban guard, but starts no cooldown of its origin.
    Spared(Option<StatusCode>),
    /// The origin was not reached.
    Unreached,
}

impl CallEnd {
    /// The same end of a call whose failures its own client may have caused.
    pub(super) fn spared(self, class: OutcomeClass) -> Self {
        match (class, self) {
            (OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::RateLimited(_), _)
            | (_, Self::Spared(_)) => self,
            (_, Self::Answered(status)) => Self::Spared(Some(status)),
            (_, Self::Broken | Self::Unreached) => Self::Spared(None),
        }
    }
}

impl LimiterState {
    /// A call was completed: it got a response, or failed.
    pub(super) fn on_completed(
        &mut self,
        subject: &LimitKeys<'_>,
        admission: &mut Admission,
        outcome: &CallOutcome,
        end: CallEnd,
        now: Instant,
    ) {
        self.on_head(subject, admission, outcome, end, now);
        match end {
            CallEnd::Unreached => {
                self.free(admission);
                let origin = CooldownScope::Origin(subject.origin);
                self.cool_down_group(origin, subject, admission, outcome, now);
                self.trip_breaker(subject, admission, now);
            }
            CallEnd::Spared(_) => self.free(admission),
            CallEnd::Answered(_) | CallEnd::Broken => {
                self.on_outcome(subject, admission, outcome, now)
            }
        }
    }

    /// A call is no longer in flight. Its outcome is applied now, or once its body was read.
    pub(super) fn on_head(
        &mut self,
        subject: &LimitKeys<'_>,
        admission: &mut Admission,
        outcome: &CallOutcome,
        end: CallEnd,
        now: Instant,
    ) {
        self.ended(admission);
        self.update_limits(subject, admission, outcome, now);
        if let CallEnd::Answered(status) | CallEnd::Spared(Some(status)) = end {
            self.count_for_ban_guard(subject, outcome, status, now);
        }
    }

    /// Applies the outcome of a response, or of its body that was read later.
    pub(super) fn on_outcome(
        &mut self,
        subject: &LimitKeys<'_>,
        admission: &Admission,
        outcome: &CallOutcome,
        now: Instant,
    ) {
        match outcome.class {
            OutcomeClass::Ok | OutcomeClass::Auth => self.on_success(subject, admission, now),
            OutcomeClass::RateLimited(limit) => {
                self.run.reset();
                self.free(admission);
                self.on_rate_limited(subject, outcome, limit, now);
            }
            OutcomeClass::Server | OutcomeClass::Timeout | OutcomeClass::Network => {
                self.on_failure(subject, admission, outcome, now);
            }
        }
    }

    /// A call ended without an outcome.
    pub(super) fn abandoned(&mut self, admission: &mut Admission) {
        self.ended(admission);
        self.free(admission);
        if let Some((limit, queue)) = admission.learned.and_then(|id| of(&mut self.learned, id)) {
            limit.on_no_answer();
            queue.wake();
        }
    }

    fn update_limits(
        &mut self,
        subject: &LimitKeys<'_>,
        admission: &Admission,
        outcome: &CallOutcome,
        now: Instant,
    ) {
        let quota = outcome.quota.as_ref();
        if let Some(bucket) = quota.and_then(|quota| quota.bucket.as_ref()) {
            self.belongs(subject.knock, bucket);
        }
        let Some(counted) = admission.learned else { return };
        // The response may name another bucket than the one that the call was counted towards.
        let named = quota
            .and_then(|quota| quota.bucket.as_ref())
            .map_or(counted, |bucket| bucket_id(bucket, subject));
        let own_limit = quota.filter(|quota| quota.whose == LimitScope::Callers);
        let other =
            Some(counted).filter(|_| named != counted).and_then(|id| of(&mut self.learned, id));
        if let Some((limit, queue)) = other {
            limit.on_no_answer();
            queue.wake();
        }
        let (limit, queue) = entry(&mut self.learned, named, now, AdaptiveLimit::default);
        if named != counted {
            limit.send();
        }
        limit.on_response(own_limit, now);
        queue.wake();
    }

    /// Counts the response for the ban guard.
    fn count_for_ban_guard(
        &mut self,
        subject: &LimitKeys<'_>,
        outcome: &CallOutcome,
        status: StatusCode,
        now: Instant,
    ) {
        let Some(rule) = &subject.conduct.ban_guard else { return };
        let shared = outcome.class == OutcomeClass::RateLimited(RateLimitKind::Shared);
        let counts = self.guard.count(rule, status, shared, now);
        self.unsaved.guard |= counts;
        // In a large limit, losing the responses of a third of a second does not matter.
        self.urgent |= counts && rule.limit.count <= URGENT_LIMIT;
        if let Some(left) = self.guard.tripped(rule, now) {
            self.block_upstream(left, RejectReason::InvalidRequests, now);
        }
    }

    /// Blocks all calls to the upstream. A warning is logged unless they are already blocked for the same
    /// reason.
    fn block_upstream(&mut self, time: Duration, reason: RejectReason, now: Instant) {
        if self.holds.cause(CooldownScope::Upstream) != Some(reason) {
            self.stopped = Some((reason, time));
        }
        self.start_cooldown(CooldownScope::Upstream, time, reason, now);
    }

    /// Begins a firm cooldown, which is stored if it is long enough.
    fn start_cooldown(
        &mut self,
        scope: CooldownScope,
        time: Duration,
        reason: RejectReason,
        now: Instant,
    ) {
        self.holds.begin(scope, time, reason, true, now);
        if reason.outlives() && time >= WORTH_KEEPING {
            (self.unsaved.holds, self.urgent) = (true, true);
        }
    }

    fn on_success(&mut self, subject: &LimitKeys<'_>, admission: &Admission, now: Instant) {
        self.run.reset();
        for (member, failing) in subject.levels().into_iter().zip(&mut self.failing) {
            failing.succeeded(member);
            self.holds.lift(member.group, now);
        }
        let own = subject.knock.key.map(CooldownScope::Key);
        for scope in own.into_iter().chain(admission.probes.iter().copied()) {
            self.holds.lift(scope, now);
        }
    }

    /// A 5xx, or no complete response in time. It puts only its key into a cooldown. Three different failing
    /// members of a group, without a success in between, put the group into one cooldown.
    fn on_failure(
        &mut self,
        subject: &LimitKeys<'_>,
        admission: &Admission,
        outcome: &CallOutcome,
        now: Instant,
    ) {
        let reason = RejectReason::Failed(outcome.class);
        let rule = &subject.knock.hold;
        let requested = retry_after(subject, outcome);
        let in_cooldown =
            subject.knock.key.is_some_and(|key| self.holds.is_known(CooldownScope::Key(key)));
        if let Some(key) = subject.knock.key {
            let time = requested.unwrap_or(rule.cooldown);
            match requested {
                Some(_) => self.start_cooldown(CooldownScope::Key(key), time, reason, now),
                None => self.holds.begin(CooldownScope::Key(key), time, reason, false, now),
            }
        }
        self.free(admission);
        for (level, member) in subject.levels().into_iter().enumerate() {
            let probes = admission.probes.contains(&member.group);
            let failure =
                FailureKind { probes, is_held: in_cooldown, hold: rule.cooldown, at: now };
            if self.failing[level].failed(member, failure) {
                self.cool_down_group(member.group, subject, admission, outcome, now);
            }
        }
        self.trip_breaker(subject, admission, now);
    }

    /// Only its probe renews the cooldown of a group. Calls that pass without being the probe must not delay
    /// the probe of the others.
    fn cool_down_group(
        &mut self,
        group: CooldownScope,
        subject: &LimitKeys<'_>,
        admission: &Admission,
        outcome: &CallOutcome,
        now: Instant,
    ) {
        if !self.holds.is_known(group) || admission.probes.contains(&group) {
            let time = subject.knock.hold.cooldown;
            self.holds.begin(group, time, RejectReason::Failed(outcome.class), false, now);
        }
    }

    /// The circuit breaker: it opens after another failure, or after a failed probe while it is open.
    fn trip_breaker(&mut self, subject: &LimitKeys<'_>, admission: &Admission, now: Instant) {
        let Some(rule) = &subject.conduct.breaker else { return };
        let was_probe = admission.probes.contains(&CooldownScope::Upstream);
        if self.run.failed(rule, now) || was_probe {
            self.block_upstream(rule.open_for, RejectReason::Breaker, now);
        }
    }

    /// The origin responded that there are too many calls.
    fn on_rate_limited(
        &mut self,
        subject: &LimitKeys<'_>,
        outcome: &CallOutcome,
        limit: RateLimitKind,
        now: Instant,
    ) {
        let scope = self.rate_limit_scope(subject, outcome, limit);
        let time = retry_after(subject, outcome).unwrap_or_else(|| {
            // The middle of the jitter, so that clients that back off return when the cooldown is over.
            let wait = backoff(&subject.knock.backoff, self.holds.times(scope), 0.5);
            wait.min(subject.knock.hold.max_cooldown)
        });
        if let CooldownScope::Bucket(bucket) = scope
            && time >= WORTH_KEEPING
        {
            self.held_after(bucket, subject.knock.shape);
        }
        self.start_cooldown(scope, time, RejectReason::Failed(outcome.class), now);
    }

    fn rate_limit_scope(
        &self,
        subject: &LimitKeys<'_>,
        outcome: &CallOutcome,
        limit: RateLimitKind,
    ) -> CooldownScope {
        let call = subject.knock;
        let bucket = self.bucket_of(subject).map(CooldownScope::Bucket);
        let whose = outcome.quota.as_ref().map(|quota| quota.whose).unwrap_or_default();
        let callers = CooldownScope::Credential(subject.credential);
        match (limit, whose) {
            (RateLimitKind::Shared, _) | (_, LimitScope::Shared) => {
                call.key.map(CooldownScope::Key).or(bucket).unwrap_or(callers)
            }
            (RateLimitKind::Quota, _) | (_, LimitScope::Global) => callers,
            (RateLimitKind::Minute, LimitScope::Callers) => bucket.unwrap_or(callers),
        }
    }
}

/// The time from the origin's `Retry-After`, if it is honoured. A time of zero counts as none.
fn retry_after(subject: &LimitKeys<'_>, outcome: &CallOutcome) -> Option<Duration> {
    let heeded = subject.knock.heeds || outcome.wait.is_some_and(|wait| wait.quota);
    outcome.bounded_retry_after(&subject.knock.hold).filter(|_| heeded)
}
