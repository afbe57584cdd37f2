//! The limiter state of one upstream: cooldowns, queues, windows, calls in flight.
//!
//! Owns: whether a call goes out now. Pure except for waking waiters: time is an argument. Never touches:
//! waiting (`admission`), the effects of responses (`feedback`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::policy::upstream::{Rate, UpstreamPolicy};
use crate::semantics::rate_limit::Bucket;
use crate::upstream::admission::MAX_LIMITS;
use crate::upstream::admission::ban_guard::BanGuard;
use crate::upstream::admission::call::{AttemptKind, CallContext};
use crate::upstream::admission::circuit_breaker;
use crate::upstream::admission::cooldown::{CooldownCheck, CooldownScope, Cooldowns};
use crate::upstream::admission::failure_groups::{FailureGroups, GroupMember};
use crate::upstream::admission::limit_store::UnsavedLimits;
use crate::upstream::admission::rate_limiter::{AdaptiveLimit, SlidingWindow, Write};
use crate::upstream::admission::rejection::{RejectReason, Rejection};
use crate::upstream::admission::retry_budget::RetryBudget;
use crate::upstream::admission::wait_queue::{QueuePosition, WaitQueue};
use crate::upstream::routing::UpstreamTarget;

/// The state of one upstream. It outlives configurations.
#[derive(Debug)]
pub(super) struct UpstreamState {
    /// The configured name, or the host and port.
    pub(super) name: Arc<str>,
    pub(super) limiter: Mutex<LimiterState>,
    /// Notified when a cooldown or its probe ended, or when credits were released.
    pub(super) recheck: Notify,
}

/// How long a call that its client stalls keeps a slot that other calls wait for.
const STALL_TIME: Duration = Duration::from_secs(1);

/// The limiter state of an upstream.
#[derive(Debug, Default)]
pub(super) struct LimiterState {
    pub(super) cooldowns: Cooldowns,
    pub(super) failure_streak: circuit_breaker::FailureStreak,
    pub(super) ban_guard: BanGuard,
    pub(super) retry_budget: RetryBudget,
    /// The windows of the configured limit, by credential.
    pub(super) windows: HashMap<u128, (SlidingWindow, WaitQueue)>,
    /// The learned limits, by credential or bucket.
    pub(super) learned: HashMap<u128, (AdaptiveLimit, WaitQueue)>,
    /// The bucket of the calls of a shape.
    pub(super) buckets: HashMap<u64, Bucket>,
    /// Calls that wait because too many calls are in flight.
    pub(super) in_flight_queue: WaitQueue,
    pub(super) in_flight: usize,
    /// Calls in flight that their clients stall, not counted in `in_flight`; the oldest first.
    stalled: VecDeque<ClientStall>,
    last_number: u64,
    /// The failing keys of endpoints, endpoints of families, and families of origins.
    pub(super) failure_groups: [FailureGroups; LEVELS],
    /// The shape of the call after which the cooldown of a bucket began, by bucket.
    pub(super) bucket_shapes: HashMap<u128, u64>,
    pub(super) unsaved: UnsavedLimits,
    /// Whether some changes must be written to disk at once.
    pub(super) urgent: bool,
    /// The reason and time of a block of all calls that has not been logged yet.
    pub(super) unlogged_block: Option<(RejectReason, Duration)>,
}

/// A call that its client stalls.
#[derive(Debug)]
struct ClientStall {
    number: u64,
    since: Instant,
    /// Notifies the call that it must end.
    preempted: Arc<Notify>,
}

/// The queue in which a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueKind {
    Window(u128),
    Learned(u128),
    InFlight,
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

/// The slot of a call among the calls in flight of its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum CallSlot {
    /// Counted for `rate_limit.in_flight`.
    InFlight,
    /// Stalled by its client, with its number among the stalled calls.
    Stalled(u64),
    /// None: the call has ended.
    #[default]
    Released,
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

/// The number of levels of failure groups.
const LEVELS: usize = 3;

/// The policy and the identifiers by which limits apply to a call at its target.
pub(super) struct LimitKeys<'a> {
    pub(super) call: &'a CallContext,
    pub(super) policy: &'a UpstreamPolicy,
    /// The host and port, hashed.
    pub(super) origin: u64,
    /// The endpoint at this origin, and its family.
    endpoint: u64,
    family: u64,
    /// The credential that the origin sees. Zero if the upstream has a credential of its own.
    pub(super) credential: u128,
}

impl<'a> LimitKeys<'a> {
    pub(super) fn new(
        call: &'a CallContext,
        policy: &'a UpstreamPolicy,
        target: &UpstreamTarget,
    ) -> Self {
        let has_own_credential =
            target.upstream.as_ref().is_some_and(|upstream| upstream.credential.is_some());
        let credential = if has_own_credential { 0 } else { call.credential };
        let origin = origin(target);
        let at_origin =
            |id: u64| xxh3_64(&(u128::from(origin) << 64 | u128::from(id)).to_le_bytes());
        let (endpoint, family) = (at_origin(call.shape), at_origin(call.family));
        Self { call, policy, origin, endpoint, family, credential }
    }

    /// The groups that the call belongs to, from the smallest to the largest.
    pub(super) fn levels(&self) -> [GroupMember; LEVELS] {
        let resource = || u128::from(self.call.resource);
        [
            GroupMember {
                group: CooldownScope::Endpoint(self.endpoint),
                number: self.call.key.unwrap_or_else(resource),
            },
            GroupMember { group: CooldownScope::Family(self.family), number: self.endpoint.into() },
            GroupMember { group: CooldownScope::Origin(self.origin), number: self.family.into() },
        ]
    }
}

fn origin(target: &UpstreamTarget) -> u64 {
    xxh3_64(format!("{}:{}", target.host, target.port).as_bytes())
}

impl LimiterState {
    /// Issues a position, which is valid in every queue.
    pub(super) fn new_position(&mut self, for_a_client: bool) -> QueuePosition {
        self.last_number += 1;
        QueuePosition { background: !for_a_client, number: self.last_number }
    }

    /// Whether a cooldown blocks the call.
    pub(super) fn check_cooldowns(&self, subject: &LimitKeys<'_>, now: Instant) -> CooldownCheck {
        if subject.call.has_stale
            && let Some(rejection) = self.probe_delay(subject, now)
        {
            return CooldownCheck::Until(rejection);
        }
        self.cooldowns.check(&self.scopes(subject), subject.call.has_stale, now)
    }

    /// The rejection of a call that leaves the probe to others. Calls that are not known to fail never do.
    fn probe_delay(&self, subject: &LimitKeys<'_>, now: Instant) -> Option<Rejection> {
        let levels = subject.levels();
        let key = subject.call.key.map(CooldownScope::Key);
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
        subject: &LimitKeys<'_>,
        position: QueuePosition,
        now: Instant,
    ) -> AdmissionDecision {
        let probes = match self.check_cooldowns(subject, now) {
            CooldownCheck::Clear(probes) => probes,
            CooldownCheck::Until(rejection) | CooldownCheck::Probing(rejection) => {
                return AdmissionDecision::Blocked(rejection);
            }
        };
        let learned = self.learned_limit(subject);
        if let Some((kind, wait)) = self.first_queue(subject, learned, position, now) {
            let queue = self.queue(kind);
            let wakeup = queue.join(position);
            // Only the first call in the queue wakes by time; the others are notified in their order.
            return AdmissionDecision::Queued(
                kind,
                wakeup,
                wait.filter(|_| queue.is_first(position)),
            );
        }
        let configured = subject.policy.rate_limit.limit.map(|_| subject.credential);
        let unsaved = configured.is_some_and(|id| self.count_sent(id, now) == Write::First);
        if let Some((limit, _)) = learned.and_then(|id| get_or_shared(&mut self.learned, id)) {
            limit.send();
        }
        self.in_flight += 1;
        self.cooldowns.start_probe(&probes);
        if subject.call.attempt == AttemptKind::First {
            self.retry_budget.record_call(now);
        }
        AdmissionDecision::Admitted(Admission {
            probes,
            probe_released: false,
            learned,
            unsaved,
            slot: CallSlot::InFlight,
        })
    }

    /// Lets another call be the probe, unless this was done before.
    pub(super) fn end_probe(&mut self, admission: &Admission) {
        if !admission.probe_released {
            self.cooldowns.end_probe(&admission.probes);
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
        if admission.slot != CallSlot::InFlight {
            return None;
        }
        self.release_slot(admission);
        self.last_number += 1;
        let preempted = Arc::default();
        self.stalled.push_back(ClientStall {
            number: self.last_number,
            since: now,
            preempted: Arc::clone(&preempted),
        });
        admission.slot = CallSlot::Stalled(self.last_number);
        Some(preempted)
    }

    /// The client that stalled the call has left, and the call continues. It counts as in flight again, even
    /// above the limit. No more calls go out until enough have ended, so clients cannot leave any number of
    /// calls behind. A call that was notified to end gets no slot.
    pub(super) fn resume(&mut self, admission: &mut Admission) {
        if let CallSlot::Stalled(number) = admission.slot {
            let had_slot = self.stalled.iter().any(|stall| stall.number == number);
            self.release_slot(admission);
            if had_slot {
                self.in_flight += 1;
                admission.slot = CallSlot::InFlight;
            }
        }
    }

    /// The call is no longer in flight.
    pub(super) fn release_slot(&mut self, admission: &mut Admission) {
        match std::mem::take(&mut admission.slot) {
            CallSlot::InFlight => self.in_flight -= 1,
            CallSlot::Stalled(number) => self.stalled.retain(|stall| stall.number != number),
            CallSlot::Released => return,
        }
        self.in_flight_queue.wake();
    }

    /// Whether one more call may be in flight. Each response may count towards a ban, so no more calls are in
    /// flight than responses are allowed before the ban guard trips. If stalled calls use up that number, the
    /// oldest must end. `Err`: no capacity; the time until a stalled call must end, if any.
    fn check_capacity(
        &mut self,
        policy: &UpstreamPolicy,
        now: Instant,
    ) -> Result<(), Option<Duration>> {
        if self.in_flight >= policy.rate_limit.in_flight {
            return Err(None);
        }
        let Some(rule) = &policy.ban_guard else { return Ok(()) };
        let allowed = self.ban_guard.left(rule, now);
        while (self.in_flight + self.stalled.len()) as u64 >= allowed {
            let oldest = self.stalled.front().filter(|_| (self.in_flight as u64) < allowed);
            let since = oldest.ok_or(None)?.since;
            let left = STALL_TIME.saturating_sub(now.saturating_duration_since(since));
            if !left.is_zero() {
                return Err(Some(left));
            }
            if let Some(oldest) = self.stalled.pop_front() {
                oldest.preempted.notify_one();
            }
        }
        Ok(())
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

    /// Leaves a queue. The next call in it is notified.
    pub(super) fn leave_queue(&mut self, kind: QueueKind, position: QueuePosition) {
        self.queue(kind).leave(position);
    }

    /// The estimated wait of the call in a queue, for `Retry-After`.
    pub(super) fn estimate_wait(
        &mut self,
        kind: QueueKind,
        position: QueuePosition,
        now: Instant,
    ) -> Duration {
        let ahead = u32::try_from(self.queue(kind).ahead(position)).unwrap_or(u32::MAX);
        match kind {
            QueueKind::Window(credential) => {
                get_or_shared(&mut self.windows, credential).map(|(window, _)| {
                    let Rate { count, per } = window.rate();
                    window.wait(now).saturating_add(per.saturating_mul(ahead / count.max(1)))
                })
            }
            QueueKind::Learned(id) => {
                get_or_shared(&mut self.learned, id).and_then(|(limit, _)| limit.wait(now))
            }
            QueueKind::InFlight => None,
        }
        .unwrap_or(Duration::from_secs(1))
    }

    /// The number of calls in all queues.
    pub(super) fn waiting(&self) -> usize {
        let windows = self.windows.values().map(|(_, queue)| queue.len());
        let learned = self.learned.values().map(|(_, queue)| queue.len());
        windows.chain(learned).sum::<usize>() + self.in_flight_queue.len()
    }

    /// The scopes of the cooldowns that may block this call.
    pub(super) fn scopes(&self, subject: &LimitKeys<'_>) -> Vec<CooldownScope> {
        let call = subject.call;
        let mut scopes = vec![
            CooldownScope::Upstream,
            CooldownScope::Origin(subject.origin),
            CooldownScope::Family(subject.family),
            CooldownScope::Endpoint(subject.endpoint),
            CooldownScope::Credential(subject.credential),
        ];
        scopes.extend(self.bucket_of(subject).map(CooldownScope::Bucket));
        // A retry ignores the soft cooldown of its own key, but not one of its origin, bucket or upstream.
        let applies = |key: &CooldownScope| {
            call.attempt == AttemptKind::First || self.cooldowns.is_firm(*key)
        };
        scopes.extend(call.key.map(CooldownScope::Key).filter(applies));
        scopes
    }

    /// The bucket of a call, if it is known.
    pub(super) fn bucket_of(&self, subject: &LimitKeys<'_>) -> Option<u128> {
        self.buckets.get(&subject.call.shape).map(|bucket| bucket_id(bucket, subject))
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
    fn learned_limit(&self, subject: &LimitKeys<'_>) -> Option<u128> {
        // Until a response names a bucket, the limit of the credential lets calls out one by one.
        let bucket = || self.bucket_of(subject).unwrap_or(subject.credential);
        subject.policy.rate_limit.learn.then(bucket)
    }

    /// The first queue in which the call has to wait, and for how long at least.
    fn first_queue(
        &mut self,
        subject: &LimitKeys<'_>,
        learned: Option<u128>,
        position: QueuePosition,
        now: Instant,
    ) -> Option<(QueueKind, Option<Duration>)> {
        let rate_limit = &subject.policy.rate_limit;
        let credential = subject.credential;
        if let Some(rate) = rate_limit.limit {
            let (window, queue) =
                entry(&mut self.windows, credential, now, || SlidingWindow::new(rate));
            window.set_rate(rate);
            let wait = window.wait(now);
            if !wait.is_zero() || !queue.is_first(position) {
                return Some((QueueKind::Window(credential), Some(wait)));
            }
        }
        if let Some(id) = learned {
            let (limit, queue) = entry(&mut self.learned, id, now, AdaptiveLimit::default);
            let wait = limit.wait(now);
            if wait != Some(Duration::ZERO) || !queue.is_first(position) {
                return Some((QueueKind::Learned(id), wait));
            }
        }
        if !self.in_flight_queue.is_first(position) {
            return Some((QueueKind::InFlight, None));
        }
        self.check_capacity(subject.policy, now).err().map(|wait| (QueueKind::InFlight, wait))
    }

    pub(super) fn queue(&mut self, kind: QueueKind) -> &mut WaitQueue {
        match kind {
            QueueKind::Window(credential) => {
                let rate = Rate { count: 1, per: Duration::from_secs(1) };
                let id = own_or_shared(&self.windows, credential);
                &mut self
                    .windows
                    .entry(id)
                    .or_insert_with(|| (SlidingWindow::new(rate), WaitQueue::default()))
                    .1
            }
            QueueKind::Learned(id) => {
                let id = own_or_shared(&self.learned, id);
                &mut self.learned.entry(id).or_default().1
            }
            QueueKind::InFlight => &mut self.in_flight_queue,
        }
    }
}

/// A limit that may be removed.
pub(super) trait Evictable {
    /// When the limit was last relevant. `None`: it blocks no call, now or soon.
    fn last_relevant(&self, now: Instant) -> Option<Instant>;

    /// Whether it lets out no more calls for now.
    fn is_exhausted(&self, now: Instant) -> bool;
}

impl Evictable for SlidingWindow {
    fn last_relevant(&self, now: Instant) -> Option<Instant> {
        self.last().filter(|_| !self.is_over(now))
    }

    fn is_exhausted(&self, now: Instant) -> bool {
        !self.is_over(now) && self.is_full()
    }
}

impl Evictable for AdaptiveLimit {
    fn last_relevant(&self, now: Instant) -> Option<Instant> {
        self.resets().filter(|resets| *resets > now)
    }

    fn is_exhausted(&self, now: Instant) -> bool {
        self.remaining(now) == Some(0)
    }
}

/// Below this number of evictable limits, none is evicted.
const MIN_EVICTABLE: usize = MAX_LIMITS / 16;

/// The limit that all credentials without a limit of their own share.
const OVERFLOW: u128 = u128::MAX;

/// The entry of `id`. If there are too many entries, those that block no call are removed, then the older
/// half of those with capacity left. If all are exhausted, new credentials share one limit: a client that
/// makes up credentials must not reset the limits of others, nor evade its own.
pub(super) fn entry<T: Evictable>(
    all: &mut HashMap<u128, (T, WaitQueue)>,
    id: u128,
    now: Instant,
    new: impl FnOnce() -> T,
) -> &mut (T, WaitQueue) {
    let known = all.contains_key(&id);
    if !known && all.len() >= MAX_LIMITS {
        make_room(all, now);
    }
    let id = if known || all.len() < MAX_LIMITS { id } else { OVERFLOW };
    all.entry(id).or_insert_with(|| (new(), WaitQueue::default()))
}

fn make_room<T: Evictable>(all: &mut HashMap<u128, (T, WaitQueue)>, now: Instant) {
    all.retain(|_, (limit, queue)| !queue.is_empty() || limit.last_relevant(now).is_some());
    let can_evict = |limit: &T, queue: &WaitQueue| queue.is_empty() && !limit.is_exhausted(now);
    let evictable = all.values().filter(|(limit, queue)| can_evict(limit, queue));
    let mut last: Vec<_> = evictable.map(|(limit, _)| limit.last_relevant(now)).collect();
    // With few evictable limits, each new entry would evict them again.
    if all.len() < MAX_LIMITS || last.len() < MIN_EVICTABLE {
        return;
    }
    let middle = last.len() / 2;
    let (_, middle, _) = last.select_nth_unstable(middle);
    let middle = *middle;
    all.retain(|_, (limit, queue)| !can_evict(limit, queue) || limit.last_relevant(now) > middle);
}

/// The key of the entry of `id`: its own, or the shared one.
fn own_or_shared<T>(all: &HashMap<u128, T>, id: u128) -> u128 {
    if all.contains_key(&id) { id } else { OVERFLOW }
}

/// The entry of `id`, or the shared one.
pub(super) fn get_or_shared<T>(all: &mut HashMap<u128, T>, id: u128) -> Option<&mut T> {
    let id = own_or_shared(all, id);
    all.get_mut(&id)
}

/// The bucket of a call: one per credential, and per resource if the origin separates them.
pub(super) fn bucket_id(bucket: &Bucket, subject: &LimitKeys<'_>) -> u128 {
    let mut id = Xxh3::new();
    id.update(bucket.name.as_bytes());
    id.update(&subject.credential.to_be_bytes());
    if bucket.per_resource {
        id.update(&subject.call.resource.to_be_bytes());
    }
    id.digest128()
}

/// The reason to reject a call that waited too long in a queue.
pub(super) fn queue_timeout_reason(kind: QueueKind) -> RejectReason {
    match kind {
        QueueKind::Window(_) | QueueKind::Learned(_) => RejectReason::RateLimit,
        QueueKind::InFlight => RejectReason::InFlight,
    }
}
