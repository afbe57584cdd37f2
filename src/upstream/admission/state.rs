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
use crate::upstream::admission::call::{AttemptKind, CallContext};
use crate::upstream::admission::failure_groups::{FailureGroups, GroupMember};
use crate::upstream::admission::persistence::UnsavedLimits;
use crate::upstream::admission::wait_queue::{QueuePosition, WaitQueue};
use crate::upstream::ban_guard::BanGuard;
use crate::upstream::circuit_breaker;
use crate::upstream::cooldown::{CooldownCheck, CooldownScope, Cooldowns};
use crate::upstream::rate_limiter::{AdaptiveLimit, SlidingWindow, Write};
use crate::upstream::rejection::{RejectReason, Rejection};
use crate::upstream::retry;
use crate::upstream::routing::UpstreamTarget;

/// How many credentials and buckets have a limit of their own. Beyond it, idle ones are removed.
pub(super) const MOST: usize = 4096;

/// The state of one upstream. It outlives configurations.
#[derive(Debug)]
pub(super) struct UpstreamState {
    /// The configured name, or the host and port.
    pub(super) name: Arc<str>,
    pub(super) state: Mutex<LimiterState>,
    /// Notified when a cooldown or its probe ended, or when credits were released.
    pub(super) eased: Notify,
}

/// How long a call that its client stalls keeps a slot that other calls wait for.
const STALL_TIME: Duration = Duration::from_secs(1);

/// The limiter state of an upstream.
#[derive(Debug, Default)]
pub(super) struct LimiterState {
    pub(super) holds: Cooldowns,
    pub(super) run: circuit_breaker::FailureStreak,
    pub(super) guard: BanGuard,
    pub(super) retries: retry::RetryBudget,
    /// The windows of the configured limit, by credential.
    pub(super) windows: HashMap<u128, (SlidingWindow, WaitQueue)>,
    /// The learned limits, by credential or bucket.
    pub(super) learned: HashMap<u128, (AdaptiveLimit, WaitQueue)>,
    /// The bucket of the calls of a shape.
    pub(super) buckets: HashMap<u64, Bucket>,
    /// Calls that wait because too many calls are in flight.
    pub(super) cap: WaitQueue,
    pub(super) in_flight: usize,
    /// Calls in flight that their clients stall, not counted in `in_flight`; the oldest first.
    stalled: VecDeque<ClientStall>,
    last_number: u64,
    /// The failing keys of endpoints, endpoints of families, and families of origins.
    pub(super) failing: [FailureGroups; LEVELS],
    /// The shape of the call after which the cooldown of a bucket began, by bucket.
    pub(super) held_shapes: HashMap<u128, u64>,
    pub(super) unsaved: UnsavedLimits,
    /// Whether some changes must be written to disk at once.
    pub(super) urgent: bool,
    /// The reason and time of a block of all calls that has not been logged yet.
    pub(super) stopped: Option<(RejectReason, Duration)>,
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
    Cap,
}

/// The admission of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Admission {
    /// The cooldowns whose probe the call is.
    pub(super) probes: Vec<CooldownScope>,
    /// Whether another call may be their probe by now.
    pub(super) gave_way: bool,
    /// The learned limit towards which the call counts.
    pub(super) learned: Option<u128>,
    /// Whether the count of the call must reach the disk before the call goes out.
    pub(super) unsaved: bool,
    pub(super) seat: CallSlot,
}

/// The slot of a call among the calls in flight of its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum CallSlot {
    /// Counted for `rate_limit.in_flight`.
    Taken,
    /// Stalled by its client, with its number among the stalled calls.
    Aside(u64),
    /// None: the call has ended.
    #[default]
    Over,
}

/// The decision about a call.
#[derive(Debug)]
pub(super) enum AdmissionDecision {
    /// The call goes out.
    Go(Admission),
    /// The call is blocked until a cooldown or its probe ends.
    Hold(Rejection),
    /// The call waits in a queue until it is notified or the time is over.
    Line(QueueKind, Arc<Notify>, Option<Duration>),
}

/// The number of levels of failure groups.
const LEVELS: usize = 3;

/// The policy and the identifiers by which limits apply to a call at its target.
pub(super) struct LimitKeys<'a> {
    pub(super) knock: &'a CallContext,
    pub(super) conduct: &'a UpstreamPolicy,
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
        Self { knock: call, conduct: policy, origin, endpoint, family, credential }
    }

    /// The groups that the call belongs to, from the smallest to the largest.
    pub(super) fn levels(&self) -> [GroupMember; LEVELS] {
        let resource = || u128::from(self.knock.resource);
        [
            GroupMember {
                group: CooldownScope::Endpoint(self.endpoint),
                number: self.knock.key.unwrap_or_else(resource),
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
    pub(super) fn turn(&mut self, for_a_client: bool) -> QueuePosition {
        self.last_number += 1;
        QueuePosition { background: !for_a_client, number: self.last_number }
    }

    /// Whether a cooldown blocks the call.
    pub(super) fn check_cooldowns(&self, subject: &LimitKeys<'_>, now: Instant) -> CooldownCheck {
        if subject.knock.yields
            && let Some(rejection) = self.probe_delay(subject, now)
        {
            return CooldownCheck::Until(rejection);
        }
        self.holds.check(&self.reaches(subject), subject.knock.yields, now)
    }

    /// The rejection of a call that leaves the probe to others. Calls that are not known to fail never do.
    fn probe_delay(&self, subject: &LimitKeys<'_>, now: Instant) -> Option<Rejection> {
        let levels = subject.levels();
        let key = subject.knock.key.map(CooldownScope::Key);
        let in_cooldown = key.is_some_and(|key| self.holds.is_known(key));
        if !in_cooldown && !self.failing[1].knows(levels[1]) {
            return None;
        }
        let delays = levels.into_iter().zip(&self.failing).enumerate();
        delays
            .filter_map(|(level, (member, failing))| {
                // More keys may fail than are remembered.
                let left = failing.rests(member, in_cooldown && level == 0, now)?;
                Some(Rejection { cause: self.holds.cause(member.group)?, left })
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
                return AdmissionDecision::Hold(rejection);
            }
        };
        let learned = self.learned_limit(subject);
        if let Some((kind, wait)) = self.first_queue(subject, learned, position, now) {
            let queue = self.line(kind);
            let wakeup = queue.join(position);
            // Only the first call in the queue wakes by time; the others are notified in their order.
            return AdmissionDecision::Line(
                kind,
                wakeup,
                wait.filter(|_| queue.is_first(position)),
            );
        }
        let configured = subject.conduct.rate_limit.limit.map(|_| subject.credential);
        let unsaved = configured.is_some_and(|id| self.count_sent(id, now) == Write::First);
        if let Some((limit, _)) = learned.and_then(|id| of(&mut self.learned, id)) {
            limit.send();
        }
        self.in_flight += 1;
        self.holds.probe(&probes);
        if subject.knock.attempt == AttemptKind::First {
            self.retries.called(now);
        }
        AdmissionDecision::Go(Admission {
            probes,
            gave_way: false,
            learned,
            unsaved,
            seat: CallSlot::Taken,
        })
    }

    /// Lets another call be the probe, unless this was done before.
    pub(super) fn free(&mut self, admission: &Admission) {
        if !admission.gave_way {
            self.holds.unprobe(&admission.probes);
        }
    }

    /// Lets another call be the probe, while this call still reports its outcome later.
    pub(super) fn give_way(&mut self, admission: &mut Admission) {
        self.free(admission);
        admission.gave_way = true;
    }

    /// The client stalls the call: its slot and its probe go to other calls. Returns the notification that
    /// ends the call.
    pub(super) fn step_aside(
        &mut self,
        admission: &mut Admission,
        now: Instant,
    ) -> Option<Arc<Notify>> {
        self.free(admission);
        admission.probes.clear();
        if admission.seat != CallSlot::Taken {
            return None;
        }
        self.ended(admission);
        self.last_number += 1;
        let preempted = Arc::default();
        self.stalled.push_back(ClientStall {
            number: self.last_number,
            since: now,
            preempted: Arc::clone(&preempted),
        });
        admission.seat = CallSlot::Aside(self.last_number);
        Some(preempted)
    }

    /// The client that stalled the call has left, and the call continues. It counts as in flight again, even
    /// above the limit. No more calls go out until enough have ended, so clients cannot leave any number of
    /// calls behind. A call that was notified to end gets no slot.
    pub(super) fn come_back(&mut self, admission: &mut Admission) {
        if let CallSlot::Aside(number) = admission.seat {
            let had_slot = self.stalled.iter().any(|stall| stall.number == number);
            self.ended(admission);
            if had_slot {
                self.in_flight += 1;
                admission.seat = CallSlot::Taken;
            }
        }
    }

    /// The call is no longer in flight.
    pub(super) fn ended(&mut self, admission: &mut Admission) {
        match std::mem::take(&mut admission.seat) {
            CallSlot::Taken => self.in_flight -= 1,
            CallSlot::Aside(number) => self.stalled.retain(|stall| stall.number != number),
            CallSlot::Over => return,
        }
        self.cap.wake();
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
        let allowed = self.guard.left(rule, now);
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
            self.unsaved.window(credential, &self.windows);
        }
        write
    }

    /// Leaves a queue. The next call in it is notified.
    pub(super) fn leave(&mut self, kind: QueueKind, position: QueuePosition) {
        self.line(kind).leave(position);
    }

    /// The estimated wait of the call in a queue, for `Retry-After`.
    pub(super) fn estimate_wait(
        &mut self,
        kind: QueueKind,
        position: QueuePosition,
        now: Instant,
    ) -> Duration {
        let ahead = u32::try_from(self.line(kind).ahead(position)).unwrap_or(u32::MAX);
        match kind {
            QueueKind::Window(credential) => {
                of(&mut self.windows, credential).map(|(window, _)| {
                    let Rate { count, per } = window.rate();
                    window.wait(now).saturating_add(per.saturating_mul(ahead / count.max(1)))
                })
            }
            QueueKind::Learned(id) => {
                of(&mut self.learned, id).and_then(|(limit, _)| limit.wait(now))
            }
            QueueKind::Cap => None,
        }
        .unwrap_or(Duration::from_secs(1))
    }

    /// The number of calls in all queues.
    pub(super) fn waiting(&self) -> usize {
        let windows = self.windows.values().map(|(_, queue)| queue.len());
        let learned = self.learned.values().map(|(_, queue)| queue.len());
        windows.chain(learned).sum::<usize>() + self.cap.len()
    }

    /// The scopes of the cooldowns that may block this call.
    pub(super) fn reaches(&self, subject: &LimitKeys<'_>) -> Vec<CooldownScope> {
        let call = subject.knock;
        let mut scopes = vec![
            CooldownScope::Upstream,
            CooldownScope::Origin(subject.origin),
            CooldownScope::Family(subject.family),
            CooldownScope::Endpoint(subject.endpoint),
            CooldownScope::Credential(subject.credential),
        ];
        scopes.extend(self.bucket_of(subject).map(CooldownScope::Bucket));
        // A retry ignores the soft cooldown of its own key, but not one of its origin, bucket or upstream.
        let applies =
            |key: &CooldownScope| call.attempt == AttemptKind::First || self.holds.is_firm(*key);
        scopes.extend(call.key.map(CooldownScope::Key).filter(applies));
        scopes
    }

    /// The bucket of a call, if it is known.
    pub(super) fn bucket_of(&self, subject: &LimitKeys<'_>) -> Option<u128> {
        self.buckets.get(&subject.knock.shape).map(|bucket| bucket_id(bucket, subject))
    }

    /// Assigns calls of this shape to a bucket.
    pub(super) fn belongs(&mut self, call: &CallContext, bucket: &Bucket) {
        if self.buckets.len() >= MOST && !self.buckets.contains_key(&call.shape) {
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
        subject.conduct.rate_limit.learn.then(bucket)
    }

    /// The first queue in which the call has to wait, and for how long at least.
    fn first_queue(
        &mut self,
        subject: &LimitKeys<'_>,
        learned: Option<u128>,
        position: QueuePosition,
        now: Instant,
    ) -> Option<(QueueKind, Option<Duration>)> {
        let rate_limit = &subject.conduct.rate_limit;
        let credential = subject.credential;
        if let Some(rate) = rate_limit.limit {
            let (window, queue) =
                entry(&mut self.windows, credential, now, || SlidingWindow::new(rate));
            window.keep_to(rate);
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
        if !self.cap.is_first(position) {
            return Some((QueueKind::Cap, None));
        }
        self.check_capacity(subject.conduct, now).err().map(|wait| (QueueKind::Cap, wait))
    }

    pub(super) fn line(&mut self, kind: QueueKind) -> &mut WaitQueue {
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
            QueueKind::Cap => &mut self.cap,
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
        self.spare(now) == Some(0)
    }
}

/// Below this number of evictable limits, none is evicted.
const MIN_EVICTABLE: usize = MOST / 16;

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
    if !known && all.len() >= MOST {
        make_room(all, now);
    }
    let id = if known || all.len() < MOST { id } else { OVERFLOW };
    all.entry(id).or_insert_with(|| (new(), WaitQueue::default()))
}

fn make_room<T: Evictable>(all: &mut HashMap<u128, (T, WaitQueue)>, now: Instant) {
    all.retain(|_, (limit, queue)| !queue.is_empty() || limit.last_relevant(now).is_some());
    let can_evict = |limit: &T, queue: &WaitQueue| queue.is_empty() && !limit.is_exhausted(now);
    let evictable = all.values().filter(|(limit, queue)| can_evict(limit, queue));
    let mut last: Vec<_> = evictable.map(|(limit, _)| limit.last_relevant(now)).collect();
    // With few evictable limits, each new entry would evict them again.
    if all.len() < MOST || last.len() < MIN_EVICTABLE {
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
pub(super) fn of<T>(all: &mut HashMap<u128, T>, id: u128) -> Option<&mut T> {
    let id = own_or_shared(all, id);
    all.get_mut(&id)
}

/// The bucket of a call: one per credential, and per resource if the origin separates them.
pub(super) fn bucket_id(bucket: &Bucket, subject: &LimitKeys<'_>) -> u128 {
    let mut id = Xxh3::new();
    id.update(bucket.name.as_bytes());
    id.update(&subject.credential.to_be_bytes());
    if bucket.per_resource {
        id.update(&subject.knock.resource.to_be_bytes());
    }
    id.digest128()
}

/// The reason to reject a call that waited too long in a queue.
pub(super) fn no_turn(kind: QueueKind) -> RejectReason {
    match kind {
        QueueKind::Window(_) | QueueKind::Learned(_) => RejectReason::Pace,
        QueueKind::Cap => RejectReason::InFlight,
    }
}
