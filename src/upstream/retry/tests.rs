//! Retry states, with tables and properties.

use http::StatusCode;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::clock::Clock;
use crate::policy::upstream::OutcomeClass;
use crate::policy::{Backoff, ErrorMatch, StatusMatch};

const SECOND: Duration = Duration::from_secs(1);
const LIMITED: ErrorClass = ErrorClass::Status(StatusCode::TOO_MANY_REQUESTS);
const NO_TIME: Duration = Duration::ZERO;

/// The state of a request that may take a minute.
fn state(retry: RetryPolicy) -> RetryState {
    let limits = CallLimits { max_wait: Duration::ZERO, total: Some(60 * SECOND) };
    let policy = Policy { retry, ..Policy::origin() };
    RetryState::new(&policy, true, limits, Clock::system().instant())
}

fn failure(class: ErrorClass, retry_after: Option<Duration>) -> AttemptFailure {
    let reason = Reason::Class(class);
    let retry_after = retry_after.map(|time| RetryAfter { time, is_quota_end: true });
    AttemptFailure { retry_after, ..AttemptFailure::new(class, reason) }
}

/// The decision if an attempt fails this long after the first one began.
fn after(state: &mut RetryState, elapsed: Duration, failure: &AttemptFailure, chance: f64) -> RetryDecision {
    state.next(failure, state.began + elapsed, chance)
}

/// The waits while every attempt fails in the same way.
fn waits(mut state: RetryState, class: ErrorClass, retry_after: Option<Duration>) -> Vec<Duration> {
    let (failure, mut waits) = (failure(class, retry_after), Vec::new());
    while let RetryDecision::After(wait) = after(&mut state, NO_TIME, &failure, 0.5) {
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
        let waits = waits(state(RetryPolicy::default()), LIMITED, Some(Duration::from_secs(retry_after)));
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
    assert!(waits(state(RetryPolicy::default()), server, None).is_empty(), "500 is not on the default list");
}

#[test]
fn long_attempts_end_with_the_total_time() {
    let mut state = state(RetryPolicy::default());
    let timeout = failure(ErrorClass::Timeout, None);
    let next = after(&mut state, 30 * SECOND, &timeout, 0.5);
    assert_eq!(next, RetryDecision::After(SECOND));
    assert_eq!(after(&mut state, 59 * SECOND, &timeout, 0.5), RetryDecision::Stop);
}

#[test]
fn a_request_that_is_not_repeatable_stops_and_may_wait_as_one_call() {
    let limits = CallLimits { max_wait: 7 * SECOND, total: Some(60 * SECOND) };
    let mut state = RetryState::new(&Policy::origin(), false, limits, Clock::system().instant());
    assert_eq!(state.cooldown_wait(), 7 * SECOND);
    assert_eq!(after(&mut state, NO_TIME, &failure(LIMITED, None), 0.5), RetryDecision::Stop);
}

#[test]
fn max_cooldown_bounds_retry_after_but_not_the_end_of_a_quota() {
    let cooldown = CooldownPolicy { max_cooldown: 2 * SECOND, ..CooldownPolicy::default() };
    for (is_quota_end, expected) in [(false, 2 * SECOND), (true, 5 * SECOND)] {
        let mut state = RetryState { cooldown, ..state(RetryPolicy::default()) };
        let retry_after = Some(RetryAfter { time: 5 * SECOND, is_quota_end });
        let failure = AttemptFailure { retry_after, ..failure(LIMITED, None) };
        let next = after(&mut state, NO_TIME, &failure, 0.5);
        assert_eq!(next, RetryDecision::After(expected), "{is_quota_end}");
    }
}

#[test]
fn the_detail_is_the_failure_that_led_to_a_retry_or_else_the_wait() {
    let mut state = state(RetryPolicy::default());
    let token = |state: &RetryState| state.detail().map(|(name, reason)| (name, reason.token()));
    assert_eq!(token(&state), None);
    state.record_wait(Some(RejectReason::RateLimit), NO_TIME);
    assert_eq!(token(&state), Some(("waited", "rate-limit")));
    state.set_retry_reason(Reason::Error(UpstreamError::Refused));
    assert_eq!(token(&state), Some(("retried", "connect-refused")));
}

#[test]
fn responses_without_an_error_and_permanent_errors_are_no_failures() {
    let ok = CallOutcome::from_class(OutcomeClass::Ok);
    assert!(AttemptFailure::from_response(StatusCode::OK, &ok).is_none());
    assert!(AttemptFailure::from_response(StatusCode::NOT_FOUND, &ok).is_some());
    let disguised = CallOutcome::from_class(OutcomeClass::Server);
    let failure = AttemptFailure::from_response(StatusCode::OK, &disguised).unwrap();
    assert_eq!(failure.class, ErrorClass::Status(StatusCode::SERVICE_UNAVAILABLE));
    assert!(AttemptFailure::from_error(UpstreamError::Dns).is_none());
    assert!(AttemptFailure::from_error(UpstreamError::Abandoned).is_none());
    let closed = AttemptFailure::from_error(UpstreamError::Closed).unwrap();
    assert_eq!((closed.class, closed.status), (ErrorClass::Connect, None));
}

proptest! {
    #[test]
    fn a_wait_is_within_its_jitter(done in 0_u32..40, chance in 0.0_f64..=1.0) {
        let rule = Backoff::default();
        let even = SECOND.saturating_mul(2_u32.saturating_pow(done)).min(rule.max).as_secs_f64();
        let wait = rule.delay(done, chance).as_secs_f64();
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
            let failure = failure(LIMITED, retry_after);
            let RetryDecision::After(wait) = after(&mut state, waited, &failure, chance) else { break };
            (waited, done) = (waited + wait, done + 1);
        }
        prop_assert!(waited <= 15 * SECOND && done <= retries);
        prop_assert_eq!(state.cooldown_wait() + waited, 15 * SECOND);
    }
}
