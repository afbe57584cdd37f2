//! What an answer, or the lack of one, changes for the calls to come.
//!
//! Owns: which hold begins, is renewed or ends; what is learned. Pure: time is an argument. Never
//! touches: how an answer is read (`classify`).

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

/// Each answer that counts towards a limit of so few is on disk at once.
const FEW: u32 = 64;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallEnd {
    /// With an answer.
    Answered(StatusCode),
    /// Without one, though there was a way to the origin.
    Broken,
    /// As its own client may be the reason for: by this error, or without an answer. It counts towards limits
    /// and a ban, and its origin is not held for it.
    Spared(Option<StatusCode>),
    /// There was none.
    Unreached,
}

impl CallEnd {
    /// The same of a call whose failures its own client may be the reason for.
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
    /// A call was answered, or failed.
    pub(super) fn on_completed(
        &mut self,
        subject: &LimitKeys<'_>,
        ticket: &mut Admission,
        verdict: &CallOutcome,
        end: CallEnd,
        now: Instant,
    ) {
        self.on_head(subject, ticket, verdict, end, now);
        match end {
            CallEnd::Unreached => {
                self.free(ticket);
                let origin = CooldownScope::Origin(subject.origin);
                self.hold_group(origin, subject, ticket, verdict, now);
                self.trip(subject, ticket, now);
            }
            CallEnd::Spared(_) => self.free(ticket),
            CallEnd::Answered(_) | CallEnd::Broken => {
                self.on_outcome(subject, ticket, verdict, now)
            }
        }
    }

    /// A call is no longer under way; what it comes to is found out now or once its body was read.
    pub(super) fn on_head(
        &mut self,
        subject: &LimitKeys<'_>,
        ticket: &mut Admission,
        verdict: &CallOutcome,
        end: CallEnd,
        now: Instant,
    ) {
        self.ended(ticket);
        self.update_limits(subject, ticket, verdict, now);
        if let CallEnd::Answered(status) | CallEnd::Spared(Some(status)) = end {
            self.count(subject, verdict, status, now);
        }
    }

    /// What an answer, or its body that was read later, says of the calls to come.
    pub(super) fn on_outcome(
        &mut self,
        subject: &LimitKeys<'_>,
        ticket: &Admission,
        verdict: &CallOutcome,
        now: Instant,
    ) {
        match verdict.class {
            OutcomeClass::Ok | OutcomeClass::Auth => self.succeeded(subject, ticket, now),
            OutcomeClass::RateLimited(limit) => {
                self.run.reset();
                self.free(ticket);
                self.on_rate_limited(subject, verdict, limit, now);
            }
            OutcomeClass::Server | OutcomeClass::Timeout | OutcomeClass::Network => {
                self.failed(subject, ticket, verdict, now);
            }
        }
    }

    /// A call ended without finding anything out.
    pub(super) fn abandoned(&mut self, ticket: &mut Admission) {
        self.ended(ticket);
        self.free(ticket);
        if let Some((limit, line)) = ticket.learned.and_then(|id| of(&mut self.learned, id)) {
            limit.on_no_answer();
            line.wake();
        }
    }

    fn update_limits(
        &mut self,
        subject: &LimitKeys<'_>,
        ticket: &Admission,
        verdict: &CallOutcome,
        now: Instant,
    ) {
        let quota = verdict.quota.as_ref();
        if let Some(bucket) = quota.and_then(|quota| quota.bucket.as_ref()) {
            self.belongs(subject.knock, bucket);
        }
        let Some(asked) = ticket.learned else { return };
        // The answer may name another limit than the one that the call was counted towards.
        let told = quota
            .and_then(|quota| quota.bucket.as_ref())
            .map_or(asked, |bucket| bucket_id(bucket, subject));
        let callers = quota.filter(|quota| quota.whose == LimitScope::Callers);
        let other = Some(asked).filter(|_| told != asked).and_then(|id| of(&mut self.learned, id));
        if let Some((limit, line)) = other {
            limit.on_no_answer();
            line.wake();
        }
        let (limit, line) = entry(&mut self.learned, told, now, AdaptiveLimit::default);
        if told != asked {
            limit.send();
        }
        limit.on_response(callers, now);
        line.wake();
    }

    /// The ban guard.
    fn count(
        &mut self,
        subject: &LimitKeys<'_>,
        verdict: &CallOutcome,
        status: StatusCode,
        now: Instant,
    ) {
        let Some(rule) = &subject.conduct.ban_guard else { return };
        let shared = verdict.class == OutcomeClass::RateLimited(RateLimitKind::Shared);
        let counts = self.guard.count(rule, status, shared, now);
        self.unsaved.guard |= counts;
        // Of a large count, the answers of a third of a second are no matter.
        self.urgent |= counts && rule.limit.count <= FEW;
        if let Some(left) = self.guard.tripped(rule, now) {
            self.stop(left, RejectReason::InvalidRequests, now);
        }
    }

    /// Stops all calls to the upstream; where they were not for the same cause, since the last one that went well, that is news.
    fn stop(&mut self, time: Duration, cause: RejectReason, now: Instant) {
        if self.holds.cause(CooldownScope::Upstream) != Some(cause) {
            self.stopped = Some((cause, time));
        }
        self.hold(CooldownScope::Upstream, time, cause, now);
    }

    /// Begins a firm hold, which outlives the process if it lasts a while.
    fn hold(&mut self, reach: CooldownScope, time: Duration, cause: RejectReason, now: Instant) {
        self.holds.begin(reach, time, cause, true, now);
        if cause.outlives() && time >= WORTH_KEEPING {
            (self.unsaved.holds, self.urgent) = (true, true);
        }
    }

    fn succeeded(&mut self, subject: &LimitKeys<'_>, ticket: &Admission, now: Instant) {
        self.run.reset();
        for (member, failing) in subject.levels().into_iter().zip(&mut self.failing) {
            failing.succeeded(member);
            self.holds.lift(member.group, now);
        }
        let own = subject.knock.key.map(CooldownScope::Key);
        for reach in own.into_iter().chain(ticket.probes.iter().copied()) {
            self.holds.lift(reach, now);
        }
    }

    /// 5xx, and no whole answer in time: the key alone; three different ones without a success in between speak
    /// for all of their group, once.
    fn failed(
        &mut self,
        subject: &LimitKeys<'_>,
        ticket: &Admission,
        verdict: &CallOutcome,
        now: Instant,
    ) {
        let cause = RejectReason::Failed(verdict.class);
        let rule = &subject.knock.hold;
        let word = retry_after(subject, verdict);
        let is_held =
            subject.knock.key.is_some_and(|key| self.holds.is_known(CooldownScope::Key(key)));
        if let Some(key) = subject.knock.key {
            let time = word.unwrap_or(rule.cooldown);
            match word {
                Some(_) => self.hold(CooldownScope::Key(key), time, cause, now),
                None => self.holds.begin(CooldownScope::Key(key), time, cause, false, now),
            }
        }
        self.free(ticket);
        for (level, member) in subject.levels().into_iter().enumerate() {
            let probes = ticket.probes.contains(&member.group);
            let failed = FailureKind { probes, is_held, hold: rule.cooldown, at: now };
            if self.failing[level].failed(member, failed) {
                self.hold_group(member.group, subject, ticket, verdict, now);
            }
        }
        self.trip(subject, ticket, now);
    }

    /// Only its probe renews a hold of a whole group: whoever passes it without one must not keep the
    /// others from finding out that it is back.
    fn hold_group(
        &mut self,
        group: CooldownScope,
        subject: &LimitKeys<'_>,
        ticket: &Admission,
        verdict: &CallOutcome,
        now: Instant,
    ) {
        if !self.holds.is_known(group) || ticket.probes.contains(&group) {
            let time = subject.knock.hold.cooldown;
            self.holds.begin(group, time, RejectReason::Failed(verdict.class), false, now);
        }
    }

    /// The breaker: another failure, or the one call that tried while it was open.
    fn trip(&mut self, subject: &LimitKeys<'_>, ticket: &Admission, now: Instant) {
        let Some(rule) = &subject.conduct.breaker else { return };
        let tried = ticket.probes.contains(&CooldownScope::Upstream);
        if self.run.failed(rule, now) || tried {
            self.stop(rule.open_for, RejectReason::Breaker, now);
        }
    }

    /// The origin said: too many calls.
    fn on_rate_limited(
        &mut self,
        subject: &LimitKeys<'_>,
        verdict: &CallOutcome,
        limit: RateLimitKind,
        now: Instant,
    ) {
        let reach = self.limited_reach(subject, verdict, limit);
        let time = retry_after(subject, verdict).unwrap_or_else(|| {
            // In the middle of the jitter: those who back off come when it is over.
            let wait = backoff(&subject.knock.backoff, self.holds.times(reach), 0.5);
            wait.min(subject.knock.hold.max_cooldown)
        });
        if let CooldownScope::Bucket(bucket) = reach
            && time >= WORTH_KEEPING
        {
            self.held_after(bucket, subject.knock.shape);
        }
        self.hold(reach, time, RejectReason::Failed(verdict.class), now);
    }

    fn limited_reach(
        &self,
        subject: &LimitKeys<'_>,
        verdict: &CallOutcome,
        limit: RateLimitKind,
    ) -> CooldownScope {
        let knock = subject.knock;
        let bucket = self.bucket_of(subject).map(CooldownScope::Bucket);
        let whose = verdict.quota.as_ref().map(|quota| quota.whose).unwrap_or_default();
        let callers = CooldownScope::Credential(subject.credential);
        match (limit, whose) {
            (RateLimitKind::Shared, _) | (_, LimitScope::Shared) => {
                knock.key.map(CooldownScope::Key).or(bucket).unwrap_or(callers)
            }
            (RateLimitKind::Quota, _) | (_, LimitScope::Global) => callers,
            (RateLimitKind::Minute, LimitScope::Callers) => bucket.unwrap_or(callers),
        }
    }
}

/// How long the origin asks to be left alone, as far as it is heard. A word that says "now" says
/// nothing.
fn retry_after(subject: &LimitKeys<'_>, verdict: &CallOutcome) -> Option<Duration> {
    let heeded = subject.knock.heeds || verdict.wait.is_some_and(|wait| wait.quota);
    verdict.bounded_retry_after(&subject.knock.hold).filter(|_| heeded)
}
