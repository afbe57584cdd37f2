//! The attempts of a call that passes through: its admission, and retries as far as its route's policy and
//! admission control allow.
//!
//! Owns: which requests may be repeated: only one whose method the route's `retry` lists, and only while the
//! whole body is buffered; which responses are inspected; the stale response in place of an error to a `HEAD`.
//! Never touches: the transfer of bodies, whether and when to retry (`upstream::retry`).

use std::sync::Arc;

use std::time::Duration;

use http::{Method, StatusCode};

use crate::engine::response::ClientResponse;
use crate::policy::ErrorClass;
use crate::proxy::ProxyHandler;
use crate::proxy::body_capture::BodyCapture;
use crate::proxy::context::RequestContext;
use crate::proxy::exchange::Exchange;
use crate::upstream::admission::call::CallContext;
use crate::upstream::connect::session::UpstreamHead;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::reason::Reason;
use crate::upstream::retry::{AttemptFailure, RetryDecision, RetryState};
use crate::upstream::routed_request::RoutedRequest;

impl RequestContext {
    /// Waits for the backoff of a retry, then for admission.
    pub(super) async fn admit(
        &mut self,
        handler: &ProxyHandler,
        routed: &Arc<RoutedRequest>,
    ) -> Result<(), UpstreamError> {
        let admission = &handler.network.admission;
        if let Some(wait) = self.retry_wait.take() {
            self.permit = None;
            admission.sleep(wait).await;
        }
        let call = self.call_context(handler, routed);
        let permit = admission.acquire(call).await.map_err(UpstreamError::Rejected)?;
        if let Some(retry) = &mut self.retry {
            retry.record_wait(permit.waited(), Duration::ZERO);
        }
        self.permit = Some(permit);
        let get = handler.router.route_get_of(routed);
        self.pass_through_start = Some(handler.engine.pass_through.begin(routed, get));
        Ok(())
    }

    /// The call context for admission. For the first attempt it also creates the retry state.
    fn call_context(&mut self, handler: &ProxyHandler, routed: &Arc<RoutedRequest>) -> CallContext {
        let mut call = handler.engine.call_context(routed);
        let is_repeatable = routed.policy.retry.is_retryable(&routed.request.method)
            && !routed.request.is_overridden()
            && routed.route.is_some()
            && routed.request.upgrade.is_none();
        let admission = &handler.network.admission;
        let retry = self.retry.get_or_insert_with(|| {
            let (limits, now) = (routed.upstream().limits(), admission.instant());
            let paused = is_repeatable && admission.are_retries_paused(&call);
            RetryState::new(&routed.policy, is_repeatable, limits, now).paused(paused)
        });
        retry.prepare(&mut call);
        call
    }
}

impl Exchange {
    /// Handles the head of a response. Returns the failure that it reports, if any.
    pub(super) fn record_response(&mut self, head: &UpstreamHead) -> Option<AttemptFailure> {
        let permit = self.ctx.permit.as_mut()?;
        let status = head.status;
        self.ctx.body_capture = None;
        // A 101 is followed by another protocol, not by a body.
        if permit.reads_body_of(status) && status != StatusCode::SWITCHING_PROTOCOLS {
            let in_flight = &self.handler.network.in_flight;
            self.ctx.body_capture = BodyCapture::for_response(status, &head.headers, in_flight);
        }
        let outcome = match self.ctx.body_capture {
            Some(_) => permit.on_head_unread(status, &head.headers),
            None => permit.on_response(status, &head.headers, None),
        };
        // A connection with a sign-in is the user: nothing in the request names it.
        let is_kept = !self.ctx.signed_in;
        self.ctx.refusal = is_kept.then(|| permit.capture_refusal(status, &head.headers)).flatten();
        AttemptFailure::from_response(status, &outcome)
    }

    /// The stored response to serve in place of an error response to a `HEAD`.
    pub(super) async fn stale_for_error(&mut self, head: &UpstreamHead) -> Option<ClientResponse> {
        let status = head.status;
        if self.request().method != Method::HEAD || status.as_u16() < 400 || self.ctx.signed_in {
            return None;
        }
        // Before the lookup, during which the client may disconnect.
        if let Some(permit) = &mut self.ctx.permit {
            permit.on_response(status, &head.headers, None);
        }
        let class = ErrorClass::Status(status);
        let failure = AttemptFailure::new(class, Reason::Class(class));
        let failure = AttemptFailure { status: Some(status), ..failure };
        self.handler.engine.pass_through.stale_head(&self.routed, failure).await
    }

    /// The stored response to serve if a `HEAD` got no response.
    pub(super) async fn stale_for_failure(&mut self, error: UpstreamError) -> Option<ClientResponse> {
        let is_head = self.request().method == Method::HEAD && !self.ctx.signed_in;
        let class = error.error_class().filter(|_| is_head)?;
        let failure = AttemptFailure::new(class, Reason::Error(error));
        let reply = self.handler.engine.pass_through.stale_head(&self.routed, failure).await?;
        if let Some(permit) = &mut self.ctx.permit {
            permit.on_failure(error);
        }
        Some(reply)
    }

    /// The client has left. If the call was being retried, the client will probably try again by itself.
    pub(super) fn pause_retries(&mut self) {
        if self.ctx.retry.as_ref().is_some_and(RetryState::is_retrying) {
            let call = self.ctx.call_context(&self.handler, &self.routed);
            self.handler.network.admission.pause_retries(&call);
        }
    }

    /// Whether a retry follows: the attempt failed, and retry state and admission control allow it.
    pub(super) fn schedule_retry(&mut self, failure: Option<AttemptFailure>) -> bool {
        // A slow response is not asked for again, whatever became of it.
        let failure = failure.filter(|_| !self.ctx.is_slow());
        let (Some(retry), Some(failure)) = (&mut self.ctx.retry, failure) else { return false };
        let admission = &self.handler.network.admission;
        let RetryDecision::After(wait) = retry.next(&failure, admission.instant(), rand::random()) else {
            if retry.has_given_up(&failure) {
                admission.pause_retries(&self.ctx.call_context(&self.handler, &self.routed));
            }
            return false;
        };
        let call = self.ctx.call_context(&self.handler, &self.routed);
        let granted = admission.try_acquire_retry(&call, failure.reason, wait);
        if let Some(retry) = self.ctx.retry.as_mut().filter(|_| granted) {
            retry.set_retry_reason(failure.reason);
            self.ctx.retry_wait = Some(wait);
        }
        granted
    }
}
