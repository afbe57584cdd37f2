//! Log rate limiter: admits a fixed number of lines per period and counts the suppressed ones.
//!
//! Owns: the choice of the lines that are written when there are too many (OVL-11).
//! Never touches: the text of a line; the clock.

use std::time::{Duration, Instant};

/// Admits a number of events per period, in fixed windows that begin with an event.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: u32,
    period: Duration,
    window: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl Limiter {
    /// Creates a limiter for `limit` events per `period`.
    pub(super) fn new(limit: u32, period: Duration) -> Self {
        Self { limit, period, window: None, admitted: 0, suppressed: 0 }
    }

    /// `None` if the event at `now` is suppressed, else the number of events suppressed since the last
    /// admitted one.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        self.admit_up_to(self.limit, now)
    }

    /// Like [`Limiter::admit`], for a minor event: half of the limit is reserved for more severe ones.
    pub(super) fn admit_minor(&mut self, now: Instant) -> Option<u64> {
        self.admit_up_to(self.limit / 2, now)
    }

    fn admit_up_to(&mut self, limit: u32, now: Instant) -> Option<u64> {
        let is_new_window = self.window.is_none_or(|start| now.duration_since(start) >= self.period);
        if is_new_window {
            self.window = Some(now);
            self.admitted = 0;
        }
        if self.admitted >= limit {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_eleventh_event_in_a_second_is_suppressed_and_counted() {
        let start = Clock::system().instant();
        let mut limiter = Limiter::new(10, SECOND);
        for _ in 0..10 {
            assert_eq!(limiter.admit(start), Some(0));
        }
        assert_eq!(limiter.admit(start), None);
        assert_eq!(limiter.admit(start + SECOND / 2), None);
        assert_eq!(limiter.admit(start + SECOND), Some(2));
        assert_eq!(limiter.admit(start + SECOND), Some(0));
    }

    #[test]
    fn minor_events_leave_half_of_the_limit_to_severe_ones() {
        let start = Clock::system().instant();
        let mut limiter = Limiter::new(10, SECOND);
        let minor = (0..20).filter(|_| limiter.admit_minor(start).is_some()).count();
        let severe = (0..20).filter(|_| limiter.admit(start).is_some()).count();
        assert_eq!((minor, severe), (5, 5));
        assert_eq!(limiter.admit_minor(start + SECOND), Some(15));
    }

    proptest! {
        #[test]
        fn every_event_is_either_admitted_or_counted_as_suppressed(
            steps in proptest::collection::vec(0u64..400, 1..200)
        ) {
            let mut now = Clock::system().instant();
            let mut limiter = Limiter::new(10, SECOND);
            let (mut admitted, mut suppressed_total) = (0u64, 0u64);
            for step in &steps {
                now += Duration::from_millis(*step);
                if let Some(suppressed) = limiter.admit(now) {
                    admitted += 1;
                    suppressed_total += suppressed;
                }
            }
            let rest = limiter.admit(now + SECOND).expect("a new window admits");
            prop_assert_eq!(admitted + suppressed_total + rest, steps.len() as u64);
        }
    }
}
