//! Retry states and budgets, with tables and properties.

use http::StatusCode;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::clock::Clock;
use crate::policy::{ErrorMatch, StatusMatch};

const SECOND: Duration = Duration::from_secs(1);
const LIMITED: ErrorClass = ErrorClass::Status(StatusCode::TOO_MANY_REQUESTS);
const NO_TIME: Duration = Duration::ZERO;

fn state(retry: RetryPolicy) -> RetryState {
    RetryState::new(retry, 60 * SECOND)
}

/// The waits while every attempt fails in the same way.
fn waits(
    mut state: RetryState,
    failure: ErrorClass,
    retry_after: Option<Duration>,
) -> Vec<Duration> {
    let mut waits = Vec::new();
    while let RetryDecision::After(wait) = state.next(failure, retry_after, NO_TIME, 0.5) {
        waits.push(wait);
    }
    waits
}

#[test]
fn without_retry_after_the_waits_are_one_two_and_four_seconds() {
    let waits = waits(state(RetryPolicy::default()), LIMITED, None);
    assert_eq!(waits, [SECOND, 2 * SECOND, 4 * SECOND]);
}

#[test]
fn retry_after_replaces_the_backoff() {
    let waits = waits(state(RetryPolicy::default()), LIMITED, Some(3 * SECOND));
    assert_eq!(waits, [3 * SECOND; 3]);
}

#[test]
fn a_retry_after_beyond_the_budget_stops_the_retries_at_once() {
    for retry_after in [16, 3600, 999_999_999, u64::MAX] {
        let waits =
            waits(state(RetryPolicy::default()), LIMITED, Some(Duration::from_secs(retry_after)));
        assert!(waits.is_empty(), "{retry_after}");
    }
    let waits = waits(state(RetryPolicy::default()), LIMITED, Some(6 * SECOND));
    assert_eq!(waits, [6 * SECOND; 2], "a third would be 18 seconds");
}

#[test]
fn retry_after_is_ignored_if_the_policy_does_not_honour_it() {
    let retry = RetryPolicy { honour_retry_after: false, ..RetryPolicy::default() };
    assert_eq!(waits(state(retry), LIMITED, Some(9 * SECOND)), [SECOND, 2 * SECOND, 4 * SECOND]);
}

#[test]
fn failures_that_are_not_listed_are_not_retried() {
    let on = vec![ErrorMatch::Status(StatusMatch::Exact(StatusCode::TOO_MANY_REQUESTS))];
    let retry = RetryPolicy { on, ..RetryPolicy::default() };
    let server = ErrorClass::Status(StatusCode::INTERNAL_SERVER_ERROR);
    for failure in [server, ErrorClass::Connect, ErrorClass::Timeout, ErrorClass::Breaker] {
        assert!(waits(state(retry.clone()), failure, None).is_empty(), "{failure:?}");
    }
    assert_eq!(waits(state(retry), LIMITED, None).len(), 3);
    assert!(
        waits(state(RetryPolicy::default()), server, None).is_empty(),
        "500 is not on the default list"
    );
}

#[test]
fn long_attempts_end_with_the_total_time() {
    let mut state = state(RetryPolicy::default());
    assert_eq!(
        state.next(ErrorClass::Timeout, None, 30 * SECOND, 0.5),
        RetryDecision::After(SECOND)
    );
    assert_eq!(state.next(ErrorClass::Timeout, None, 59 * SECOND, 0.5), RetryDecision::Stop);
}

#[test]
fn the_budget_is_a_fifth_of_the_calls_and_at_least_ten_retries() {
    let (mut budget, now) = (RetryBudget::default(), Clock::system().instant());
    let spent =
        |budget: &mut RetryBudget, now| (0..1000).filter(|_| budget.try_acquire(now)).count();
    assert_eq!(spent(&mut budget, now), 10);
    assert_eq!(spent(&mut budget, now + 9 * SECOND), 0, "ten in ten seconds");
    let later = now + 10 * SECOND;
    for _ in 0..500 {
        budget.record_call(later);
    }
    assert_eq!(spent(&mut budget, later), 100);
    assert_eq!(budget.usage(later), (100, 100));
}

#[test]
fn a_half_failing_origin_gets_at_most_a_fifth_more_calls() {
    let (mut budget, start) = (RetryBudget::default(), Clock::system().instant());
    let (requests, mut calls) = (200 * 60, 0);
    for request in 0..requests {
        let now = start + request * SECOND / 200;
        calls += 1;
        budget.record_call(now);
        // Every second call fails, and would be retried three times.
        for attempt in 0..3 {
            if (request + attempt) % 2 == 0 && budget.try_acquire(now) {
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
    fn no_request_waits_longer_than_its_budget(
        hints in proptest::collection::vec(proptest::option::of(0_u64..40), 0..12),
        retries in 0_u32..10,
        chance in 0.0_f64..=1.0,
    ) {
        let mut state = state(RetryPolicy { retries, ..RetryPolicy::default() });
        let (mut waited, mut done) = (Duration::ZERO, 0);
        for retry_after in hints {
            let retry_after = retry_after.map(Duration::from_secs);
            let RetryDecision::After(wait) = state.next(LIMITED, retry_after, waited, chance) else { break };
            (waited, done) = (waited + wait, done + 1);
        }
        prop_assert!(waited <= 15 * SECOND && done <= retries);
        prop_assert_eq!(state.left() + waited, 15 * SECOND);
    }
}
