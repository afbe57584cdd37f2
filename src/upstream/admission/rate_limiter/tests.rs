//! Rate limits against model origins, on a simulated time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::clock::Clock;
use crate::policy::upstream::Rate;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn start() -> Instant {
    Clock::system().instant()
}

fn rate(count: u32, per: Duration) -> Rate {
    Rate { count, per }
}

#[test]
fn a_full_window_admits_the_next_call_when_the_first_expires() {
    let (mut window, now) = (SlidingWindow::new(rate(3, SECOND)), start());
    for call in 0..3 {
        assert_eq!(window.wait(now + call * 100 * MILLI), Duration::ZERO);
        window.send(now + call * 100 * MILLI);
    }
    assert_eq!(window.wait(now + 300 * MILLI), 700 * MILLI);
    assert_eq!(window.left(now + 300 * MILLI), 0);
    assert_eq!(window.wait(now + SECOND), Duration::ZERO);
    assert_eq!(window.left(now + SECOND), 1);
}

#[test]
fn a_smaller_rate_after_a_reload_counts_earlier_calls() {
    let (mut window, now) = (SlidingWindow::new(rate(10, SECOND)), start());
    for _ in 0..10 {
        window.send(now);
    }
    window.set_rate(rate(2, SECOND));
    assert_eq!(window.wait(now + 500 * MILLI), 500 * MILLI);
    assert_eq!(window.wait(now + SECOND), Duration::ZERO);
}

/// An origin with fixed windows that begin with a call, as Discord's. It states the remaining calls and the
/// time until the window ends.
struct Model {
    limit: u64,
    per: Duration,
    begun: Option<Instant>,
    used: u64,
    refused: u64,
}

impl Model {
    fn new(limit: u64, per: Duration) -> Self {
        Self { limit, per, begun: None, used: 0, refused: 0 }
    }

    fn call(&mut self, now: Instant) -> RateLimitState {
        if self.begun.is_none_or(|begun| now.duration_since(begun) >= self.per) {
            (self.begun, self.used) = (Some(now), 0);
        }
        let begun = self.begun.unwrap_or(now);
        if self.used >= self.limit {
            self.refused += 1;
        } else {
            self.used += 1;
        }
        RateLimitState {
            limit: Some(self.limit),
            remaining: Some(self.limit - self.used),
            resets_in: Some(self.per.saturating_sub(now.duration_since(begun))),
            ..RateLimitState::default()
        }
    }
}

/// A client that always has calls to make, with a latency per call. Returns the number of responses in
/// `time`.
fn responses_under_load(model: &mut Model, latency: Duration, time: Duration) -> u64 {
    let (mut learned, begun) = (AdaptiveLimit::default(), start());
    let mut in_flight: VecDeque<(Instant, RateLimitState)> = VecDeque::new();
    let (mut now, mut responses) = (begun, 0);
    while now.duration_since(begun) < time {
        while in_flight.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, quota)) = in_flight.pop_front() {
                learned.on_response(Some(&quota), now);
                responses += 1;
            }
        }
        while learned.wait(now) == Some(Duration::ZERO) && in_flight.len() < 500 {
            learned.send();
            // Half of the latency is the way to the origin.
            let quota = model.call(now + latency / 2);
            in_flight.push_back((now + latency, quota));
        }
        now += MILLI;
    }
    responses
}

#[test]
fn a_learned_limit_of_fifty_a_second_is_kept_and_nearly_used_up() {
    let mut model = Model::new(50, SECOND);
    let responses = responses_under_load(&mut model, 20 * MILLI, 60 * SECOND);
    assert_eq!(model.refused, 0);
    assert!(responses >= 50 * 60 * 9 / 10, "{responses} of 3,000");
}

#[test]
fn the_first_call_learns_the_limit_alone() {
    let (mut learned, now) = (AdaptiveLimit::default(), start());
    assert_eq!(learned.wait(now), Some(Duration::ZERO));
    learned.send();
    assert_eq!(learned.wait(now), None, "the other calls wait for its response");
    learned.on_no_response();
    assert_eq!(learned.wait(now), Some(Duration::ZERO), "no response: the next call");
    learned.send();
    learned.on_response(None, now);
    assert_eq!(learned.wait(now), Some(Duration::ZERO), "an origin that states no limits");
}

#[test]
fn a_limit_shared_with_other_clients_is_learned() {
    let (mut learned, now) = (AdaptiveLimit::default(), start());
    let quota = |left, resets_in| RateLimitState {
        limit: Some(10),
        remaining: Some(left),
        resets_in: Some(resets_in),
        ..RateLimitState::default()
    };
    learned.send();
    learned.on_response(Some(&quota(9, SECOND)), now);
    learned.send();
    learned.on_response(Some(&quota(0, SECOND)), now);
    assert_eq!(learned.wait(now), Some(SECOND), "another client used the rest");
    assert_eq!(learned.wait(now + SECOND), Some(Duration::ZERO));
}

proptest! {
    #[test]
    fn no_time_window_has_more_than_the_configured_rate(
        count in 1_u32..20,
        gaps in proptest::collection::vec(0_u32..300, 1..400),
    ) {
        let (per, mut now) = (SECOND, start());
        let mut window = SlidingWindow::new(rate(count, per));
        let mut sent: Vec<Instant> = Vec::new();
        for gap in gaps {
            now += gap * MILLI;
            if window.wait(now).is_zero() {
                window.send(now);
                sent.push(now);
            }
        }
        for (at, first) in sent.iter().enumerate() {
            let within = sent.iter().skip(at).filter(|one| one.duration_since(*first) < per);
            prop_assert!(within.count() <= count as usize);
        }
    }

    #[test]
    fn a_window_returns_the_exact_wait_for_the_next_call(count in 1_u32..5, gap in 0_u32..1500) {
        let now = start();
        let mut window = SlidingWindow::new(rate(count, SECOND));
        for _ in 0..count {
            window.send(now);
        }
        let later = now + gap * MILLI;
        let wait = window.wait(later);
        prop_assert_eq!(wait, SECOND.saturating_sub(gap * MILLI));
        prop_assert!(window.wait(later + wait).is_zero());
    }

    #[test]
    fn a_learned_limit_is_never_exceeded_whatever_it_is(
        limit in 1_u64..200,
        millis in 200_u32..5000,
        latency in 0_u32..300,
    ) {
        let mut model = Model::new(limit, millis * MILLI);
        let responses = responses_under_load(&mut model, latency * MILLI, 20 * SECOND);
        prop_assert_eq!(model.refused, 0);
        prop_assert!(responses > 0);
    }
}

// ---- windows that outlive the process

/// Lets calls out as fast as the window allows, at most one per step, and restarts larder before it where
/// `kills` is true. Returns when each call went out. Calls that no row has counted are lost at a restart; a
/// row that is due soon may be written or not.
fn through_kills(rate: Rate, steps: &[u64], kills: &[bool]) -> Vec<Instant> {
    let (mut window, mut now) = (SlidingWindow::new(rate), start());
    let (mut row, mut sent) = (None::<(SavedWindow, Instant)>, Vec::new());
    for (step, kill) in steps.iter().zip(kills) {
        now += Duration::from_millis(*step);
        if *kill {
            window = SlidingWindow::new(rate);
            if let Some((kept, written)) = &row {
                window.restore(&kept.clone().aged(now - *written), now);
            }
        }
        if !window.wait(now).is_zero() {
            continue;
        }
        let write = window.send(now);
        if write == Write::First || (write == Write::Soon && step % 2 == 0) {
            row = window.take_unsaved(false, now).map(|kept| (kept, now));
            window.mark_flushed();
        }
        sent.push(now);
    }
    sent
}

proptest! {
    #[test]
    fn no_kill_breaks_a_long_limit(
        count in 1u32..400,
        steps in proptest::collection::vec(0u64..2_000, 400),
        kills in proptest::collection::vec(proptest::bool::weighted(0.1), 400),
    ) {
        let rate = rate(count, 60 * SECOND);
        let sent = through_kills(rate, &steps, &kills);
        for (place, first) in sent.iter().enumerate() {
            let within = sent[place..].iter().take_while(|at| **at - *first < rate.per).count();
            prop_assert!(within <= count as usize, "{within} of {count}");
        }
        prop_assert!(!sent.is_empty());
    }
}

#[test]
fn a_long_window_admits_its_full_rate_and_keeps_few_pieces() {
    let (mut window, start) = (SlidingWindow::new(rate(10_000, 600 * SECOND)), start());
    let mut sent = 0;
    for step in 0..40_000_u32 {
        let now = start + step * 30 * MILLI;
        if window.wait(now).is_zero() {
            window.send(now);
            sent += 1;
        }
    }
    assert_eq!(sent, 20_000, "in twenty minutes");
    let kept = window.take_unsaved(true, start + 1_199 * SECOND).expect("it is not over");
    assert!((30..=66).contains(&kept.sent.len()), "{}", kept.sent.len());
}

#[test]
fn every_call_of_a_small_window_is_written_first_few_of_a_large_one() {
    let written = |count: u32, calls: u32| {
        let (mut window, now) = (SlidingWindow::new(rate(count, 86_400 * SECOND)), start());
        let mut first = 0;
        for call in 0..calls {
            let now = now + call * MILLI;
            match window.send(now) {
                Write::First => first += 1,
                Write::Soon => {}
                Write::No => continue,
            }
            assert!(window.take_unsaved(false, now).is_some());
            window.mark_flushed();
        }
        first
    };
    assert_eq!(written(2, 2), 2);
    assert_eq!(written(64, 64), 64);
    assert_eq!(written(10_000, 10_000), 1, "the row is renewed before its calls are used up");
    let (mut short, now) = (SlidingWindow::new(rate(2, 59 * SECOND)), start());
    assert_eq!((short.send(now), short.take_unsaved(false, now)), (Write::No, None));
}

#[test]
fn repeated_restarts_without_a_call_use_nothing_up() {
    let (mut window, now) = (SlidingWindow::new(rate(6_400, 600 * SECOND)), start());
    window.send(now);
    for _ in 0..100 {
        let kept = window.take_unsaved(false, now).expect("a call counts");
        window = SlidingWindow::new(kept.rate);
        window.restore(&kept.aged(SECOND), now);
    }
    assert_eq!(window.left(now), 6_400 - 101, "one call, and the calls counted ahead once");
    assert!(!window.is_over(now) && window.is_over(now + 600 * SECOND));
}

#[test]
fn another_rate_after_a_restart_counts_the_stored_calls() {
    let (mut window, now) = (SlidingWindow::new(rate(2, 86_400 * SECOND)), start());
    window.send(now);
    window.send(now);
    let kept = window.take_unsaved(true, now).expect("two calls");
    for (to, left) in [
        (rate(5, 86_400 * SECOND), 3),
        (rate(1, 86_400 * SECOND), 0),
        (rate(2, 3_600 * SECOND), 2),
        (rate(2, 7 * 86_400 * SECOND), 0),
    ] {
        let mut after = SlidingWindow::new(kept.rate);
        after.restore(&kept.clone().aged(2 * 3_600 * SECOND), now);
        after.set_rate(to);
        assert_eq!(after.left(now), left, "{to:?}");
    }
}
