//! How a response, or its absence, affects later calls.
//!
//! Owns: which cooldown begins, is renewed or ends; what is learned. Pure: time is an argument. Never
//! touches: how a response is classified (`upstream::outcome::classify`).

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::policy::upstream::{OutcomeClass, RateLimitKind};
use crate::semantics::rate_limit::LimitScope;
use crate::upstream::admission::call::{LimitKeys, bucket_id};
use crate::upstream::admission::cooldown::{CooldownScope, MIN_STORED_TIME};
use crate::upstream::admission::failure_groups::FailureKind;
use crate::upstream::admission::limit_map::{entry, get_or_shared};
use crate::upstream::admission::rate_limiter::AdaptiveLimit;
use crate::upstream::admission::rejection::{RejectReason, Rejection};
use crate::upstream::admission::state::{Admission, LimiterState};
use crate::upstream::outcome::{CallOutcome, RetryAfter};

/// A response that counts towards a ban limit of at most this many is written to disk at once.
const URGENT_LIMIT: u32 = 64;

/// A cooldown after a rate limit that lasts at least this long is logged.
const LONG_COOLDOWN: Duration = Duration::from_secs(60);

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallEnd {
    /// With a response.
    Response(StatusCode),
    /// Without a response, though the origin was reached.
    NoResponse,
    /// With an error, or without a response, for which the call's own client may be the cause. The call
    /// counts towards limits and the ban guard, but starts no cooldown of its origin.
    ClientFault(Option<StatusCode>),
    /// The origin was not reached.
    Unreachable,
}

impl CallEnd {
    /// The same end of a call whose failures its own client may have caused.
    pub(super) fn attribute_to_client(self, class: OutcomeClass) -> Self {
        match (class, self) {
            (OutcomeClass::Ok | OutcomeClass::Auth | OutcomeClass::RateLimited(_), _)
            | (_, Self::ClientFault(_)) => self,
            (_, Self::Response(status)) => Self::ClientFault(Some(status)),
            (_, Self::NoResponse | Self::Unreachable) => Self::ClientFault(None),
        }
    }
}

/// The outcome of a call, for the limits and cooldowns that apply to it.
#[derive(Clone, Copy)]
pub(super) struct CallReport<'a> {
    pub(super) keys: &'a LimitKeys<'a>,
    pub(super) outcome: &'a CallOutcome,
    pub(super) now: Instant,
}

impl LimiterState {
    /// A call was completed: it got a response, or failed.
    pub(super) fn on_completed(&mut self, report: CallReport<'_>, admission: &mut Admission, end: CallEnd) {
        self.on_head(report, admission, end);
        match end {
            CallEnd::Unreachable => {
                self.end_probe(admission);
                let origin = CooldownScope::Origin(report.keys.origin);
                self.cool_down_group(origin, report, admission);
                self.trip_breaker(report, admission);
            }
            CallEnd::ClientFault(_) => self.end_probe(admission),
            CallEnd::Response(_) | CallEnd::NoResponse => {
                self.on_outcome(report, admission);
            }
        }
    }

    /// A call is no longer in flight. Its outcome is applied now, or once its body was read.
    pub(super) fn on_head(&mut self, report: CallReport<'_>, admission: &mut Admission, end: CallEnd) {
        self.slots.release(&mut admission.slot);
        self.update_limits(report, admission);
        if let CallEnd::Response(status) | CallEnd::ClientFault(Some(status)) = end {
            self.count_for_ban_guard(report, status);
        }
    }

    /// Applies the outcome of a response, or of its body that was read later.
    pub(super) fn on_outcome(&mut self, report: CallReport<'_>, admission: &Admission) {
        match report.outcome.class {
            OutcomeClass::Ok | OutcomeClass::Auth => self.on_success(report, admission),
            OutcomeClass::RateLimited(limit) => {
                self.failure_streak.reset();
                self.end_probe(admission);
                self.on_rate_limited(report, limit);
            }
            OutcomeClass::Server | OutcomeClass::Timeout | OutcomeClass::Network => {
                self.on_failure(report, admission);
            }
        }
    }

    /// A call ended without an outcome.
    pub(super) fn on_abandoned(&mut self, admission: &mut Admission) {
        self.slots.release(&mut admission.slot);
        self.end_probe(admission);
        if let Some((limit, queue)) = admission.learned.and_then(|id| get_or_shared(&mut self.learned, id)) {
            limit.on_no_response();
            queue.wake();
        }
    }

    fn update_limits(&mut self, report: CallReport<'_>, admission: &Admission) {
        let CallReport { keys, outcome, now } = report;
        let quota = outcome.quota.as_ref();
        if let Some(bucket) = quota.and_then(|quota| quota.bucket.as_ref()) {
            self.assign_bucket(keys.call, bucket);
        }
        let Some(counted) = admission.learned else { return };
        // The response may name another bucket than the one that the call was counted towards.
        let named =
            quota.and_then(|quota| quota.bucket.as_ref()).map_or(counted, |bucket| bucket_id(bucket, keys));
        let own_limits = outcome.limits.iter().filter(|limit| limit.scope == LimitScope::Caller);
        let other =
            Some(counted).filter(|_| named != counted).and_then(|id| get_or_shared(&mut self.learned, id));
        if let Some((limit, queue)) = other {
            limit.on_no_response();
            queue.wake();
        }
        let (limit, queue) = entry(&mut self.learned, named, now, AdaptiveLimit::default);
        if named != counted {
            limit.send();
        }
        limit.on_response(own_limits, now);
        queue.wake();
        self.cool_down_endpoint(report);
    }

    /// A limit of the endpoint that is exhausted: its calls stop before one is refused.
    fn cool_down_endpoint(&mut self, report: CallReport<'_>) {
        let CallReport { keys, outcome, now } = report;
        let own = outcome.limits.iter().filter(|limit| limit.scope == LimitScope::Endpoint);
        if let Some(left) = own.filter(|limit| limit.is_exhausted()).filter_map(|limit| limit.resets_in).max()
        {
            let reason = RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute));
            let scope = CooldownScope::Bucket(keys.endpoint_limit());
            self.start_cooldown(scope, Rejection { reason, left }, now);
        }
    }

    /// Counts the response for the ban guard.
    fn count_for_ban_guard(&mut self, report: CallReport<'_>, status: StatusCode) {
        let CallReport { keys, outcome, now } = report;
        let Some(rule) = &keys.policy.ban_guard else { return };
        let shared = outcome.class == OutcomeClass::RateLimited(RateLimitKind::Shared);
        let counts = self.ban_guard.count(rule, status, shared, now);
        self.unsaved.ban_guard |= counts;
        // In a large limit, losing the responses of a third of a second does not matter.
        self.urgent |= counts && rule.limit.count <= URGENT_LIMIT;
        if let Some(left) = self.ban_guard.tripped(rule, now) {
            self.block_upstream(Rejection { reason: RejectReason::BanGuard, left }, now);
        }
    }

    /// Blocks all calls to the upstream. A warning is logged unless they are already blocked for the same
    /// reason.
    fn block_upstream(&mut self, rejection: Rejection, now: Instant) {
        if self.cooldowns.reason(CooldownScope::Upstream) != Some(rejection.reason) {
            self.unlogged_block = Some(rejection);
        }
        self.start_cooldown(CooldownScope::Upstream, rejection, now);
    }

    /// Begins a firm cooldown, which is stored if it is long enough.
    fn start_cooldown(&mut self, scope: CooldownScope, rejection: Rejection, now: Instant) {
        self.cooldowns.begin(scope, rejection, true, now);
        if rejection.reason.is_stored() && rejection.left >= MIN_STORED_TIME {
            (self.unsaved.cooldowns, self.urgent) = (true, true);
        }
    }

    fn on_success(&mut self, report: CallReport<'_>, admission: &Admission) {
        let CallReport { keys, now, .. } = report;
        self.failure_streak.reset();
        self.resume_retries(keys);
        for (member, failing) in keys.levels().into_iter().zip(&mut self.failure_groups) {
            failing.on_success(member);
            self.cooldowns.lift(member.group, now);
        }
        let own = keys.call.key.map(CooldownScope::Key);
        for scope in own.into_iter().chain(admission.probes.iter().copied()) {
            self.cooldowns.lift(scope, now);
        }
    }

    /// A 5xx, or no complete response in time. It puts only its key into a cooldown. Three different failing
    /// members of a group, without a success in between, put the group into one cooldown.
    fn on_failure(&mut self, report: CallReport<'_>, admission: &Admission) {
        let CallReport { keys, outcome, now } = report;
        let reason = RejectReason::Failed(outcome.class);
        let rule = &keys.call.routed.policy.cooldown;
        let requested = retry_after(keys, outcome);
        let in_cooldown = keys.call.key.is_some_and(|key| self.cooldowns.contains(CooldownScope::Key(key)));
        if let Some(key) = keys.call.key {
            let rejection = Rejection { reason, left: requested.unwrap_or(rule.cooldown) };
            match requested {
                Some(_) => self.start_cooldown(CooldownScope::Key(key), rejection, now),
                None => self.cooldowns.begin(CooldownScope::Key(key), rejection, false, now),
            }
        }
        self.end_probe(admission);
        for (level, member) in keys.levels().into_iter().enumerate() {
            let probes = admission.probes.contains(&member.group);
            let failure = FailureKind { is_probe: probes, in_cooldown, cooldown: rule.cooldown, at: now };
            if self.failure_groups[level].on_failure(member, failure) {
                self.cool_down_group(member.group, report, admission);
            }
        }
        self.trip_breaker(report, admission);
    }

    /// Only its probe renews the cooldown of a group. Calls that pass without being the probe must not delay
    /// the probe of the others.
    fn cool_down_group(&mut self, group: CooldownScope, report: CallReport<'_>, admission: &Admission) {
        if !self.cooldowns.contains(group) || admission.probes.contains(&group) {
            let reason = RejectReason::Failed(report.outcome.class);
            let left = report.keys.call.routed.policy.cooldown.cooldown;
            self.cooldowns.begin(group, Rejection { reason, left }, false, report.now);
        }
    }

    /// The circuit breaker: it opens after another failure, or after a failed probe while it is open.
    fn trip_breaker(&mut self, report: CallReport<'_>, admission: &Admission) {
        let CallReport { keys, now, .. } = report;
        let Some(rule) = &keys.policy.breaker else { return };
        let was_probe = admission.probes.contains(&CooldownScope::Upstream);
        if self.failure_streak.failed(rule, now) || was_probe {
            let rejection = Rejection { reason: RejectReason::Breaker, left: rule.open_for };
            self.block_upstream(rejection, now);
        }
    }

    /// The origin responded that there are too many calls.
    fn on_rate_limited(&mut self, report: CallReport<'_>, limit: RateLimitKind) {
        let CallReport { keys, outcome, now } = report;
        let scope = self.rate_limit_scope(report, limit);
        let left = retry_after(keys, outcome).unwrap_or_else(|| {
            // The middle of the jitter, so that clients that back off return when the cooldown is over.
            let wait = keys.call.routed.policy.retry.backoff.delay(self.cooldowns.times(scope), 0.5);
            wait.min(keys.call.routed.policy.cooldown.max_cooldown)
        });
        if let CooldownScope::Bucket(bucket) = scope
            && left >= MIN_STORED_TIME
        {
            self.remember_bucket_shape(bucket, keys.call.shape);
        }
        let rejection = Rejection { reason: RejectReason::Failed(outcome.class), left };
        if rejection.is_until_released() && !self.cooldowns.is_until_released(scope, now) {
            self.unlogged_block = Some(rejection);
        } else if left >= LONG_COOLDOWN && !self.cooldowns.contains(scope) {
            self.unlogged_cooldown = Some((scope.token(), rejection));
        }
        self.start_cooldown(scope, rejection, now);
    }

    fn rate_limit_scope(&self, report: CallReport<'_>, limit: RateLimitKind) -> CooldownScope {
        let CallReport { keys, outcome, .. } = report;
        let call = keys.call;
        let bucket = self.bucket_of(keys).map(CooldownScope::Bucket);
        let whose = outcome.quota.as_ref().map(|quota| quota.scope).unwrap_or_default();
        let callers = CooldownScope::Credential(keys.credential);
        match (limit, whose) {
            (RateLimitKind::Shared, _) | (_, LimitScope::Shared) => {
                call.key.map(CooldownScope::Key).or(bucket).unwrap_or(callers)
            }
            (RateLimitKind::Quota, _) | (_, LimitScope::Global) => callers,
            (RateLimitKind::Minute, LimitScope::Endpoint) => CooldownScope::Bucket(keys.endpoint_limit()),
            (RateLimitKind::Minute, LimitScope::Caller) => bucket.unwrap_or(callers),
        }
    }
}

/// The time from the origin's `Retry-After`, if it is honoured. A time of zero counts as none.
fn retry_after(keys: &LimitKeys<'_>, outcome: &CallOutcome) -> Option<Duration> {
    let is_honoured =
        |wait: &RetryAfter| keys.call.routed.policy.retry.honour_retry_after || wait.is_quota_end;
    outcome.retry_after.filter(is_honoured)?.bounded(&keys.call.routed.policy.cooldown)
}
