//! The ban guard: answers that lead to a ban are counted, and calls stop before the ban comes.
//!
//! Owns: how many there were in a stretch of time. Pure: the time is an argument. Never touches: what
//! stops (`gate`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::policy::upstream::BanGuardRule;

/// Into how many pieces the stretch is cut: so much of it is forgotten at once.
const PIECES: u32 = 60;

/// The count of an upstream.
#[derive(Debug, Default)]
pub(super) struct BanGuard {
    /// When each piece began, and how many fell into it.
    pieces: VecDeque<(Instant, u64)>,
    /// How long a piece counts, by the rule that was last gone by.
    kept: Duration,
}

/// The count as it outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SavedBanGuard {
    /// How long a piece counts.
    pub(super) for_long: Duration,
    /// How long ago each piece began, and how many fell into it.
    pub(super) pieces: Vec<(Duration, u64)>,
}

impl BanGuard {
    /// An answer with this status came; whether it counts. `shared`: because of others (they do not
    /// count).
    pub(super) fn count(
        &mut self,
        rule: &BanGuardRule,
        status: StatusCode,
        shared: bool,
        now: Instant,
    ) -> bool {
        if shared || !rule.statuses.iter().any(|matched| matched.matches(status)) {
            return false;
        }
        self.kept = kept(rule);
        let piece = rule.limit.per / PIECES;
        match self.pieces.back_mut() {
            Some((begun, count)) if now.duration_since(*begun) < piece => *count += 1,
            Some(_) | None => self.pieces.push_back((now, 1)),
        }
        true
    }

    /// How many count now.
    pub(super) fn counted(&mut self, rule: &BanGuardRule, now: Instant) -> u64 {
        self.kept = kept(rule);
        while self.pieces.front().is_some_and(|(begun, _)| now.duration_since(*begun) >= self.kept)
        {
            self.pieces.pop_front();
        }
        self.pieces.iter().map(|(_, count)| count).sum()
    }

    /// How many more such answers may come before calls must stop.
    pub(super) fn left(&mut self, rule: &BanGuardRule, now: Instant) -> u64 {
        trips_at(rule).saturating_sub(self.counted(rule, now))
    }

    /// How long calls must stop; `None`: they need not.
    pub(super) fn tripped(&mut self, rule: &BanGuardRule, now: Instant) -> Option<Duration> {
        let counted = self.counted(rule, now);
        let most = trips_at(rule);
        if counted < most {
            return None;
        }
        // Until so many are forgotten that it counts fewer.
        let mut left = counted;
        for (begun, count) in &self.pieces {
            left -= count;
            if left < most {
                return Some(self.kept.saturating_sub(now.duration_since(*begun)));
            }
        }
        Some(self.kept)
    }

    /// The count as it is kept; `None`: no answer counts any more.
    pub(super) fn kept(&self, now: Instant) -> Option<SavedBanGuard> {
        let age = |(begun, count): &(Instant, u64)| (now.saturating_duration_since(*begun), *count);
        let pieces = self.pieces.iter().map(age).filter(|(age, _)| *age < self.kept);
        let pieces: Vec<_> = pieces.collect();
        (!pieces.is_empty()).then_some(SavedBanGuard { for_long: self.kept, pieces })
    }

    /// Adds the count of an earlier larder.
    pub(super) fn adopt(&mut self, kept: &SavedBanGuard, now: Instant) {
        self.kept = self.kept.max(kept.for_long);
        for (age, count) in &kept.pieces {
            self.pieces.push_back((now.checked_sub(*age).unwrap_or(now), *count));
        }
        self.pieces.make_contiguous().sort_by_key(|(begun, _)| *begun);
    }
}

/// How long a piece counts: until its last answer is old enough.
fn kept(rule: &BanGuardRule) -> Duration {
    rule.limit.per + rule.limit.per / PIECES
}

/// At how many answers calls stop: at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a u32, rounded down, is one"
)]
pub(super) fn trips_at(rule: &BanGuardRule) -> u64 {
    ((f64::from(rule.limit.count) * rule.trip_at).floor() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::StatusMatch;
    use crate::policy::upstream::Rate;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Discord's: 10,000 in ten minutes.
    fn discord() -> BanGuardRule {
        let exact = |code| StatusMatch::Exact(StatusCode::from_u16(code).unwrap());
        BanGuardRule {
            statuses: [401, 403, 429].map(exact).to_vec(),
            limit: Rate { count: 10_000, per: 10 * MINUTE },
            trip_at: 0.8,
        }
    }

    fn after(guard: &mut BanGuard, answers: usize, status: StatusCode, now: Instant) {
        for _ in 0..answers {
            guard.count(&discord(), status, false, now);
        }
    }

    #[test]
    fn it_trips_at_its_share_and_not_one_answer_before() {
        let (mut guard, now) = (BanGuard::default(), crate::clock::monotonic());
        after(&mut guard, 7_999, StatusCode::FORBIDDEN, now);
        assert_eq!(guard.tripped(&discord(), now), None);
        after(&mut guard, 1, StatusCode::TOO_MANY_REQUESTS, now);
        let left = guard.tripped(&discord(), now).expect("8,000 of 10,000");
        assert!(left >= 10 * MINUTE && left <= 11 * MINUTE, "{left:?}");
    }

    #[test]
    fn it_lets_go_when_enough_is_forgotten() {
        let (mut guard, now) = (BanGuard::default(), crate::clock::monotonic());
        after(&mut guard, 5_000, StatusCode::UNAUTHORIZED, now);
        let later = now + 5 * MINUTE;
        after(&mut guard, 3_000, StatusCode::UNAUTHORIZED, later);
        let left = guard.tripped(&discord(), later).expect("8,000 of 10,000");
        assert!(left >= 5 * MINUTE && left <= 6 * MINUTE, "{left:?}");
        assert_eq!(guard.tripped(&discord(), later + left), None);
        assert_eq!(guard.counted(&discord(), later + left), 3_000);
    }

    #[test]
    fn answers_of_other_kinds_and_those_because_of_others_do_not_count() {
        let (mut guard, now) = (BanGuard::default(), crate::clock::monotonic());
        after(&mut guard, 9_000, StatusCode::OK, now);
        after(&mut guard, 9_000, StatusCode::NOT_FOUND, now);
        for _ in 0..9_000 {
            guard.count(&discord(), StatusCode::TOO_MANY_REQUESTS, true, now);
        }
        assert_eq!(guard.counted(&discord(), now), 0);
    }

    #[test]
    fn it_remembers_a_bounded_number_of_things() {
        let (mut guard, start) = (BanGuard::default(), crate::clock::monotonic());
        for second in 0..3_600 {
            let now = start + Duration::from_secs(second);
            after(&mut guard, 3, StatusCode::FORBIDDEN, now);
            guard.counted(&discord(), now);
        }
        assert!(guard.pieces.len() <= 62, "{}", guard.pieces.len());
    }
}
