//! The limiter state of one upstream: cooldowns, limits, calls in flight.
//!
//! Owns: whether a call goes out now. Pure except for waking waiters: time is an argument. Never touches:
//! waiting (`admission`), the effects of responses (`feedback`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::semantics::rate_limit::Bucket;
use crate::upstream::admission::MAX_LIMITS;
use crate::upstream::admission::ban_guard::BanGuard;
use crate::upstream::admission::call::{AttemptKind, CallContext, LEVELS, LimitKeys, bucket_id};
use crate::upstream::admission::call_slots::{CallSlot, CallSlots};
use crate::upstream::admission::circuit_breaker;
use crate::upstream::admission::cooldown::{CooldownCheck, CooldownScope, Cooldowns};
use crate::upstream::admission::failure_groups::FailureGroups;
use crate::upstream::admission::limit_map::{get_or_shared, own_or_shared};
use crate::upstream::admission::limit_store::UnsavedLimits;
use crate::upstream::admission::rate_limiter::{AdaptiveLimit, SlidingWindow, Write};
use crate::upstream::admission::refusals::Refusals;
use crate::upstream::admission::rejection::Rejection;
use crate::upstream::admission::retry_budget::RetryBudget;
use crate::upstream::admission::retry_pauses::RetryPauses;
use crate::upstream::admission::wait_queue::{QueueKind, QueuePosition, WaitQueue};

/// The state of one upstream. It outlives configurations.
#[derive(Debug)]
pub(super) struct UpstreamState {
    /// The configured name, or the host and port.
    pub(super) name: Arc<str>,
    pub(super) limiter: Mutex<LimiterState>,
    /// Notified when a cooldown or its probe ended, or when credits were released.
    pub(super) recheck: Notify,
}

/// The limiter state of an upstream.
#[derive(Debug, Default)]
pub(super) struct LimiterState {
    pub(super) cooldowns: Cooldowns,
    pub(super) failure_streak: circuit_breaker::FailureStreak,
    pub(super) ban_guard: BanGuard,
    pub(super) retry_budget: RetryBudget,
    pub(super) retry_pauses: RetryPauses,
    pub(super) refusals: Refusals,
    /// The windows of the configured limit, by credential.
    pub(super) windows: HashMap<u128, (SlidingWindow, WaitQueue)>,
    /// The learned limits, by credential or bucket.
    pub(super) learned: HashMap<u128, (AdaptiveLimit, WaitQueue)>,
    /// The bucket of the calls of a shape.
    pub(super) buckets: HashMap<u64, Bucket>,
    pub(super) slots: CallSlots,
    last_number: u64,
    /// The failing keys of endpoints, endpoints of families, and families of origins.
    pub(super) failure_groups: [FailureGroups; LEVELS],
    /// The shape of the call after which the cooldown of a bucket began, by bucket.
    pub(super) bucket_shapes: HashMap<u128, u64>,
    pub(super) unsaved: UnsavedLimits,
    /// Whether some changes must be written to disk at once.
    pub(super) urgent: bool,
    /// A block of all calls that has not been logged yet.
    pub(super) unlogged_block: Option<Rejection>,
    /// A long cooldown after a rate limit that has not been logged yet, and its scope.
    pub(super) unlogged_cooldown: Option<(&'static str, Rejection)>,
}

/// The admission of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Admission {
    /// The cooldowns whose probe the call is.
    pub(super) probes: Vec<CooldownScope>,
    /// Whether another call may be their probe by now.
    pub(super) probe_released: bool,
    /// The learned limit towards which the call counts.
    pub(super) learned: Option<u128>,
    /// Whether the count of the call must reach the disk before the call goes out.
    pub(super) unsaved: bool,
    pub(super) slot: CallSlot,
}

/// The decision about a call.
#[derive(Debug)]
pub(super) enum AdmissionDecision {
    /// The call goes out.
    Admitted(Admission),
    /// The call is blocked until a cooldown or its probe ends.
    Blocked(Rejection),
    /// The call waits in a queue until it is notified or the time is over.
    Queued(QueueKind, Arc<Notify>, Option<Duration>),
}

impl LimiterState {
    /// Issues a position, which is valid in every queue.
    pub(super) fn new_position(&mut self, for_a_client: bool) -> QueuePosition {
        self.last_number += 1;
        QueuePosition { background: !for_a_client, number: self.last_number }
    }

    /// Whether a cooldown blocks the call.
    pub(super) fn check_cooldowns(&self, keys: &LimitKeys<'_>, now: Instant) -> CooldownCheck {
        if keys.call.has_stale
            && let Some(rejection) = self.probe_delay(keys, now)
        {
            return CooldownCheck::Until(rejection);
        }
        self.cooldowns.check(&self.scopes(keys), keys.call.has_stale, now)
    }

    /// The rejection of a call that leaves the probe to others. Calls that are not known to fail never do.
    fn probe_delay(&self, keys: &LimitKeys<'_>, now: Instant) -> Option<Rejection> {
        let levels = keys.levels();
        let key = keys.call.key.map(CooldownScope::Key);
        let in_cooldown = key.is_some_and(|key| self.cooldowns.contains(key));
        if !in_cooldown && !self.failure_groups[1].is_failing(levels[1]) {
            return None;
        }
        let delays = levels.into_iter().zip(&self.failure_groups).enumerate();
        delays
            .filter_map(|(level, (member, failing))| {
                // More keys may fail than are remembered.
                let left = failing.probe_delay(member, in_cooldown && level == 0, now)?;
                Some(Rejection { reason: self.cooldowns.reason(member.group)?, left })
            })
            .max_by_key(|rejection| rejection.left)
    }

    /// Admits the call, or returns what it has to wait for.
    pub(super) fn admit(
        &mut self,
        keys: &LimitKeys<'_>,
        position: QueuePosition,
        now: Instant,
    ) -> AdmissionDecision {
        let probes = match self.check_cooldowns(keys, now) {
            CooldownCheck::Clear(probes) => probes,
            CooldownCheck::Until(rejection) | CooldownCheck::Probing(rejection) => {
                return AdmissionDecision::Blocked(rejection);
            }
        };
        let learned = self.learned_limit(keys);
        if let Some((kind, wait)) = self.first_queue(keys, learned, position, now) {
            let queue = self.queue(kind);
            let wakeup = queue.join(position);
            // Only the first call in the queue wakes by time; the others are notified in their order.
            return AdmissionDecision::Queued(kind, wakeup, wait.filter(|_| queue.is_first(position)));
        }
        let configured = keys.policy.rate_limit.limit.map(|_| keys.credential);
        let unsaved = configured.is_some_and(|id| self.count_sent(id, now) == Write::First);
        if let Some((limit, _)) = learned.and_then(|id| get_or_shared(&mut self.learned, id)) {
            limit.send();
        }
        let slot = self.slots.take();
        self.cooldowns.set_probing(&probes, true);
        if keys.call.attempt == AttemptKind::First {
            self.retry_budget.record_call(now);
        }
        AdmissionDecision::Admitted(Admission { probes, probe_released: false, learned, unsaved, slot })
    }

    /// Lets another call be the probe, unless this was done before.
    pub(super) fn end_probe(&mut self, admission: &Admission) {
        if !admission.probe_released {
            self.cooldowns.set_probing(&admission.probes, false);
        }
    }

    /// Lets another call be the probe, while this call still reports its outcome later.
    pub(super) fn release_probe(&mut self, admission: &mut Admission) {
        self.end_probe(admission);
        admission.probe_released = true;
    }

    /// The client stalls the call: its slot and its probe go to other calls. Returns the notification that
    /// ends the call.
    pub(super) fn stall(&mut self, admission: &mut Admission, now: Instant) -> Option<Arc<Notify>> {
        self.end_probe(admission);
        admission.probes.clear();
        self.slots.stall(&mut admission.slot, now)
    }

    /// Counts a call towards the configured limit of a credential.
    fn count_sent(&mut self, credential: u128, now: Instant) -> Write {
        let credential = own_or_shared(&self.windows, credential);
        let Some((window, _)) = self.windows.get_mut(&credential) else { return Write::No };
        let write = window.send(now);
        if write != Write::No {
            self.unsaved.mark_window(credential, &self.windows);
        }
        write
    }

    /// The scopes of the cooldowns that may block this call.
    pub(super) fn scopes(&self, keys: &LimitKeys<'_>) -> Vec<CooldownScope> {
        let call = keys.call;
        let mut scopes = vec![
            CooldownScope::Upstream,
            CooldownScope::Origin(keys.origin),
            CooldownScope::Family(keys.family),
            CooldownScope::Endpoint(keys.endpoint),
            CooldownScope::Credential(keys.credential),
        ];
        scopes.push(CooldownScope::Bucket(keys.endpoint_limit()));
        scopes.extend(self.bucket_of(keys).map(CooldownScope::Bucket));
        // A retry ignores the soft cooldown of its own key, but not one of its origin, bucket or upstream.
        let applies =
            |key: &CooldownScope| call.attempt == AttemptKind::First || self.cooldowns.is_firm(*key);
        scopes.extend(call.key.map(CooldownScope::Key).filter(applies));
        scopes
    }

    /// Whether the retries of this call have just failed, or those of others in a cooldown that applies to it.
    pub(super) fn are_retries_paused(&self, keys: &LimitKeys<'_>, now: Instant) -> bool {
        let mut scopes = self.scopes(keys);
        scopes.push(CooldownScope::Key(keys.call.retry_id()));
        self.retry_pauses.cover(&scopes, now)
    }

    /// Pauses the retries of this call, and those of all calls in the same cooldowns.
    pub(super) fn pause_retries(&mut self, keys: &LimitKeys<'_>, now: Instant) {
        for scope in self.scopes(keys) {
            if let Some(until) = self.cooldowns.end_of(scope).filter(|until| *until > now) {
                self.retry_pauses.begin(scope, until, now);
            }
        }
        let until = now.checked_add(keys.call.routed.policy.cooldown.cooldown).unwrap_or(now);
        self.retry_pauses.begin(CooldownScope::Key(keys.call.retry_id()), until, now);
    }

    /// Ends the pauses of retries that a success of this call disproves.
    pub(super) fn resume_retries(&mut self, keys: &LimitKeys<'_>) {
        if !self.retry_pauses.is_empty() {
            let mut scopes = self.scopes(keys);
            scopes.push(CooldownScope::Key(keys.call.retry_id()));
            self.retry_pauses.end(&scopes);
        }
    }

    /// The bucket of a call, if it is known.
    pub(super) fn bucket_of(&self, keys: &LimitKeys<'_>) -> Option<u128> {
        self.buckets.get(&keys.call.shape).map(|bucket| bucket_id(bucket, keys))
    }

    /// The limits of the origin that apply to this call: its bucket, if that is known, and its credential.
    pub(super) fn limit_scopes(&self, keys: &LimitKeys<'_>) -> impl Iterator<Item = CooldownScope> + use<> {
        let bucket = self.bucket_of(keys).map(CooldownScope::Bucket);
        bucket.into_iter().chain([CooldownScope::Credential(keys.credential)])
    }

    /// Assigns calls of this shape to a bucket.
    pub(super) fn assign_bucket(&mut self, call: &CallContext, bucket: &Bucket) {
        if self.buckets.len() >= MAX_LIMITS && !self.buckets.contains_key(&call.shape) {
            self.buckets.clear();
        }
        if self.buckets.get(&call.shape) != Some(bucket) {
            self.buckets.insert(call.shape, bucket.clone());
        }
    }

    /// The learned limit of a call, if the upstream's limits are learned.
    fn learned_limit(&self, keys: &LimitKeys<'_>) -> Option<u128> {
        // Until a response names a bucket, the limit of the credential lets calls out one by one.
        let bucket = || self.bucket_of(keys).unwrap_or(keys.credential);
        keys.policy.rate_limit.learn.then(bucket)
    }
}
