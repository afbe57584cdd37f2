//! Which calls fail, and how far that speaks for others: three keys for their endpoint, three endpoints for those
//! beside them (their paths differ in the last segment), three of such families for their origin.
//!
//! Owns: when several that fail speak for all, and which have nothing more to say. Bounded. Pure: time is an
//! argument. Never touches: holds themselves (`hold`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::upstream::cooldown::CooldownScope;

/// So many different ones that fail speak for all.
const SPEAKING: usize = 3;

/// How much is remembered at each level; the oldest goes first.
const MOST: usize = 256;

/// One of a group: what it speaks for, and which of them it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupMember {
    pub(super) group: CooldownScope,
    pub(super) number: u128,
}

/// What is known of those that fail, at one level.
#[derive(Debug, Default)]
pub(super) struct FailureGroups {
    /// Those that failed since the last success in their group, and have not been heard yet.
    speaking: VecDeque<GroupMember>,
    /// Those that have been heard: they say nothing new until one of theirs goes well.
    heard: VecDeque<GroupMember>,
    /// The groups in which those that have been heard take turns at finding out how things are.
    rounds: VecDeque<ProbeRotation>,
}

/// Who of a group that has been heard may find out next: one in the time of a hold, and nobody a second time before
/// the others had a hold's time of their own for it.
#[derive(Debug)]
struct ProbeRotation {
    group: CooldownScope,
    /// When the group was held, or one of them found out.
    last: Instant,
    hold: Duration,
    /// Those who have had their turn; at first all.
    had: Option<VecDeque<u128>>,
}

/// How a call failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct FailureKind {
    /// It was to find out whether its group is back.
    pub(super) probes: bool,
    /// It was known to fail, for it has a hold of its own.
    pub(super) is_held: bool,
    /// How long its group is held, if it is to be.
    pub(super) hold: Duration,
    pub(super) at: Instant,
}

impl FailureGroups {
    /// One of a group failed; whether the group is to be held.
    pub(super) fn failed(&mut self, member: GroupMember, failed: FailureKind) -> bool {
        let FailureKind { probes, is_held, hold, at } = failed;
        let group = member.group;
        if is_held && probes && !self.heard.contains(&member) {
            push(&mut self.heard, member);
        }
        if self.heard.contains(&member) {
            if probes {
                self.had_its_turn(member, hold, at);
            }
            return false;
        }
        if !is_held && !self.speaking.contains(&member) {
            push(&mut self.speaking, member);
        }
        let of_it = |other: &&GroupMember| other.group == group;
        if !(probes || self.speaking.iter().filter(of_it).count() >= SPEAKING) {
            return false;
        }
        let spoken: Vec<GroupMember> = self.speaking.iter().filter(of_it).copied().collect();
        for one in spoken.into_iter().chain([member]) {
            if !self.heard.contains(&one) {
                push(&mut self.heard, one);
            }
        }
        self.speaking.retain(|other| other.group != group);
        // The others come first when the hold is over.
        self.rounds.retain(|round| round.group != group);
        push(&mut self.rounds, ProbeRotation { group, last: at, hold, had: None });
        true
    }

    /// One of a group went well.
    pub(super) fn succeeded(&mut self, member: GroupMember) {
        self.speaking.retain(|other| other.group != member.group);
        self.rounds.retain(|round| round.group != member.group);
        self.heard.retain(|other| *other != member);
    }

    /// Whether it failed, and neither it nor another of its group has gone well since.
    pub(super) fn knows(&self, member: GroupMember) -> bool {
        self.speaking.contains(&member) || self.heard.contains(&member)
    }

    /// How long it leaves it to others to find out whether its group is back. `is_held`: it is known to fail.
    pub(super) fn rests(
        &self,
        member: GroupMember,
        is_held: bool,
        now: Instant,
    ) -> Option<Duration> {
        let round = self.rounds.iter().find(|round| round.group == member.group)?;
        if !is_held && !self.heard.contains(&member) {
            return None;
        }
        let had = round.had.as_ref().is_none_or(|had| had.contains(&member.number));
        let time = if had { round.hold.saturating_mul(2) } else { round.hold };
        let left = round.last.checked_add(time)?.saturating_duration_since(now);
        Some(left).filter(|left| !left.is_zero())
    }

    /// One that has been heard found out that nothing has changed.
    fn had_its_turn(&mut self, member: GroupMember, hold: Duration, at: Instant) {
        let known = self.rounds.iter().position(|round| round.group == member.group);
        let had = known.and_then(|known| self.rounds.remove(known)?.had);
        // Where one comes a second time nobody else did: the round is over.
        let mut had = had.filter(|had| !had.contains(&member.number)).unwrap_or_default();
        push(&mut had, member.number);
        let round = ProbeRotation { group: member.group, last: at, hold, had: Some(had) };
        push(&mut self.rounds, round);
    }
}

fn push<T>(all: &mut VecDeque<T>, one: T) {
    if all.len() >= MOST {
        all.pop_front();
    }
    all.push_back(one);
}
