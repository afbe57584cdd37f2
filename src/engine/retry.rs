//! The tries of a fill: the origin is asked, and asked again as the route's plan and the gate allow.
//!
//! Owns: which answer of several is the one, and that readers hear of trouble at once. Never touches:
//! how long a wait is (`upstream::retry`), what becomes of the answer (`fill`).

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::engine::fill::Fill;
use crate::engine::inflight::AttemptFailure;
use crate::policy::Mode;
use crate::upstream::admission::call::AttemptKind;
use crate::upstream::classify;
use crate::upstream::error::UpstreamError;
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::outcome::CallOutcome;
use crate::upstream::retry::{RetryDecision, RetryState};
use crate::upstream::{UpstreamRequest, UpstreamResponse, buffered_body};

/// An answer, and what happened before it came.
pub(super) struct FetchResult {
    pub(super) answer: Result<UpstreamResponse, UpstreamError>,
    /// Why the origin was asked more than once, or later than it might have been.
    pub(super) detail: Option<(&'static str, &'static str)>,
}

impl Fill {
    /// Asks, and again as long as it fails and may be repeated.
    pub(super) async fn fetch_with_retries(&self) -> FetchResult {
        let (engine, policy) = (&self.engine, &self.policy);
        let mut call = self.call();
        let began = engine.clock.instant();
        let mut plan = RetryState::new(policy.retry.clone(), engine.origin.total(&call.target));
        let mut tried = self.first_attempt(&mut call, &mut plan).await;
        let repeats = policy.retry.repeats(&Method::GET);
        while let Some((trouble, verdict)) = trouble(&tried.answer).filter(|_| repeats) {
            let elapsed = engine.clock.instant().saturating_duration_since(began);
            let word = verdict.bounded_retry_after(&policy.hold);
            let next = plan.next(trouble.failure, word, elapsed, rand::random());
            let RetryDecision::After(wait) = next else { break };
            self.flight.trouble(trouble);
            (call.knock.attempt, call.knock.patience) = (AttemptKind::Again, plan.left());
            if !engine.origin.try_acquire_retry(&call.target, &call.knock, trouble.cause, wait) {
                break;
            }
            // Kept: should nobody let the next try through, it is the answer.
            tried.answer = buffer_error_body(tried.answer, &self.engine.in_flight).await;
            engine.clock.sleep(wait).await;
            if engine.switch.mode() == Mode::Offline {
                break;
            }
            match self.attempt(&call, &mut plan).await {
                Err(UpstreamError::Held(_)) => break,
                answer => {
                    tried.answer = answer;
                    tried.detail = Some(("retried", trouble.cause));
                }
            }
        }
        tried
    }

    /// The first try. Who has something to show meanwhile does not wait for a hold to end.
    async fn first_attempt(
        &self,
        call: &mut UpstreamRequest,
        plan: &mut RetryState,
    ) -> FetchResult {
        let repeats = self.policy.retry.repeats(&Method::GET);
        let patience =
            if repeats { plan.left() } else { self.engine.origin.patience(&call.target) };
        call.knock.patience = if self.yields { Duration::ZERO } else { patience };
        self.announce_wait(call);
        let mut answer = self.attempt(call, plan).await;
        if call.knock.yields && self.has_nothing_to_show(&answer) {
            // It was kept back for the sake of a stale answer that policy does not let stand in.
            (call.knock.yields, call.knock.patience) = (false, patience);
            answer = self.attempt(call, plan).await;
        }
        let waited = answer.as_ref().ok().and_then(|answer| answer.waited);
        FetchResult { answer, detail: waited.map(|cause| ("waited", cause.token())) }
    }

    async fn attempt(
        &self,
        call: &UpstreamRequest,
        plan: &mut RetryState,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let clock = &self.engine.clock;
        let began = clock.instant();
        let answer = self.engine.origin.fetch(call).await;
        if answer.as_ref().is_ok_and(|answer| answer.waited.is_some()) {
            plan.spend(clock.instant().saturating_duration_since(began).min(plan.left()));
        }
        answer
    }

    /// Whether the call was not made, and nothing stale takes its place.
    fn has_nothing_to_show(&self, answer: &Result<UpstreamResponse, UpstreamError>) -> bool {
        let Err(UpstreamError::Held(held)) = answer else { return false };
        let shown = |error| self.policy.stale_if_error.covers(error);
        self.trigger.is_none() && !held.error_class().is_some_and(shown)
    }

    /// A call that has to wait for a hold to end: who waits for this fill waits with it.
    fn announce_wait(&self, call: &UpstreamRequest) {
        let held = self.engine.origin.check_admission(&call.target, &call.knock);
        if let Some((held, failure)) = held.and_then(|held| Some((held, held.error_class()?))) {
            self.flight.trouble(AttemptFailure {
                failure,
                status: None,
                cause: held.cause.token(),
            });
        }
    }
}

/// What is wrong with an answer; `None`: nothing, or nothing that another try would mend.
fn trouble(
    answer: &Result<UpstreamResponse, UpstreamError>,
) -> Option<(AttemptFailure, CallOutcome)> {
    match answer {
        Ok(answer) => {
            let error = answer.verdict.error_class(answer.status);
            let is_trouble = !answer.verdict.is_ok() || answer.status.as_u16() >= 400;
            let (status, cause) = (Some(answer.status), answer.verdict.class.token());
            let trouble = AttemptFailure { failure: error, status, cause };
            is_trouble.then(|| (trouble, answer.verdict.clone()))
        }
        Err(failure) if !failure.may_pass() => None,
        Err(failure) => {
            let verdict = classify::failure(*failure)?;
            let failed = verdict.error_class(StatusCode::BAD_GATEWAY);
            let trouble = AttemptFailure { failure: failed, status: None, cause: failure.token() };
            Some((trouble, verdict))
        }
    }
}

/// An error whose connection is free for others while it waits whether another try goes better.
async fn buffer_error_body(
    answer: Result<UpstreamResponse, UpstreamError>,
    in_flight: &Arc<InFlightBytes>,
) -> Result<UpstreamResponse, UpstreamError> {
    match answer {
        Ok(mut answer) => {
            answer.body = buffered_body::buffer(answer.body, in_flight).await;
            Ok(answer)
        }
        Err(failure) => Err(failure),
    }
}
