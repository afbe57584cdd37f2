//! Which calls fail, and when their failures count for a group: three failing keys for their endpoint, three
//! failing endpoints for their family (paths that differ in the last segment), three failing families for
//! their origin.
//!
//! Owns: when failing members put their group into a cooldown, and which members count no more. Bounded.
//! Pure: time is an argument. Never touches: cooldowns themselves (`cooldown`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::upstream::admission::cooldown::CooldownScope;

/// The number of different failing members that puts a group into a cooldown.
const THRESHOLD: usize = 3;

/// The number of entries at each level. The oldest is removed first.
const MAX_MEMBERS: usize = 256;

/// A member of a group: the group, and the member's number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupMember {
    pub(super) group: CooldownScope,
    pub(super) number: u128,
}

/// The failing members of the groups of one level.
#[derive(Debug, Default)]
pub(super) struct FailureGroups {
    /// Members that failed since the last success in their group and have not been reported yet.
    failing: VecDeque<GroupMember>,
    /// Reported members: their failures have put the group into a cooldown. They count no more until one of
    /// their calls succeeds.
    reported: VecDeque<GroupMember>,
    /// The groups whose reported members probe in rotation.
    rotations: VecDeque<ProbeRotation>,
}

/// The next probe among the reported members of a group. One member probes per cooldown time, and none probes
/// a second time before the others had a cooldown time of their own to probe.
#[derive(Debug)]
struct ProbeRotation {
    group: CooldownScope,
    /// When the cooldown of the group began, or the last member probed.
    last: Instant,
    cooldown: Duration,
    /// The members that have probed; at first all of them.
    probed: Option<VecDeque<u128>>,
}

/// How a call failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct FailureKind {
    /// Whether the call was the probe of its group.
    pub(super) is_probe: bool,
    /// Whether the call was known to fail, because its key is in a cooldown.
    pub(super) in_cooldown: bool,
    /// The length of the group's cooldown, if it begins.
    pub(super) cooldown: Duration,
    pub(super) at: Instant,
}

impl FailureGroups {
    /// Records the failure of a member. Returns whether the group's cooldown begins.
    pub(super) fn on_failure(&mut self, member: GroupMember, failure: FailureKind) -> bool {
        let FailureKind { is_probe: probes, in_cooldown, cooldown, at } = failure;
        let group = member.group;
        if in_cooldown && probes && !self.reported.contains(&member) {
            push(&mut self.reported, member);
        }
        if self.reported.contains(&member) {
            if probes {
                self.record_probe(member, cooldown, at);
            }
            return false;
        }
        if !in_cooldown && !self.failing.contains(&member) {
            push(&mut self.failing, member);
        }
        let in_group = |other: &&GroupMember| other.group == group;
        if !(probes || self.failing.iter().filter(in_group).count() >= THRESHOLD) {
            return false;
        }
        let members: Vec<GroupMember> = self.failing.iter().filter(in_group).copied().collect();
        for one in members.into_iter().chain([member]) {
            if !self.reported.contains(&one) {
                push(&mut self.reported, one);
            }
        }
        self.failing.retain(|other| other.group != group);
        // The other members probe first after the cooldown.
        self.rotations.retain(|rotation| rotation.group != group);
        push(&mut self.rotations, ProbeRotation { group, last: at, cooldown, probed: None });
        true
    }

    /// Records the success of a member.
    pub(super) fn on_success(&mut self, member: GroupMember) {
        self.failing.retain(|other| other.group != member.group);
        self.rotations.retain(|rotation| rotation.group != member.group);
        self.reported.retain(|other| *other != member);
    }

    /// Whether the member failed, and no call of it or of another member of its group succeeded since.
    pub(super) fn is_failing(&self, member: GroupMember) -> bool {
        self.failing.contains(&member) || self.reported.contains(&member)
    }

    /// How long the member leaves the probe of its group to others. `in_cooldown`: its key is in a cooldown.
    pub(super) fn probe_delay(
        &self,
        member: GroupMember,
        in_cooldown: bool,
        now: Instant,
    ) -> Option<Duration> {
        let rotation = self.rotations.iter().find(|rotation| rotation.group == member.group)?;
        if !in_cooldown && !self.reported.contains(&member) {
            return None;
        }
        let probed = rotation.probed.as_ref().is_none_or(|probed| probed.contains(&member.number));
        let time = if probed { rotation.cooldown.saturating_mul(2) } else { rotation.cooldown };
        let left = rotation.last.checked_add(time)?.saturating_duration_since(now);
        Some(left).filter(|left| !left.is_zero())
    }

    /// Records that the probe of a reported member failed.
    fn record_probe(&mut self, member: GroupMember, cooldown: Duration, at: Instant) {
        let known = self.rotations.iter().position(|rotation| rotation.group == member.group);
        let probed = known.and_then(|known| self.rotations.remove(known)?.probed);
        // If a member probes a second time, no other member has probed since: a new round begins.
        let mut probed = probed.filter(|probed| !probed.contains(&member.number)).unwrap_or_default();
        push(&mut probed, member.number);
        let rotation = ProbeRotation { group: member.group, last: at, cooldown, probed: Some(probed) };
        push(&mut self.rotations, rotation);
    }
}

fn push<T>(all: &mut VecDeque<T>, one: T) {
    if all.len() >= MAX_MEMBERS {
        all.pop_front();
    }
    all.push_back(one);
}
