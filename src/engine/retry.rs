//! The retry loop of a fill: calls the origin, and retries as the route's policy and admission control
//! allow.
//!
//! Owns: choosing the final response; reporting a failed attempt to the readers at once. Never touches:
//! the length of a delay (`upstream::retry`), handling of the response (`fill`).

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::engine::fill::{FetchResult, Fill};
use crate::engine::inflight::AttemptFailure;
use crate::policy::Mode;
use crate::upstream::admission::call::AttemptKind;
use crate::upstream::admission::retry::{RetryDecision, RetryState};
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::outcome::CallOutcome;
use crate::upstream::outcome::buffered_body;
use crate::upstream::outcome::classify;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::{UpstreamRequest, UpstreamResponse};

impl Fill {
    /// Makes the call, and retries while it fails and may be repeated.
    pub(super) async fn fetch_with_retries(&self) -> FetchResult {
        let (fills, policy) = (&self.fills, &self.routed.policy);
        let mut call = self.upstream_request();
        let began = fills.clock.instant();
        let mut retry_state =
            RetryState::new(policy.retry.clone(), fills.origin.total_timeout(&call.target));
        let mut result = self.first_attempt(&mut call, &mut retry_state).await;
        let repeats = policy.retry.is_retryable(&Method::GET);
        while let Some((failure, outcome)) = attempt_failure(&result.response).filter(|_| repeats) {
            let elapsed = fills.clock.instant().saturating_duration_since(began);
            let retry_after = outcome.bounded_retry_after(&policy.cooldown);
            let next = retry_state.next(failure.failure, retry_after, elapsed, rand::random());
            let RetryDecision::After(wait) = next else { break };
            self.fetch.report_failed_attempt(failure);
            (call.context.attempt, call.context.patience) =
                (AttemptKind::Retry, retry_state.left());
            if !fills.origin.try_acquire_retry(&call.target, &call.context, failure.cause, wait) {
                break;
            }
            // Kept as the final response if admission control blocks the next attempt.
            result.response = buffer_error_body(result.response, &fills.in_flight).await;
            fills.clock.sleep(wait).await;
            if fills.switch.mode() == Mode::Offline {
                break;
            }
            match self.attempt(&call, &mut retry_state).await {
                Err(UpstreamError::Rejected(_)) => break,
                response => {
                    result.response = response;
                    result.detail = Some(("retried", failure.cause));
                }
            }
        }
        result
    }

    /// Makes the first attempt. With a stale response as fallback, the call does not wait for a cooldown
    /// to end.
    async fn first_attempt(
        &self,
        call: &mut UpstreamRequest,
        retry_state: &mut RetryState,
    ) -> FetchResult {
        let repeats = self.routed.policy.retry.is_retryable(&Method::GET);
        let patience =
            if repeats { retry_state.left() } else { self.fills.origin.max_wait(&call.target) };
        call.context.patience = if self.has_fallback { Duration::ZERO } else { patience };
        self.announce_wait(call);
        let mut response = self.attempt(call, retry_state).await;
        if call.context.has_stale && self.has_no_fallback(&response) {
            // The call was blocked in favour of a stale response, but the policy does not allow that
            // response.
            (call.context.has_stale, call.context.patience) = (false, patience);
            response = self.attempt(call, retry_state).await;
        }
        let waited = response.as_ref().ok().and_then(|response| response.wait_reason);
        FetchResult { response, detail: waited.map(|cause| ("waited", cause.token())) }
    }

    async fn attempt(
        &self,
        call: &UpstreamRequest,
        retry_state: &mut RetryState,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let clock = &self.fills.clock;
        let began = clock.instant();
        let response = self.fills.origin.fetch(call).await;
        if response.as_ref().is_ok_and(|response| response.wait_reason.is_some()) {
            retry_state
                .add_wait(clock.instant().saturating_duration_since(began).min(retry_state.left()));
        }
        response
    }

    /// Whether the call was not made and no stale response replaces it.
    fn has_no_fallback(&self, response: &Result<UpstreamResponse, UpstreamError>) -> bool {
        let Err(UpstreamError::Rejected(rejection)) = response else { return false };
        let is_covered = |error| self.routed.policy.stale_if_error.covers(error);
        self.trigger.is_none() && !rejection.error_class().is_some_and(is_covered)
    }

    /// If the call has to wait for a cooldown, reports that to the readers of this fill.
    fn announce_wait(&self, call: &UpstreamRequest) {
        let rejection = self.fills.origin.check_admission(&call.target, &call.context);
        if let Some((rejection, failure)) =
            rejection.and_then(|rejection| Some((rejection, rejection.error_class()?)))
        {
            self.fetch.report_failed_attempt(AttemptFailure {
                failure,
                status: None,
                cause: rejection.reason.token(),
            });
        }
    }
}

/// The failure of an attempt; `None`: there is none, or a retry cannot fix it.
fn attempt_failure(
    response: &Result<UpstreamResponse, UpstreamError>,
) -> Option<(AttemptFailure, CallOutcome)> {
    match response {
        Ok(response) => {
            let error = response.outcome.error_class(response.status);
            let is_failure = !response.outcome.is_ok() || response.status.as_u16() >= 400;
            let (status, cause) = (Some(response.status), response.outcome.class.token());
            let failure = AttemptFailure { failure: error, status, cause };
            is_failure.then(|| (failure, response.outcome.clone()))
        }
        Err(error) if !error.is_transient() => None,
        Err(error) => {
            let outcome = classify::failure(*error)?;
            let class = outcome.error_class(StatusCode::BAD_GATEWAY);
            let failure = AttemptFailure { failure: class, status: None, cause: error.token() };
            Some((failure, outcome))
        }
    }
}

/// Buffers the body of an error response, so that its connection is free for other calls during the
/// retry delay.
async fn buffer_error_body(
    response: Result<UpstreamResponse, UpstreamError>,
    in_flight: &Arc<InFlightBytes>,
) -> Result<UpstreamResponse, UpstreamError> {
    match response {
        Ok(mut response) => {
            response.body = buffered_body::buffer(response.body, in_flight).await;
            Ok(response)
        }
        Err(failure) => Err(failure),
    }
}
