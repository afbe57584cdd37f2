//! Plans and budgets in tables, and as properties.

use http::StatusCode;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::policy::{ErrorMatch, StatusMatch};

const SECOND: Duration = Duration::from_secs(1);
const LIMITED: ErrorClass = ErrorClass::Status(StatusCode::TOO_MANY_REQUESTS);
const NO_TIME: Duration = Duration::ZERO;

fn plan(retry: RetryPolicy) -> RetryState {
    RetryState::new(retry, 60 * SECOND)
}

/// The waits that a plan asks for while everything fails alike.
fn waits(mut plan: RetryState, failure: ErrorClass, word: Option<Duration>) -> Vec<Duration> {
    let mut waits = Vec::new();
    while let RetryDecision::After(wait) = plan.next(failure, word, NO_TIME, 0.5) {
        waits.push(wait);
    }
    waits
}

#[test]
fn without_a_word_the_waits_are_one_two_and_four_seconds() {
    let waits = waits(plan(RetryPolicy::default()), LIMITED, None);
    assert_eq!(waits, [SECOND, 2 * SECOND, 4 * SECOND]);
}

#[test]
fn the_origins_word_counts_in_their_place() {
    let waits = waits(plan(RetryPolicy::default()), LIMITED, Some(3 * SECOND));
    assert_eq!(waits, [3 * SECOND; 3]);
}

#[test]
fn a_word_beyond_the_budget_ends_the_plan_at_once() {
    for word in [16, 3600, 999_999_999, u64::MAX] {
        let waits = waits(plan(RetryPolicy::default()), LIMITED, Some(Duration::from_secs(word)));
        assert!(waits.is_empty(), "{word}");
    }
    let waits = waits(plan(RetryPolicy::default()), LIMITED, Some(6 * SECOND));
    assert_eq!(waits, [6 * SECOND; 2], "a third would be 18 seconds");
}

#[test]
fn a_word_that_is_not_to_be_honoured_is_not() {
    let retry = RetryPolicy { honour_retry_after: false, ..RetryPolicy::default() };
    assert_eq!(waits(plan(retry), LIMITED, Some(9 * SECOND)), [SECOND, 2 * SECOND, 4 * SECOND]);
}

#[test]
fn what_is_not_on_the_list_is_not_tried_again() {
    let on = vec![ErrorMatch::Status(StatusMatch::Exact(StatusCode::TOO_MANY_REQUESTS))];
    let retry = RetryPolicy { on, ..RetryPolicy::default() };
    let server = ErrorClass::Status(StatusCode::INTERNAL_SERVER_ERROR);
    for failure in [server, ErrorClass::Connect, ErrorClass::Timeout, ErrorClass::Breaker] {
        assert!(waits(plan(retry.clone()), failure, None).is_empty(), "{failure:?}");
    }
    assert_eq!(waits(plan(retry), LIMITED, None).len(), 3);
    assert!(
        waits(plan(RetryPolicy::default()), server, None).is_empty(),
        "500 is not on the default list"
    );
}

#[test]
fn tries_that_take_long_end_with_the_time_for_all_of_them() {
    let mut plan = plan(RetryPolicy::default());
    assert_eq!(
        plan.next(ErrorClass::Timeout, None, 30 * SECOND, 0.5),
        RetryDecision::After(SECOND)
    );
    assert_eq!(plan.next(ErrorClass::Timeout, None, 59 * SECOND, 0.5), RetryDecision::Stop);
}

#[test]
fn a_budget_of_retries_is_a_fifth_of_the_calls_and_never_fewer_than_ten() {
    let (mut budget, now) = (RetryBudget::default(), crate::clock::monotonic());
    let spent = |budget: &mut RetryBudget, now| (0..1000).filter(|_| budget.spend(now)).count();
    assert_eq!(spent(&mut budget, now), 10);
    assert_eq!(spent(&mut budget, now + 9 * SECOND), 0, "ten in ten seconds");
    let later = now + 10 * SECOND;
    for _ in 0..500 {
        budget.called(later);
    }
    assert_eq!(spent(&mut budget, later), 100);
    assert_eq!(budget.standing(later), (100, 100));
}

#[test]
fn an_origin_that_is_half_down_gets_a_fifth_more_calls_and_not_four_times_as_many() {
    let (mut budget, start) = (RetryBudget::default(), crate::clock::monotonic());
    let (requests, mut calls) = (200 * 60, 0);
    for request in 0..requests {
        let now = start + request * SECOND / 200;
        calls += 1;
        budget.called(now);
        // Every second call fails, and would be tried three times more.
        for try_ in 0..3 {
            if (request + try_) % 2 == 0 && budget.spend(now) {
                calls += 1;
            }
        }
    }
    assert!(calls <= requests * 12 / 10 + 10, "{calls} calls for {requests} requests");
    assert!(calls >= requests * 11 / 10, "{calls}: there are retries");
}

proptest! {
    #[test]
    fn a_wait_is_within_its_jitter(done in 0_u32..40, chance in 0.0_f64..=1.0) {
        let rule = Backoff::default();
        let even = SECOND.saturating_mul(2_u32.saturating_pow(done)).min(rule.max).as_secs_f64();
        let wait = backoff(&rule, done, chance).as_secs_f64();
        prop_assert!(wait >= even * 0.799 && wait <= even * 1.201, "{wait} of {even}");
    }

    #[test]
    fn no_plan_waits_longer_than_its_budget(
        words in proptest::collection::vec(proptest::option::of(0_u64..40), 0..12),
        retries in 0_u32..10,
        chance in 0.0_f64..=1.0,
    ) {
        let mut plan = plan(RetryPolicy { retries, ..RetryPolicy::default() });
        let (mut waited, mut done) = (Duration::ZERO, 0);
        for word in words {
            let word = word.map(Duration::from_secs);
            let RetryDecision::After(wait) = plan.next(LIMITED, word, waited, chance) else { break };
            (waited, done) = (waited + wait, done + 1);
        }
        prop_assert!(waited <= 15 * SECOND && done <= retries);
        prop_assert_eq!(plan.left() + waited, 15 * SECOND);
    }
}
