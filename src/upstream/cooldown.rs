//! What is not asked for a while, and the one call that finds out whether it may be asked again.
//!
//! Owns: when a hold begins, whom it keeps back, when it ends. Pure: the time is an argument.
//! Never touches: waiting, and what an answer means (`classify`).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::upstream::rejection::{RejectReason, Rejection};

/// How many holds an upstream may have at once; beyond it the oldest make room, but for the one that is about all of
/// it.
const MOST: usize = 16_384;

/// A hold that is over sooner does not outlive the process.
pub(super) const WORTH_KEEPING: Duration = Duration::from_secs(1);

/// A firm hold as it outlives the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SavedCooldown {
    /// The calls that it concerns.
    pub(super) reach: CooldownScope,
    /// How long it still lasts.
    pub(super) left: Duration,
    /// Why.
    pub(super) cause: RejectReason,
    /// How often in a row the origin has given cause for it.
    pub(super) times: u32,
}

/// What a hold is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum CooldownScope {
    /// Everything of the upstream.
    Upstream,
    /// One host and port of it.
    Origin(u64),
    /// The endpoints of an origin whose paths differ in the last segment.
    Family(u64),
    /// One endpoint of an origin: a method, and a path without its ids.
    Endpoint(u64),
    /// What is asked with one credential.
    Credential(u128),
    /// What counts towards one of the origin's limits.
    Bucket(u128),
    /// One stored answer.
    Key(u128),
}

impl CooldownScope {
    /// The word for it.
    pub(super) fn token(self) -> &'static str {
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

/// One hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cooldown {
    /// Until then nothing is asked; afterwards one call goes ahead.
    pub(super) until: Instant,
    /// Why.
    pub(super) cause: RejectReason,
    /// Nobody passes; else only those are kept back who have something stale to show.
    pub(super) firm: bool,
    /// That one call is on its way.
    pub(super) probing: bool,
    /// How often in a row the origin has given cause for it.
    pub(super) times: u32,
    /// Its place in the order in which holds began, or were renewed.
    begun: u64,
}

/// Whether a call may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CooldownCheck {
    /// Yes. It is the probe of these.
    Clear(Vec<CooldownScope>),
    /// Not before then.
    Until(Rejection),
    /// Not before the probe that is on its way is answered.
    Probing(Rejection),
}

/// All holds of an upstream.
#[derive(Debug, Default)]
pub(super) struct Cooldowns {
    all: HashMap<CooldownScope, Cooldown>,
    /// How many have begun or were renewed.
    begun: u64,
}

impl Cooldowns {
    /// Whether a call that all of `reaches` concern may be made. `yields`: it has something stale to
    /// show, so a soft hold keeps it back too.
    pub(super) fn check(
        &self,
        reaches: &[CooldownScope],
        yields: bool,
        now: Instant,
    ) -> CooldownCheck {
        let mut probes = Vec::new();
        let (mut longest, mut probing) = (None::<Rejection>, None::<Rejection>);
        for reach in reaches {
            let Some(hold) = self.all.get(reach) else { continue };
            let left = hold.until.saturating_duration_since(now);
            let back = Rejection { cause: hold.cause, left };
            let bars = hold.firm || yields;
            if !left.is_zero() {
                if bars && longest.is_none_or(|longest| longest.left < left) {
                    longest = Some(back);
                }
            } else if hold.probing {
                if bars {
                    probing = Some(back);
                }
            } else if bars {
                probes.push(*reach);
            }
        }
        match (longest, probing) {
            (Some(held), _) => CooldownCheck::Until(held),
            (None, Some(held)) => CooldownCheck::Probing(held),
            (None, None) => CooldownCheck::Clear(probes),
        }
    }

    /// A call goes ahead as the probe of these.
    pub(super) fn probe(&mut self, reaches: &[CooldownScope]) {
        for reach in reaches {
            if let Some(hold) = self.all.get_mut(reach) {
                hold.probing = true;
            }
        }
    }

    /// A probe ended without finding anything out: the next call is the probe.
    pub(super) fn unprobe(&mut self, reaches: &[CooldownScope]) {
        for reach in reaches {
            if let Some(hold) = self.all.get_mut(reach) {
                hold.probing = false;
            }
        }
    }

    /// Begins or renews a hold; one of no length is none. One that runs for longer stays as it is; a firm one is not softened.
    pub(super) fn begin(
        &mut self,
        reach: CooldownScope,
        time: Duration,
        cause: RejectReason,
        firm: bool,
        now: Instant,
    ) {
        if time.is_zero() {
            return;
        }
        self.make_room(now);
        self.begun += 1;
        let begun = self.begun;
        let until = now.checked_add(time).unwrap_or(now);
        match self.all.get_mut(&reach) {
            Some(hold) if hold.until > until && (hold.firm || !firm) => hold.times += 1,
            Some(hold) => {
                let times = hold.times.saturating_add(1);
                *hold = Cooldown { until, cause, firm, probing: false, times, begun };
            }
            None => {
                let hold = Cooldown { until, cause, firm, probing: false, times: 1, begun };
                self.all.insert(reach, hold);
            }
        }
    }

    /// Where there are too many, lets go of those that are over, and of the older half of those that are
    /// left.
    fn make_room(&mut self, now: Instant) {
        if self.all.len() < MOST {
            return;
        }
        self.all.retain(|_, hold| hold.until > now);
        let mut begun: Vec<u64> = self.all.values().map(|hold| hold.begun).collect();
        if let Some(oldest) = begun.len().checked_sub(MOST / 2).filter(|oldest| *oldest > 0) {
            let (_, &mut first, _) = begun.select_nth_unstable(oldest);
            self.all.retain(|reach, hold| *reach == CooldownScope::Upstream || hold.begun >= first);
        }
    }

    /// The origin answered as it should: the hold is over, unless it is the origin's own word and its
    /// time has not come. Whether it was there.
    pub(super) fn lift(&mut self, reach: CooldownScope, now: Instant) -> bool {
        let over = self.all.get(&reach).is_some_and(|hold| !hold.firm || hold.until <= now);
        over && self.all.remove(&reach).is_some()
    }

    /// How often in a row there was cause for this hold.
    pub(super) fn times(&self, reach: CooldownScope) -> u32 {
        self.all.get(&reach).map_or(0, |hold| hold.times)
    }

    /// Whether nobody passes who this concerns.
    pub(super) fn is_firm(&self, reach: CooldownScope) -> bool {
        self.all.get(&reach).is_some_and(|hold| hold.firm)
    }

    /// Whether this is held, or its probe is due.
    pub(super) fn is_known(&self, reach: CooldownScope) -> bool {
        self.all.contains_key(&reach)
    }

    /// Why this is held, or was until its probe.
    pub(super) fn cause(&self, reach: CooldownScope) -> Option<RejectReason> {
        self.all.get(&reach).map(|hold| hold.cause)
    }

    /// Takes over a firm hold of an earlier larder; one that runs for longer stays as it is.
    pub(super) fn adopt(&mut self, kept: &SavedCooldown, now: Instant) {
        let until = now.checked_add(kept.left).unwrap_or(now);
        if self.all.get(&kept.reach).is_none_or(|hold| hold.until < until) {
            let SavedCooldown { reach, cause, times, .. } = *kept;
            self.begun += 1;
            let begun = self.begun;
            self.all
                .insert(reach, Cooldown { until, cause, firm: true, probing: false, times, begun });
        }
    }

    /// The firm holds that outlive the process: those that last a while, not more than so many. Those
    /// of single keys are left out first, then those that are over first.
    pub(super) fn kept(&self, most: usize, now: Instant) -> Vec<SavedCooldown> {
        let kept = |(reach, hold): (&CooldownScope, &Cooldown)| {
            let left = hold.until.saturating_duration_since(now);
            let Cooldown { cause, times, .. } = *hold;
            let is_kept = hold.firm && cause.outlives() && left >= WORTH_KEEPING;
            is_kept.then_some(SavedCooldown { reach: *reach, left, cause, times })
        };
        let mut all: Vec<SavedCooldown> = self.all.iter().filter_map(kept).collect();
        if all.len() > most {
            // Others may have to wait for this: it does not sort what is left out.
            let is_key = |one: &SavedCooldown| matches!(one.reach, CooldownScope::Key(_));
            all.select_nth_unstable_by_key(most, |one| (is_key(one), Reverse(one.left)));
            all.truncate(most);
        }
        all
    }

    /// All of them, those that are over and not yet probed too.
    pub(super) fn all(&self) -> impl Iterator<Item = (CooldownScope, &Cooldown)> {
        self.all.iter().map(|(reach, hold)| (*reach, hold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::upstream::{OutcomeClass, RateLimitKind};

    const SECOND: Duration = Duration::from_secs(1);
    const DOWN: RejectReason = RejectReason::Failed(OutcomeClass::Network);
    const LIMITED: RejectReason =
        RejectReason::Failed(OutcomeClass::RateLimited(RateLimitKind::Minute));
    const ORIGIN: CooldownScope = CooldownScope::Origin(1);
    const KEY: CooldownScope = CooldownScope::Key(7);

    fn begun(firm: bool) -> (Cooldowns, Instant) {
        let (mut holds, now) = (Cooldowns::default(), crate::clock::monotonic());
        holds.begin(ORIGIN, 30 * SECOND, DOWN, firm, now);
        (holds, now)
    }

    #[test]
    fn a_soft_hold_keeps_back_only_who_has_something_stale() {
        let (holds, now) = begun(false);
        let held = Rejection { cause: DOWN, left: 30 * SECOND };
        assert_eq!(holds.check(&[ORIGIN, KEY], true, now), CooldownCheck::Until(held));
        assert_eq!(holds.check(&[ORIGIN, KEY], false, now), CooldownCheck::Clear(Vec::new()));
        assert_eq!(holds.check(&[KEY], true, now), CooldownCheck::Clear(Vec::new()));
    }

    #[test]
    fn a_firm_hold_keeps_back_everybody_until_its_time_is_over() {
        let (holds, now) = begun(true);
        let look = |after| holds.check(&[ORIGIN], false, now + after);
        assert!(matches!(look(29 * SECOND), CooldownCheck::Until(held) if held.left == SECOND));
        assert_eq!(look(30 * SECOND), CooldownCheck::Clear(vec![ORIGIN]));
    }

    #[test]
    fn one_call_is_the_probe_and_the_others_wait_for_it() {
        let (mut holds, now) = begun(true);
        let later = now + 30 * SECOND;
        holds.probe(&[ORIGIN]);
        assert!(matches!(holds.check(&[ORIGIN], false, later), CooldownCheck::Probing(_)));
        holds.unprobe(&[ORIGIN]);
        assert_eq!(holds.check(&[ORIGIN], false, later), CooldownCheck::Clear(vec![ORIGIN]));
        holds.probe(&[ORIGIN]);
        holds.begin(ORIGIN, 30 * SECOND, DOWN, true, later);
        assert!(
            matches!(holds.check(&[ORIGIN], false, later), CooldownCheck::Until(_)),
            "it was renewed"
        );
        assert_eq!(holds.times(ORIGIN), 2);
        assert!(holds.lift(ORIGIN, later + 30 * SECOND));
        assert_eq!(holds.check(&[ORIGIN], true, later), CooldownCheck::Clear(Vec::new()));
    }

    #[test]
    fn the_origins_own_word_is_not_lifted_by_an_answer_that_was_under_way() {
        let (mut holds, now) = begun(true);
        assert!(!holds.lift(ORIGIN, now + SECOND));
        let (mut soft, now) = begun(false);
        assert!(soft.lift(ORIGIN, now + SECOND));
    }

    #[test]
    fn of_several_the_longest_is_told() {
        let (mut holds, now) = begun(true);
        holds.begin(KEY, 50 * SECOND, LIMITED, true, now);
        let held = Rejection { cause: LIMITED, left: 50 * SECOND };
        assert_eq!(holds.check(&[ORIGIN, KEY], false, now), CooldownCheck::Until(held));
    }

    #[test]
    fn a_shorter_word_does_not_shorten_a_longer_hold() {
        let (mut holds, now) = begun(true);
        holds.begin(ORIGIN, SECOND, LIMITED, true, now);
        assert!(
            holds.check(&[ORIGIN], false, now + 29 * SECOND) != CooldownCheck::Clear(vec![ORIGIN])
        );
        holds.begin(ORIGIN, SECOND, LIMITED, false, now);
        assert!(
            matches!(holds.check(&[ORIGIN], false, now), CooldownCheck::Until(_)),
            "still firm"
        );
    }

    #[test]
    fn holds_are_bounded_and_the_oldest_make_room() {
        let (mut holds, now) = begun(true);
        holds.begin(CooldownScope::Upstream, SECOND, DOWN, true, now);
        for credential in 0..4 * MOST as u128 {
            holds.begin(CooldownScope::Credential(credential), SECOND, LIMITED, true, now);
            holds.begin(CooldownScope::Key(credential), SECOND, DOWN, false, now);
            if credential % 1000 == 0 {
                // One that is renewed is not old.
                holds.begin(ORIGIN, SECOND, DOWN, true, now);
            }
            assert!(holds.is_known(CooldownScope::Credential(credential)), "the newest holds");
        }
        assert!(holds.all().count() <= MOST);
        assert!(holds.is_known(ORIGIN) && holds.is_known(CooldownScope::Upstream));
        assert!(!holds.is_known(CooldownScope::Credential(0)));
        holds.begin(CooldownScope::Origin(2), SECOND, DOWN, true, now);
        assert!(holds.is_known(CooldownScope::Origin(2)) && holds.is_known(ORIGIN));
        holds.begin(KEY, SECOND, DOWN, false, now + 2 * SECOND);
        assert!(holds.is_known(KEY), "what is over makes room");
    }
}
