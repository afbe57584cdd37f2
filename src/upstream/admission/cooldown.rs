//! Cooldowns: times in which no calls are made, each ended by one half-open probe.
//!
//! Owns: when a cooldown begins, which calls it blocks, when it ends. Pure: time is an argument.
//! Never touches: waiting, and the classification of responses (`upstream::outcome::classify`).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::policy::upstream::{UNTIL_RELEASED, is_until_released};
use crate::upstream::admission::rejection::{RejectReason, Rejection};

/// The maximum number of cooldowns of an upstream. Beyond it the oldest are evicted, except the one of the
/// whole upstream.
const MAX_COOLDOWNS: usize = 16_384;

/// A cooldown with less time left than this is not stored.
pub(in crate::upstream) const MIN_STORED_TIME: Duration = Duration::from_secs(1);

/// A firm cooldown as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct SavedCooldown {
    /// The calls that it blocks.
    pub(in crate::upstream) scope: CooldownScope,
    /// The time left.
    pub(in crate::upstream) left: Duration,
    /// The reason.
    pub(in crate::upstream) reason: RejectReason,
    /// How often in a row the origin caused it.
    pub(in crate::upstream) times: u32,
}

/// The scope of a cooldown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::upstream) enum CooldownScope {
    /// All calls of the upstream.
    Upstream,
    /// One host and port of it.
    Origin(u64),
    /// The endpoints of an origin whose paths differ in the last segment.
    Family(u64),
    /// One endpoint of an origin: a method, and a path without its ids.
    Endpoint(u64),
    /// The calls with one credential.
    Credential(u128),
    /// The calls that count towards one limit of the origin.
    Bucket(u128),
    /// One stored response.
    Key(u128),
}

impl CooldownScope {
    /// The token of the scope in reports.
    pub(in crate::upstream) fn token(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Origin(_) => "origin",
            Self::Family(_) => "endpoints",
            Self::Endpoint(_) => "endpoint",
            Self::Credential(_) => "credential",
            Self::Bucket(_) => "bucket",
            Self::Key(_) => "key",
        }
    }
}

/// A cooldown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct Cooldown {
    /// No calls before this time; after it, one call is the probe.
    pub(in crate::upstream) until: Instant,
    /// The reason.
    pub(in crate::upstream) reason: RejectReason,
    /// Firm: blocks every call. Otherwise soft: blocks only calls that have a stale response.
    pub(in crate::upstream) firm: bool,
    /// Whether the probe is in flight.
    pub(in crate::upstream) probing: bool,
    /// How often in a row the origin caused it.
    pub(in crate::upstream) times: u32,
    /// The number of the cooldown in the order in which cooldowns began or were renewed.
    sequence: u64,
}

/// Whether a call may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upstream) enum CooldownCheck {
    /// Yes. The call is the probe of these cooldowns.
    Clear(Vec<CooldownScope>),
    /// Not before this time.
    Until(Rejection),
    /// Not before the probe in flight gets a response.
    Probing(Rejection),
}

/// All cooldowns of an upstream.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Cooldowns {
    all: HashMap<CooldownScope, Cooldown>,
    /// How many cooldowns began or were renewed.
    sequence: u64,
}

impl Cooldowns {
    /// Whether a call in all of these scopes may be made. `has_stale`: it has a stale response, so soft
    /// cooldowns block it too.
    pub(in crate::upstream) fn check(
        &self,
        scopes: &[CooldownScope],
        has_stale: bool,
        now: Instant,
    ) -> CooldownCheck {
        let mut probes = Vec::new();
        let (mut longest, mut probing) = (None::<Rejection>, None::<Rejection>);
        for scope in scopes {
            let Some(cooldown) = self.all.get(scope) else { continue };
            let left = cooldown.until.saturating_duration_since(now);
            let rejection = Rejection { reason: cooldown.reason, left };
            let blocks = cooldown.firm || has_stale;
            if !left.is_zero() {
                if blocks && longest.is_none_or(|longest| longest.left < left) {
                    longest = Some(rejection);
                }
            } else if cooldown.probing {
                if blocks {
                    probing = Some(rejection);
                }
            } else if blocks {
                probes.push(*scope);
            }
        }
        match (longest, probing) {
            (Some(rejection), _) => CooldownCheck::Until(rejection),
            (None, Some(rejection)) => CooldownCheck::Probing(rejection),
            (None, None) => CooldownCheck::Clear(probes),
        }
    }

    /// Sets whether the probe of these cooldowns is in flight. If it ended without an outcome, the next call is
    /// the probe.
    pub(in crate::upstream) fn set_probing(&mut self, scopes: &[CooldownScope], probing: bool) {
        for scope in scopes {
            if let Some(cooldown) = self.all.get_mut(scope) {
                cooldown.probing = probing;
            }
        }
    }

    /// Begins or renews a cooldown, after which its calls get this rejection. A time of zero has no effect. A
    /// longer one is not shortened, and a firm one does not become soft.
    pub(in crate::upstream) fn begin(
        &mut self,
        scope: CooldownScope,
        rejection: Rejection,
        firm: bool,
        now: Instant,
    ) {
        let Rejection { reason, left } = rejection;
        if left.is_zero() {
            return;
        }
        self.make_room(now);
        self.sequence += 1;
        let sequence = self.sequence;
        let until = now.checked_add(left).unwrap_or(now);
        match self.all.get_mut(&scope) {
            Some(cooldown) if cooldown.until > until && (cooldown.firm || !firm) => {
                cooldown.times += 1;
            }
            before => {
                let times = before.map_or(1, |cooldown| cooldown.times.saturating_add(1));
                self.all.insert(scope, Cooldown { until, reason, firm, probing: false, times, sequence });
            }
        }
    }

    /// If there are too many cooldowns, removes those that are over and the older half of the rest.
    fn make_room(&mut self, now: Instant) {
        if self.all.len() < MAX_COOLDOWNS {
            return;
        }
        self.all.retain(|_, cooldown| cooldown.until > now);
        let mut sequences: Vec<u64> = self.all.values().map(|cooldown| cooldown.sequence).collect();
        if let Some(oldest) = sequences.len().checked_sub(MAX_COOLDOWNS / 2).filter(|oldest| *oldest > 0) {
            let (_, &mut first, _) = sequences.select_nth_unstable(oldest);
            let stays = |scope: &CooldownScope, cooldown: &Cooldown| {
                *scope == CooldownScope::Upstream
                    || is_until_released(cooldown.until.saturating_duration_since(now))
            };
            self.all.retain(|scope, cooldown| cooldown.sequence >= first || stays(scope, cooldown));
        }
    }

    /// Ends the cooldown after a success, unless it is firm and its time is not over. Returns whether it
    /// ended.
    pub(in crate::upstream) fn lift(&mut self, scope: CooldownScope, now: Instant) -> bool {
        let over = self.all.get(&scope).is_some_and(|cooldown| !cooldown.firm || cooldown.until <= now);
        over && self.all.remove(&scope).is_some()
    }

    /// Ends the cooldowns of spent quotas, including those that only the operator ends. Returns their number.
    pub(in crate::upstream) fn release(&mut self) -> usize {
        let before = self.all.len();
        self.all.retain(|_, cooldown| !cooldown.reason.is_quota());
        before - self.all.len()
    }

    /// Whether only the operator ends this cooldown.
    pub(in crate::upstream) fn is_until_released(&self, scope: CooldownScope, now: Instant) -> bool {
        let left = |cooldown: &Cooldown| cooldown.until.saturating_duration_since(now);
        self.all.get(&scope).is_some_and(|cooldown| is_until_released(left(cooldown)))
    }

    /// How often in a row there was cause for this cooldown.
    pub(in crate::upstream) fn times(&self, scope: CooldownScope) -> u32 {
        self.all.get(&scope).map_or(0, |cooldown| cooldown.times)
    }

    /// Whether this cooldown blocks every call.
    pub(in crate::upstream) fn is_firm(&self, scope: CooldownScope) -> bool {
        self.all.get(&scope).is_some_and(|cooldown| cooldown.firm)
    }

    /// Whether there is a cooldown of this scope, including one whose probe is due.
    pub(in crate::upstream) fn contains(&self, scope: CooldownScope) -> bool {
        self.all.contains_key(&scope)
    }

    /// The end of this cooldown.
    pub(in crate::upstream) fn end_of(&self, scope: CooldownScope) -> Option<Instant> {
        self.all.get(&scope).map(|cooldown| cooldown.until)
    }

    /// The reason of this cooldown, including one whose probe is due.
    pub(in crate::upstream) fn reason(&self, scope: CooldownScope) -> Option<RejectReason> {
        self.all.get(&scope).map(|cooldown| cooldown.reason)
    }

    /// Restores a firm cooldown of an earlier process. A cooldown that ends later is kept.
    pub(in crate::upstream) fn restore(&mut self, saved: &SavedCooldown, now: Instant) {
        let until = now.checked_add(saved.left).unwrap_or(now);
        if self.all.get(&saved.scope).is_none_or(|cooldown| cooldown.until < until) {
            let SavedCooldown { scope, reason, times, .. } = *saved;
            self.sequence += 1;
            let sequence = self.sequence;
            self.all.insert(scope, Cooldown { until, reason, firm: true, probing: false, times, sequence });
        }
    }

    /// The firm cooldowns to store: those with enough time left, and at most `max` of them. Cooldowns of
    /// single keys are left out first, then those that end first.
    pub(in crate::upstream) fn to_save(&self, max: usize, now: Instant) -> Vec<SavedCooldown> {
        let saved = |(scope, cooldown): (&CooldownScope, &Cooldown)| {
            let left = cooldown.until.saturating_duration_since(now);
            let Cooldown { reason, times, .. } = *cooldown;
            let left = if is_until_released(left) { UNTIL_RELEASED } else { left };
            let is_saved = cooldown.firm && reason.is_stored() && left >= MIN_STORED_TIME;
            is_saved.then_some(SavedCooldown { scope: *scope, left, reason, times })
        };
        let mut all: Vec<SavedCooldown> = self.all.iter().filter_map(saved).collect();
        if all.len() > max {
            // Other calls may wait for the lock, so the entries that are left out are not sorted.
            let is_key = |one: &SavedCooldown| matches!(one.scope, CooldownScope::Key(_));
            all.select_nth_unstable_by_key(max, |one| (is_key(one), Reverse(one.left)));
            all.truncate(max);
        }
        all
    }

    /// All cooldowns, including those that are over and not yet probed.
    pub(in crate::upstream) fn all(&self) -> impl Iterator<Item = (CooldownScope, &Cooldown)> {
        self.all.iter().map(|(scope, cooldown)| (*scope, cooldown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::policy::upstream::{OutcomeClass, RateLimitKind};

    const SECOND: Duration = Duration::from_secs(1);
    const DOWN: RejectReason = RejectReason::Failed(OutcomeClass::Network);
    const LIMITED: RejectReason = RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute));
    const ORIGIN: CooldownScope = CooldownScope::Origin(1);
    const KEY: CooldownScope = CooldownScope::Key(7);

    fn rejection(left: Duration, reason: RejectReason) -> Rejection {
        Rejection { reason, left }
    }

    fn started(firm: bool) -> (Cooldowns, Instant) {
        let (mut cooldowns, now) = (Cooldowns::default(), Clock::system().instant());
        cooldowns.begin(ORIGIN, rejection(30 * SECOND, DOWN), firm, now);
        (cooldowns, now)
    }

    #[test]
    fn a_soft_cooldown_blocks_only_calls_that_have_a_stale_response() {
        let (cooldowns, now) = started(false);
        let rejection = Rejection { reason: DOWN, left: 30 * SECOND };
        assert_eq!(cooldowns.check(&[ORIGIN, KEY], true, now), CooldownCheck::Until(rejection));
        assert_eq!(cooldowns.check(&[ORIGIN, KEY], false, now), CooldownCheck::Clear(Vec::new()));
        assert_eq!(cooldowns.check(&[KEY], true, now), CooldownCheck::Clear(Vec::new()));
    }

    #[test]
    fn a_firm_cooldown_blocks_every_call_until_its_time_is_over() {
        let (cooldowns, now) = started(true);
        let check = |after| cooldowns.check(&[ORIGIN], false, now + after);
        assert!(matches!(check(29 * SECOND), CooldownCheck::Until(rejection) if rejection.left == SECOND));
        assert_eq!(check(30 * SECOND), CooldownCheck::Clear(vec![ORIGIN]));
    }

    #[test]
    fn one_call_is_the_probe_and_the_others_wait_for_it() {
        let (mut cooldowns, now) = started(true);
        let later = now + 30 * SECOND;
        cooldowns.set_probing(&[ORIGIN], true);
        assert!(matches!(cooldowns.check(&[ORIGIN], false, later), CooldownCheck::Probing(_)));
        cooldowns.set_probing(&[ORIGIN], false);
        assert_eq!(cooldowns.check(&[ORIGIN], false, later), CooldownCheck::Clear(vec![ORIGIN]));
        cooldowns.set_probing(&[ORIGIN], true);
        cooldowns.begin(ORIGIN, rejection(30 * SECOND, DOWN), true, later);
        assert!(
            matches!(cooldowns.check(&[ORIGIN], false, later), CooldownCheck::Until(_)),
            "it was renewed"
        );
        assert_eq!(cooldowns.times(ORIGIN), 2);
        assert!(cooldowns.lift(ORIGIN, later + 30 * SECOND));
        assert_eq!(cooldowns.check(&[ORIGIN], true, later), CooldownCheck::Clear(Vec::new()));
    }

    #[test]
    fn a_response_in_flight_does_not_lift_a_firm_cooldown() {
        let (mut cooldowns, now) = started(true);
        assert!(!cooldowns.lift(ORIGIN, now + SECOND));
        let (mut soft, now) = started(false);
        assert!(soft.lift(ORIGIN, now + SECOND));
    }

    #[test]
    fn of_several_cooldowns_the_longest_is_returned() {
        let (mut cooldowns, now) = started(true);
        cooldowns.begin(KEY, rejection(50 * SECOND, LIMITED), true, now);
        let rejection = Rejection { reason: LIMITED, left: 50 * SECOND };
        assert_eq!(cooldowns.check(&[ORIGIN, KEY], false, now), CooldownCheck::Until(rejection));
    }

    #[test]
    fn a_shorter_retry_after_does_not_shorten_a_longer_cooldown() {
        let (mut cooldowns, now) = started(true);
        cooldowns.begin(ORIGIN, rejection(SECOND, LIMITED), true, now);
        assert!(cooldowns.check(&[ORIGIN], false, now + 29 * SECOND) != CooldownCheck::Clear(vec![ORIGIN]));
        cooldowns.begin(ORIGIN, rejection(SECOND, LIMITED), false, now);
        assert!(matches!(cooldowns.check(&[ORIGIN], false, now), CooldownCheck::Until(_)), "still firm");
    }

    #[test]
    fn cooldowns_are_bounded_and_the_oldest_are_evicted() {
        let (mut cooldowns, now) = started(true);
        cooldowns.begin(CooldownScope::Upstream, rejection(SECOND, DOWN), true, now);
        for credential in 0..4 * MAX_COOLDOWNS as u128 {
            cooldowns.begin(CooldownScope::Credential(credential), rejection(SECOND, LIMITED), true, now);
            cooldowns.begin(CooldownScope::Key(credential), rejection(SECOND, DOWN), false, now);
            if credential % 1000 == 0 {
                // A renewed cooldown is not old.
                cooldowns.begin(ORIGIN, rejection(SECOND, DOWN), true, now);
            }
            assert!(cooldowns.contains(CooldownScope::Credential(credential)), "the newest holds");
        }
        assert!(cooldowns.all().count() <= MAX_COOLDOWNS);
        assert!(cooldowns.contains(ORIGIN) && cooldowns.contains(CooldownScope::Upstream));
        assert!(!cooldowns.contains(CooldownScope::Credential(0)));
        cooldowns.begin(CooldownScope::Origin(2), rejection(SECOND, DOWN), true, now);
        assert!(cooldowns.contains(CooldownScope::Origin(2)) && cooldowns.contains(ORIGIN));
        cooldowns.begin(KEY, rejection(SECOND, DOWN), false, now + 2 * SECOND);
        assert!(cooldowns.contains(KEY), "what is over makes room");
    }
}
