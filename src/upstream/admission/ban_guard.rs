//! The ban guard: counts responses that lead to a ban, and blocks calls before the ban.
//!
//! Owns: the number of such responses in a time window. Pure: time is an argument. Never touches: the block
//! itself (`admission`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::policy::upstream::BanGuardRule;

/// The number of pieces of the window. Counts expire one piece at a time.
const PIECES: u32 = 60;

/// The ban guard of an upstream.
#[derive(Debug, Default)]
pub(in crate::upstream) struct BanGuard {
    /// The start of each piece, and its count.
    pieces: VecDeque<(Instant, u64)>,
    /// How long a piece counts, by the last applied rule.
    retention: Duration,
}

/// The count as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upstream) struct SavedBanGuard {
    /// How long a piece counts.
    pub(in crate::upstream) retention: Duration,
    /// The age of each piece, and its count.
    pub(in crate::upstream) pieces: Vec<(Duration, u64)>,
}

impl BanGuard {
    /// Counts a response with this status. Returns whether it counts. `shared`: other clients used up the
    /// limit, so the response does not count.
    pub(in crate::upstream) fn count(
        &mut self,
        rule: &BanGuardRule,
        status: StatusCode,
        shared: bool,
        now: Instant,
    ) -> bool {
        if shared || !rule.statuses.iter().any(|matched| matched.matches(status)) {
            return false;
        }
        self.retention = retention(rule);
        let piece = rule.limit.per / PIECES;
        match self.pieces.back_mut() {
            Some((start, count)) if now.duration_since(*start) < piece => *count += 1,
            Some(_) | None => self.pieces.push_back((now, 1)),
        }
        true
    }

    /// The current count.
    pub(in crate::upstream) fn counted(&mut self, rule: &BanGuardRule, now: Instant) -> u64 {
        self.retention = retention(rule);
        while self.pieces.front().is_some_and(|(start, _)| now.duration_since(*start) >= self.retention) {
            self.pieces.pop_front();
        }
        self.pieces.iter().map(|(_, count)| count).sum()
    }

    /// The number of such responses that may still arrive before calls are blocked.
    pub(in crate::upstream) fn left(&mut self, rule: &BanGuardRule, now: Instant) -> u64 {
        trips_at(rule).saturating_sub(self.counted(rule, now))
    }

    /// How long calls are blocked. `None`: they are not.
    pub(in crate::upstream) fn tripped(&mut self, rule: &BanGuardRule, now: Instant) -> Option<Duration> {
        let counted = self.counted(rule, now);
        let threshold = trips_at(rule);
        if counted < threshold {
            return None;
        }
        // Until enough pieces have expired to get below the threshold.
        let mut left = counted;
        for (start, count) in &self.pieces {
            left -= count;
            if left < threshold {
                return Some(self.retention.saturating_sub(now.duration_since(*start)));
            }
        }
        Some(self.retention)
    }

    /// The count to store. `None`: no response counts any more.
    pub(in crate::upstream) fn to_save(&self, now: Instant) -> Option<SavedBanGuard> {
        let age = |(start, count): &(Instant, u64)| (now.saturating_duration_since(*start), *count);
        let pieces = self.pieces.iter().map(age).filter(|(age, _)| *age < self.retention);
        let pieces: Vec<_> = pieces.collect();
        (!pieces.is_empty()).then_some(SavedBanGuard { retention: self.retention, pieces })
    }

    /// Adds the count of an earlier process.
    pub(in crate::upstream) fn restore(&mut self, saved: &SavedBanGuard, now: Instant) {
        self.retention = self.retention.max(saved.retention);
        for (age, count) in &saved.pieces {
            self.pieces.push_back((now.checked_sub(*age).unwrap_or(now), *count));
        }
        self.pieces.make_contiguous().sort_by_key(|(start, _)| *start);
    }
}

/// How long a piece counts: until its last response has expired.
fn retention(rule: &BanGuardRule) -> Duration {
    rule.limit.per + rule.limit.per / PIECES
}

/// The count at which calls are blocked: at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a u32, rounded down, is one"
)]
pub(in crate::upstream) fn trips_at(rule: &BanGuardRule) -> u64 {
    ((f64::from(rule.limit.count) * rule.trip_at).floor() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::policy::StatusMatch;
    use crate::policy::upstream::Rate;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Discord's rule: 10,000 in ten minutes.
    fn discord() -> BanGuardRule {
        let exact = |code| StatusMatch::Exact(StatusCode::from_u16(code).unwrap());
        BanGuardRule {
            statuses: [401, 403, 429].map(exact).to_vec(),
            limit: Rate { count: 10_000, per: 10 * MINUTE },
            trip_at: 0.8,
        }
    }

    fn count_responses(guard: &mut BanGuard, responses: usize, status: StatusCode, now: Instant) {
        for _ in 0..responses {
            guard.count(&discord(), status, false, now);
        }
    }

    #[test]
    fn it_trips_at_its_share_and_not_one_response_before() {
        let (mut guard, now) = (BanGuard::default(), Clock::system().instant());
        count_responses(&mut guard, 7_999, StatusCode::FORBIDDEN, now);
        assert_eq!(guard.tripped(&discord(), now), None);
        count_responses(&mut guard, 1, StatusCode::TOO_MANY_REQUESTS, now);
        let left = guard.tripped(&discord(), now).expect("8,000 of 10,000");
        assert!(left >= 10 * MINUTE && left <= 11 * MINUTE, "{left:?}");
    }

    #[test]
    fn it_ends_when_enough_responses_have_expired() {
        let (mut guard, now) = (BanGuard::default(), Clock::system().instant());
        count_responses(&mut guard, 5_000, StatusCode::UNAUTHORIZED, now);
        let later = now + 5 * MINUTE;
        count_responses(&mut guard, 3_000, StatusCode::UNAUTHORIZED, later);
        let left = guard.tripped(&discord(), later).expect("8,000 of 10,000");
        assert!(left >= 5 * MINUTE && left <= 6 * MINUTE, "{left:?}");
        assert_eq!(guard.tripped(&discord(), later + left), None);
        assert_eq!(guard.counted(&discord(), later + left), 3_000);
    }

    #[test]
    fn other_statuses_and_shared_limits_do_not_count() {
        let (mut guard, now) = (BanGuard::default(), Clock::system().instant());
        count_responses(&mut guard, 9_000, StatusCode::OK, now);
        count_responses(&mut guard, 9_000, StatusCode::NOT_FOUND, now);
        for _ in 0..9_000 {
            guard.count(&discord(), StatusCode::TOO_MANY_REQUESTS, true, now);
        }
        assert_eq!(guard.counted(&discord(), now), 0);
    }

    #[test]
    fn it_keeps_a_bounded_number_of_pieces() {
        let (mut guard, start) = (BanGuard::default(), Clock::system().instant());
        for second in 0..3_600 {
            let now = start + Duration::from_secs(second);
            count_responses(&mut guard, 3, StatusCode::FORBIDDEN, now);
            guard.counted(&discord(), now);
        }
        assert!(guard.pieces.len() <= 62, "{}", guard.pieces.len());
    }
}
