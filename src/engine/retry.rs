//! The retry loop of a fill: calls the origin, and retries as the route's policy and admission control allow.
//!
//! Owns: choosing the final response; reporting a failed attempt to the readers at once. Never touches:
//! whether and when to retry (`upstream::retry`), handling of the response (`fill`).

use std::sync::Arc;
use std::time::Duration;

use crate::engine::fill::{FetchResult, Fill};
use crate::policy::Mode;
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::outcome::buffered_body;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::retry::{AttemptFailure, RetryDecision, RetryState};
use crate::upstream::{UpstreamRequest, UpstreamResponse};

impl Fill {
    /// Makes the call, and retries while it fails and may be repeated.
    pub(super) async fn fetch_with_retries(&self) -> FetchResult {
        let (fills, policy) = (&self.fills, &self.routed.policy);
        let mut call = self.upstream_request();
        let repeats = policy.retry.is_retryable(&self.routed.request.method);
        let (limits, now) = (self.routed.upstream().limits(), fills.clock.instant());
        let paused = repeats && fills.origin.are_retries_paused(&call.context);
        let mut retry = RetryState::new(policy, repeats, limits, now).paused(paused);
        let mut response = self.first_attempt(&mut call, &mut retry).await;
        // A slow response is not asked for again, whatever became of it.
        while let Some(failure) = attempt_failure(&response).filter(|_| !self.fetch.is_slow()) {
            let next = retry.next(&failure, fills.clock.instant(), rand::random());
            let RetryDecision::After(wait) = next else { break };
            self.fetch.report_failed_attempt(failure);
            retry.prepare(&mut call.context);
            if !fills.origin.try_acquire_retry(&call.context, failure.reason, wait) {
                break;
            }
            // Kept as the final response if admission control blocks the next attempt.
            response = buffer_error_body(response, &fills.in_flight).await;
            if self.is_abandoned_within(wait).await {
                fills.origin.pause_retries(&call.context);
                break;
            }
            if fills.switch.mode() == Mode::Offline {
                break;
            }
            match self.attempt(&call, &mut retry).await {
                Err(UpstreamError::Rejected(_)) => break,
                next => response = next,
            }
            retry.set_retry_reason(failure.reason);
        }
        if attempt_failure(&response).is_some_and(|failure| retry.has_given_up(&failure)) {
            fills.origin.pause_retries(&call.context);
        }
        FetchResult { response, detail: retry.detail() }
    }

    /// Makes the first attempt. With a stale response as fallback, the call does not wait for a cooldown
    /// to end.
    async fn first_attempt(
        &self,
        call: &mut UpstreamRequest,
        retry: &mut RetryState,
    ) -> Result<UpstreamResponse, UpstreamError> {
        retry.prepare(&mut call.context);
        if self.has_fallback {
            call.context.cooldown_wait = Duration::ZERO;
        }
        self.announce_wait(call);
        let response = self.attempt(call, retry).await;
        if !(call.context.has_stale && self.has_no_fallback(&response)) {
            return response;
        }
        // The call was blocked in favour of a stale response, but the policy does not allow that response.
        call.context.has_stale = false;
        retry.prepare(&mut call.context);
        self.attempt(call, retry).await
    }

    async fn attempt(
        &self,
        call: &UpstreamRequest,
        retry: &mut RetryState,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let clock = &self.fills.clock;
        let began = clock.instant();
        let response = tokio::select! {
            response = self.fills.origin.fetch(call) => response?,
            () = self.fetch.abandoned_while_slow(), if self.ends_with_its_clients() => {
                return Err(UpstreamError::Abandoned);
            }
        };
        let time = clock.instant().saturating_duration_since(began);
        retry.record_wait(response.wait_reason, time);
        Ok(response)
    }

    /// Waits for the backoff of a retry. True: its last client has left, probably to try again by itself.
    async fn is_abandoned_within(&self, wait: Duration) -> bool {
        let audience = self.fetch.body.audience();
        tokio::select! {
            biased;
            () = audience.until_absent(), if self.ends_with_its_clients() => true,
            () = self.fills.clock.sleep(wait) => false,
        }
    }

    /// Whether a slow or failing call ends with its last client. Otherwise its response is stored for later ones.
    fn ends_with_its_clients(&self) -> bool {
        self.trigger.is_none() && !self.has_fallback
    }

    /// Whether the call was not made and no stale response replaces it.
    fn has_no_fallback(&self, response: &Result<UpstreamResponse, UpstreamError>) -> bool {
        let Err(UpstreamError::Rejected(rejection)) = response else { return false };
        let is_covered = |error| self.routed.policy.stale_if_error.covers(error);
        self.trigger.is_none() && !rejection.error_class().is_some_and(is_covered)
    }

    /// If the call has to wait for a cooldown, reports that to the readers of this fill.
    fn announce_wait(&self, call: &UpstreamRequest) {
        let rejection = self.fills.origin.check_admission(&call.context);
        if let Some(failure) = rejection.and_then(AttemptFailure::from_rejection) {
            self.fetch.report_failed_attempt(failure);
        }
    }
}

/// The failure of an attempt; `None`: there is none, or a retry cannot fix it.
fn attempt_failure(response: &Result<UpstreamResponse, UpstreamError>) -> Option<AttemptFailure> {
    match response {
        Ok(response) => AttemptFailure::from_response(response.status, &response.outcome),
        Err(error) => AttemptFailure::from_error(*error),
    }
}

/// Buffers the body of an error response, so that its connection is free for other calls during the
/// retry delay.
async fn buffer_error_body(
    response: Result<UpstreamResponse, UpstreamError>,
    in_flight: &Arc<InFlightBytes>,
) -> Result<UpstreamResponse, UpstreamError> {
    let mut response = response?;
    response.body = buffered_body::buffer(response.body, in_flight).await;
    Ok(response)
}
