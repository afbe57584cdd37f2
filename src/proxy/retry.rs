//! The attempts of a call that passes through: its admission, and retries as far as its route's policy and
//! admission control allow.
//!
//! Owns: the decision on a retry. A request that was sent is repeated only if the route's `retry` lists its
//! method, and only while the whole body is buffered. Never touches: bodies.

use http::{Method, StatusCode};

use crate::engine::response::ClientResponse;
use crate::policy::{ErrorClass, Policy};
use crate::proxy::ProxyHandler;
use crate::proxy::attempts::Attempts;
use crate::proxy::body_capture::BodyCapture;
use crate::proxy::context::RequestContext;
use crate::proxy::forwarded_message;
use crate::semantics::request::ProxyRequest;
use crate::upstream::admission::call::{AttemptKind, CallContext};
use crate::upstream::admission::rejection::RejectReason;
use crate::upstream::admission::retry::{RetryDecision, RetryState};
use crate::upstream::connect::session::UpstreamHead;
use crate::upstream::outcome::CallOutcome;
use crate::upstream::outcome::classify;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::routing::UpstreamTarget;

impl ProxyHandler {
    /// Waits for the backoff of a retry, then for admission.
    pub(super) async fn admit(
        &self,
        ctx: &mut RequestContext,
        request: &ProxyRequest,
        upstream: &UpstreamTarget,
    ) -> Result<(), UpstreamError> {
        let admission = &self.network.admission;
        if let Some(wait) = ctx.retry.wait.take() {
            ctx.permit = None;
            admission.sleep(wait).await;
        }
        let call = self.call_context(ctx, request, upstream);
        ctx.retry.began.get_or_insert_with(|| admission.instant());
        let permit =
            admission.acquire(upstream, call.clone()).await.map_err(UpstreamError::Rejected)?;
        ctx.retry.wait_reason = permit.waited().map(RejectReason::token);
        (ctx.permit, ctx.retry.call) = (Some(permit), Some((upstream.clone(), call)));
        let route = match request.method {
            Method::POST => {
                forwarded_message::as_get(request).and_then(|get| self.routes.find(&get))
            }
            _ => self.route(ctx),
        };
        ctx.pass_through_start = Some(self.engine.begin_pass_through(request, route));
        Ok(())
    }

    /// The call context for admission. For the first attempt it also creates the retry state.
    fn call_context(
        &self,
        ctx: &mut RequestContext,
        request: &ProxyRequest,
        upstream: &UpstreamTarget,
    ) -> CallContext {
        let policy = self.policy(ctx);
        let mut call = self.engine.call_context(request, ctx.route, policy, None);
        call.governed = self.route(ctx).is_some();
        let is_retry = ctx.retry.began.is_some();
        if !is_retry
            && policy.retry.is_retryable(&request.method)
            && !request.is_overridden()
            && call.governed
            && request.upgrade.is_none()
        {
            let state = RetryState::new(policy.retry.clone(), upstream.timeouts.total);
            ctx.retry.state = Some(state);
        }
        if is_retry {
            call.attempt = AttemptKind::Retry;
        }
        let left = ctx.retry.state.as_ref().map(RetryState::left);
        call.patience = left.unwrap_or_else(|| upstream.max_wait());
        call
    }

    fn policy<'a>(&'a self, ctx: &RequestContext) -> &'a Policy {
        self.route(ctx).map_or(&self.unrouted, |route| &*route.policy)
    }

    /// Handles the head of a response and returns whether to retry. `is_repeatable`: the whole request can
    /// be sent again.
    pub(super) fn should_retry_response(
        &self,
        ctx: &mut RequestContext,
        head: &UpstreamHead,
        is_repeatable: bool,
    ) -> bool {
        let Some(permit) = &mut ctx.permit else { return false };
        let status = head.status;
        ctx.body_capture = None;
        // A 101 is followed by another protocol, not by a body.
        if permit.reads_bodies() && status != StatusCode::SWITCHING_PROTOCOLS {
            ctx.body_capture =
                BodyCapture::for_response(status, &head.headers, &self.network.in_flight);
        }
        let outcome = match ctx.body_capture {
            Some(_) => permit.on_head_unread(status, &head.headers),
            None => permit.on_response(status, &head.headers, None),
        };
        let is_error = !outcome.is_ok() || status.as_u16() >= 400;
        is_error
            && is_repeatable
            && self.schedule_retry(ctx, &outcome, status, outcome.class.token())
    }

    /// The stored response to serve in place of an error response to a `HEAD`.
    pub(super) async fn stale_for_error(
        &self,
        request: &ProxyRequest,
        ctx: &mut RequestContext,
        head: &UpstreamHead,
    ) -> Option<ClientResponse> {
        if request.method != Method::HEAD || head.status.as_u16() < 400 || ctx.signed_in {
            return None;
        }
        let (error, status) = (ErrorClass::Status(head.status), Some(head.status));
        // Before the lookup, during which the client may disconnect.
        if let Some(permit) = &mut ctx.permit {
            permit.on_response(head.status, &head.headers, None);
        }
        let route = self.route(ctx)?;
        self.engine.stale_head(request, route, error, status, error.token()).await
    }

    /// The stored response to serve if a `HEAD` got no response.
    pub(super) async fn stale_for_failure(
        &self,
        request: &ProxyRequest,
        ctx: &mut RequestContext,
        failure: UpstreamError,
    ) -> Option<ClientResponse> {
        let is_head = request.method == Method::HEAD && !ctx.signed_in;
        let error = failure.error_class().filter(|_| is_head)?;
        let route = self.route(ctx)?;
        let reply = self.engine.stale_head(request, route, error, None, failure.token()).await?;
        if let Some(permit) = &mut ctx.permit {
            permit.on_failure(failure);
        }
        Some(reply)
    }

    /// Handles a failure without a response and returns whether to retry.
    pub(super) fn should_retry_failure(
        &self,
        ctx: &mut RequestContext,
        failure: UpstreamError,
        is_repeatable: bool,
    ) -> bool {
        if let Some(permit) = &mut ctx.permit {
            permit.on_failure(failure);
        }
        let Some(outcome) = classify::failure(failure) else { return false };
        failure.is_transient()
            && is_repeatable
            && self.schedule_retry(ctx, &outcome, StatusCode::BAD_GATEWAY, failure.token())
    }

    /// Schedules a retry if the retry state and admission control allow it.
    fn schedule_retry(
        &self,
        ctx: &mut RequestContext,
        outcome: &CallOutcome,
        status: StatusCode,
        reason: &'static str,
    ) -> bool {
        let cooldown = self.policy(ctx).cooldown;
        let admission = &self.network.admission;
        let Attempts {
            state: Some(state), began: Some(began), call: Some((upstream, call)), ..
        } = &mut ctx.retry
        else {
            return false;
        };
        let elapsed = admission.instant().saturating_duration_since(*began);
        let class: ErrorClass = outcome.error_class(status);
        let next =
            state.next(class, outcome.bounded_retry_after(&cooldown), elapsed, rand::random());
        let RetryDecision::After(wait) = next else { return false };
        (call.attempt, call.patience) = (AttemptKind::Retry, state.left());
        if !admission.try_acquire_retry(upstream, call, reason, wait) {
            return false;
        }
        (ctx.retry.wait, ctx.retry.reason) = (Some(wait), Some(reason));
        true
    }
}
