//! One upstream's traffic: what is held, who waits, what went out.
//!
//! Owns: whether a call goes out now. Pure but for waking who waits: the time is an argument. Never
//! touches: waiting (`gate`), what an answer changes (`settle`).

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

/// How many credentials and buckets are kept apart; beyond it, idle ones are forgotten.
pub(super) const MOST: usize = 4096;

/// What outlives a configuration: one for each upstream.
#[derive(Debug)]
pub(super) struct UpstreamState {
    /// The configured name, or the host and port.
    pub(super) name: Arc<str>,
    pub(super) state: Mutex<LimiterState>,
    /// A hold ended, or its probe did.
    pub(super) eased: Notify,
}

/// How long a call that its client holds up keeps a place for which others wait.
const BORNE: Duration = Duration::from_secs(1);

/// All that is known of an upstream.
#[derive(Debug, Default)]
pub(super) struct LimiterState {
    pub(super) holds: Cooldowns,
    pub(super) run: circuit_breaker::FailureStreak,
    pub(super) guard: BanGuard,
    pub(super) retries: retry::RetryBudget,
    /// The configured limit, by credential.
    pub(super) windows: HashMap<u128, (SlidingWindow, WaitQueue)>,
    /// Learned limits, by credential or bucket.
    pub(super) learned: HashMap<u128, (AdaptiveLimit, WaitQueue)>,
    /// Which bucket calls of a shape belong to.
    pub(super) buckets: HashMap<u64, Bucket>,
    /// Who waits because too many wait for an answer.
    pub(super) cap: WaitQueue,
    pub(super) in_flight: usize,
    /// Calls that are under way beside those, for their own clients hold them up; the oldest first.
    asides: VecDeque<ClientStall>,
    turns: u64,
    /// Which keys of an endpoint fail, which endpoints of a family, which families of an origin.
    pub(super) failing: [FailureGroups; LEVELS],
    /// Of each bucket that is held, the shape of the call that it was held after.
    pub(super) held_shapes: HashMap<u128, u64>,
    pub(super) unsaved: UnsavedLimits,
    /// Some of it is not to wait until the disk asks for it.
    pub(super) urgent: bool,
    /// All calls were stopped just now, for so long: nobody has been told yet.
    pub(super) stopped: Option<(RejectReason, Duration)>,
}

/// A call that its client holds up.
#[derive(Debug)]
struct ClientStall {
    number: u64,
    since: Instant,
    /// Tells it to make way.
    way: Arc<Notify>,
}

/// Where a call waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueKind {
    Window(u128),
    Learned(u128),
    Cap,
}

/// A call that went out.
#[derive(Debug, Clone, Default)]
pub(super) struct Admission {
    /// It is the probe of these.
    pub(super) probes: Vec<CooldownScope>,
    /// Others are the probe of these by now.
    pub(super) gave_way: bool,
    /// The learned limit that it counts towards.
    pub(super) learned: Option<u128>,
    /// It is not on disk that it goes out: first that, then the call.
    pub(super) unsaved: bool,
    pub(super) seat: CallSlot,
}

/// Which of an upstream's calls under way one is among.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum CallSlot {
    /// Those that `rate_limit.in_flight` is about.
    Taken,
    /// Those that are held up by their own clients, as this one of them.
    Aside(u64),
    /// None: it is over.
    #[default]
    Over,
}

/// What the gate says to a call.
#[derive(Debug)]
pub(super) enum AdmissionDecision {
    /// Go.
    Go(Admission),
    /// Not before a hold ends, or its probe.
    Hold(Rejection),
    /// Wait for a turn: woken, or when the time is over.
    Line(QueueKind, Arc<Notify>, Option<Duration>),
}

/// How many levels there are at which several that fail speak for all.
const LEVELS: usize = 3;

/// What a call at its place is subject to.
pub(super) struct LimitKeys<'a> {
    pub(super) knock: &'a CallContext,
    pub(super) conduct: &'a UpstreamPolicy,
    /// The host and port, hashed.
    pub(super) origin: u64,
    /// The endpoint there, and its family.
    endpoint: u64,
    family: u64,
    /// Who asks, as the origin sees it: larder itself, where it shows a credential of its own.
    pub(super) credential: u128,
}

impl<'a> LimitKeys<'a> {
    pub(super) fn new(
        knock: &'a CallContext,
        conduct: &'a UpstreamPolicy,
        place: &UpstreamTarget,
    ) -> Self {
        let own = place.upstream.as_ref().is_some_and(|upstream| upstream.credential.is_some());
        let credential = if own { 0 } else { knock.credential };
        let origin = origin(place);
        let there =
            |what: u64| xxh3_64(&(u128::from(origin) << 64 | u128::from(what)).to_le_bytes());
        let (endpoint, family) = (there(knock.shape), there(knock.family));
        Self { knock, conduct, origin, endpoint, family, credential }
    }

    /// What the call is one of, from the nearest to the widest.
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

fn origin(place: &UpstreamTarget) -> u64 {
    xxh3_64(format!("{}:{}", place.host, place.port).as_bytes())
}

impl LimiterState {
    /// A place in every line.
    pub(super) fn turn(&mut self, for_a_client: bool) -> QueuePosition {
        self.turns += 1;
        QueuePosition { background: !for_a_client, number: self.turns }
    }

    /// Whether something keeps the call back that waiting in a line would not end.
    pub(super) fn check_cooldowns(&self, subject: &LimitKeys<'_>, now: Instant) -> CooldownCheck {
        if subject.knock.yields
            && let Some(held) = self.rests(subject, now)
        {
            return CooldownCheck::Until(held);
        }
        self.holds.check(&self.reaches(subject), subject.knock.yields, now)
    }

    /// Whether a call leaves it to others to find out how things are: one that is not known to fail does not.
    fn rests(&self, subject: &LimitKeys<'_>, now: Instant) -> Option<Rejection> {
        let levels = subject.levels();
        let key = subject.knock.key.map(CooldownScope::Key);
        let is_held = key.is_some_and(|key| self.holds.is_known(key));
        if !is_held && !self.failing[1].knows(levels[1]) {
            return None;
        }
        let rests = levels.into_iter().zip(&self.failing).enumerate();
        rests
            .filter_map(|(level, (member, failing))| {
                // Of keys there may be more than are remembered.
                let left = failing.rests(member, is_held && level == 0, now)?;
                Some(Rejection { cause: self.holds.cause(member.group)?, left })
            })
            .max_by_key(|held| held.left)
    }

    /// Lets the call go out, or says what it has to wait for.
    pub(super) fn admit(
        &mut self,
        subject: &LimitKeys<'_>,
        turn: QueuePosition,
        now: Instant,
    ) -> AdmissionDecision {
        let probes = match self.check_cooldowns(subject, now) {
            CooldownCheck::Clear(probes) => probes,
            CooldownCheck::Until(held) | CooldownCheck::Probing(held) => {
                return AdmissionDecision::Hold(held);
            }
        };
        let learned = self.limit(subject);
        if let Some((station, wait)) = self.blocked(subject, learned, turn, now) {
            let line = self.line(station);
            let woken = line.join(turn);
            // Only the first one's wait is over with time; the others are woken in their turn.
            return AdmissionDecision::Line(station, woken, wait.filter(|_| line.is_first(turn)));
        }
        let configured = subject.conduct.rate_limit.limit.map(|_| subject.credential);
        let unsaved = configured.is_some_and(|id| self.send(id, now) == Write::First);
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

    /// A probe's place is free for the next, once.
    pub(super) fn free(&mut self, ticket: &Admission) {
        if !ticket.gave_way {
            self.holds.unprobe(&ticket.probes);
        }
    }

    /// A probe leaves its place to the next, and tells what it has found out later.
    pub(super) fn give_way(&mut self, ticket: &mut Admission) {
        self.free(ticket);
        ticket.gave_way = true;
    }

    /// A call is held up by its own client: others take its place, and its probe. Returns what tells it to make
    /// way altogether.
    pub(super) fn step_aside(
        &mut self,
        ticket: &mut Admission,
        now: Instant,
    ) -> Option<Arc<Notify>> {
        self.free(ticket);
        ticket.probes.clear();
        if ticket.seat != CallSlot::Taken {
            return None;
        }
        self.ended(ticket);
        self.turns += 1;
        let way = Arc::default();
        self.asides.push_back(ClientStall {
            number: self.turns,
            since: now,
            way: Arc::clone(&way),
        });
        ticket.seat = CallSlot::Aside(self.turns);
        Some(way)
    }

    /// The client that held a call up has left, and the call goes on: it is among the others again, even if
    /// they are too many then. No more go out until they are fewer, so no client leaves any number behind. One
    /// that had to make way has no place any more.
    pub(super) fn come_back(&mut self, ticket: &mut Admission) {
        if let CallSlot::Aside(number) = ticket.seat {
            let had_a_place = self.asides.iter().any(|aside| aside.number == number);
            self.ended(ticket);
            if had_a_place {
                self.in_flight += 1;
                ticket.seat = CallSlot::Taken;
            }
        }
    }

    /// A call is under way no longer.
    pub(super) fn ended(&mut self, ticket: &mut Admission) {
        match std::mem::take(&mut ticket.seat) {
            CallSlot::Taken => self.in_flight -= 1,
            CallSlot::Aside(number) => self.asides.retain(|aside| aside.number != number),
            CallSlot::Over => return,
        }
        self.cap.wake();
    }

    /// Whether one more call may be under way. Each may be answered in a way that counts towards a ban: no
    /// more go out at once than the ban guard bears. Where that is because of some that their clients hold up, they
    /// make way. `Err`: there is no room; when the next will make way, if so.
    fn room(&mut self, conduct: &UpstreamPolicy, now: Instant) -> Result<(), Option<Duration>> {
        if self.in_flight >= conduct.rate_limit.in_flight {
            return Err(None);
        }
        let Some(rule) = &conduct.ban_guard else { return Ok(()) };
        let borne = self.guard.left(rule, now);
        while (self.in_flight + self.asides.len()) as u64 >= borne {
            let oldest = self.asides.front().filter(|_| (self.in_flight as u64) < borne);
            let since = oldest.ok_or(None)?.since;
            let left = BORNE.saturating_sub(now.saturating_duration_since(since));
            if !left.is_zero() {
                return Err(Some(left));
            }
            if let Some(oldest) = self.asides.pop_front() {
                oldest.way.notify_one();
            }
        }
        Ok(())
    }

    /// A call counts towards the configured limit of a credential.
    fn send(&mut self, credential: u128, now: Instant) -> Write {
        let credential = own_or_shared(&self.windows, credential);
        let Some((window, _)) = self.windows.get_mut(&credential) else { return Write::No };
        let write = window.send(now);
        if write != Write::No {
            self.unsaved.window(credential, &self.windows);
        }
        write
    }

    /// Leaves the line at a station; the next one there looks again.
    pub(super) fn leave(&mut self, station: QueueKind, turn: QueuePosition) {
        self.line(station).leave(turn);
    }

    /// How long the call would have to wait at a station, about: for `Retry-After`.
    pub(super) fn estimate_wait(
        &mut self,
        station: QueueKind,
        turn: QueuePosition,
        now: Instant,
    ) -> Duration {
        let ahead = u32::try_from(self.line(station).ahead(turn)).unwrap_or(u32::MAX);
        match station {
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

    /// Who waits at all stations.
    pub(super) fn waiting(&self) -> usize {
        let windows = self.windows.values().map(|(_, line)| line.len());
        let learned = self.learned.values().map(|(_, line)| line.len());
        windows.chain(learned).sum::<usize>() + self.cap.len()
    }

    /// What may hold this call.
    pub(super) fn reaches(&self, subject: &LimitKeys<'_>) -> Vec<CooldownScope> {
        let knock = subject.knock;
        let mut reaches = vec![
            CooldownScope::Upstream,
            CooldownScope::Origin(subject.origin),
            CooldownScope::Family(subject.family),
            CooldownScope::Endpoint(subject.endpoint),
            CooldownScope::Credential(subject.credential),
        ];
        reaches.extend(self.bucket_of(subject).map(CooldownScope::Bucket));
        // Who tries again is not kept back by its own failure, but by all that speaks for its origin.
        let own =
            |key: &CooldownScope| knock.attempt == AttemptKind::First || self.holds.is_firm(*key);
        reaches.extend(knock.key.map(CooldownScope::Key).filter(own));
        reaches
    }

    /// The bucket that a call is known to belong to.
    pub(super) fn bucket_of(&self, subject: &LimitKeys<'_>) -> Option<u128> {
        self.buckets.get(&subject.knock.shape).map(|bucket| bucket_id(bucket, subject))
    }

    /// Calls like this one belong to this bucket from now on.
    pub(super) fn belongs(&mut self, knock: &CallContext, bucket: &Bucket) {
        if self.buckets.len() >= MOST && !self.buckets.contains_key(&knock.shape) {
            self.buckets.clear();
        }
        if self.buckets.get(&knock.shape) != Some(bucket) {
            self.buckets.insert(knock.shape, bucket.clone());
        }
    }

    /// The learned limit of a call, where larder learns.
    fn limit(&self, subject: &LimitKeys<'_>) -> Option<u128> {
        // Until an answer names a bucket, calls find it out one by one.
        let bucket = || self.bucket_of(subject).unwrap_or(subject.credential);
        subject.conduct.rate_limit.learn.then(bucket)
    }

    /// The first station at which the call has to wait, and for how long at least.
    fn blocked(
        &mut self,
        subject: &LimitKeys<'_>,
        learned: Option<u128>,
        turn: QueuePosition,
        now: Instant,
    ) -> Option<(QueueKind, Option<Duration>)> {
        let rate_limit = &subject.conduct.rate_limit;
        let credential = subject.credential;
        if let Some(rate) = rate_limit.limit {
            let (window, line) =
                entry(&mut self.windows, credential, now, || SlidingWindow::new(rate));
            window.keep_to(rate);
            let wait = window.wait(now);
            if !wait.is_zero() || !line.is_first(turn) {
                return Some((QueueKind::Window(credential), Some(wait)));
            }
        }
        if let Some(id) = learned {
            let (limit, line) = entry(&mut self.learned, id, now, AdaptiveLimit::default);
            let wait = limit.wait(now);
            if wait != Some(Duration::ZERO) || !line.is_first(turn) {
                return Some((QueueKind::Learned(id), wait));
            }
        }
        if !self.cap.is_first(turn) {
            return Some((QueueKind::Cap, None));
        }
        self.room(subject.conduct, now).err().map(|wait| (QueueKind::Cap, wait))
    }

    pub(super) fn line(&mut self, station: QueueKind) -> &mut WaitQueue {
        match station {
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

/// A limit that may be forgotten.
pub(super) trait Evictable {
    /// When it was last of use; `None`: it keeps nobody back, now or soon.
    fn last_of_use(&self, now: Instant) -> Option<Instant>;

    /// Whether nothing more may go out under it for now.
    fn is_reached(&self, now: Instant) -> bool;
}

impl Evictable for SlidingWindow {
    fn last_of_use(&self, now: Instant) -> Option<Instant> {
        self.last().filter(|_| !self.is_over(now))
    }

    fn is_reached(&self, now: Instant) -> bool {
        !self.is_over(now) && self.is_full()
    }
}

impl Evictable for AdaptiveLimit {
    fn last_of_use(&self, now: Instant) -> Option<Instant> {
        self.resets().filter(|resets| *resets > now)
    }

    fn is_reached(&self, now: Instant) -> bool {
        self.spare(now) == Some(0)
    }
}

/// So few make no room.
const FEW: usize = MOST / 16;

/// The one limit of all that find no room for one of their own.
const OVERFLOW: u128 = u128::MAX;

/// The entry of `id`. When there are too many, those are forgotten that keep nobody back, and then the older
/// half of those that have room left. Where all are reached it is one that all who come later share: a
/// client that makes credentials up must not reset the limits of others, nor get around its own.
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
    all.retain(|_, (limit, line)| !line.is_empty() || limit.last_of_use(now).is_some());
    let spare = |limit: &T, line: &WaitQueue| line.is_empty() && !limit.is_reached(now);
    let with_room = all.values().filter(|(limit, line)| spare(limit, line));
    let mut last: Vec<_> = with_room.map(|(limit, _)| limit.last_of_use(now)).collect();
    // A few that have room would have to go for each that comes.
    if all.len() < MOST || last.len() < FEW {
        return;
    }
    let middle = last.len() / 2;
    let (_, middle, _) = last.select_nth_unstable(middle);
    let middle = *middle;
    all.retain(|_, (limit, line)| !spare(limit, line) || limit.last_of_use(now) > middle);
}

/// Which entry is that of `id`: its own, or the one that is shared.
fn own_or_shared<T>(all: &HashMap<u128, T>, id: u128) -> u128 {
    if all.contains_key(&id) { id } else { OVERFLOW }
}

/// The entry of `id`, or the one that is shared.
pub(super) fn of<T>(all: &mut HashMap<u128, T>, id: u128) -> Option<&mut T> {
    let id = own_or_shared(all, id);
    all.get_mut(&id)
}

/// The bucket of a call, apart for each credential, and for each resource where the origin does so.
pub(super) fn bucket_id(bucket: &Bucket, subject: &LimitKeys<'_>) -> u128 {
    let mut id = Xxh3::new();
    id.update(bucket.name.as_bytes());
    id.update(&subject.credential.to_be_bytes());
    if bucket.per_resource {
        id.update(&subject.knock.resource.to_be_bytes());
    }
    id.digest128()
}

/// Why a call that waited in a line for too long was not made.
pub(super) fn no_turn(station: QueueKind) -> RejectReason {
    match station {
        QueueKind::Window(_) | QueueKind::Learned(_) => RejectReason::Pace,
        QueueKind::Cap => RejectReason::InFlight,
    }
}
