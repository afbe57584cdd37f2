//! The attempts of a call that passes through: its admission, and retries as far as its route's policy and
//! admission control allow.
//!
//! Owns: the decision on a retry. A request that was sent is repeated only if the route's `retry` lists its
//! method, and only while the whole body is buffered. Never touches: bodies.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::engine::response::ClientResponse;
use crate::policy::{ErrorClass, Policy};
use crate::proxy::ProxyHandler;
use crate::proxy::body_capture::BodyCapture;
use crate::proxy::context::RequestContext;
use crate::proxy::forwarded_message;
use crate::semantics::request::ProxyRequest;
use crate::upstream::admission::call::CallContext;
use crate::upstream::connect::session::UpstreamHead;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::reason::Reason;
use crate::upstream::retry::{AttemptFailure, RetryDecision, RetryState};
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
        if let Some(wait) = ctx.retry_wait.take() {
            ctx.permit = None;
            admission.sleep(wait).await;
        }
        let call = self.call_context(ctx, request, upstream);
        let permit = admission.acquire(upstream, call).await.map_err(UpstreamError::Rejected)?;
        if let Some(retry) = &mut ctx.retry {
            retry.record_wait(permit.waited(), Duration::ZERO);
        }
        ctx.permit = Some(permit);
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
        let is_repeatable = policy.retry.is_retryable(&request.method)
            && !request.is_overridden()
            && call.governed
            && request.upgrade.is_none();
        let now = self.network.admission.instant();
        ctx.retry
            .get_or_insert_with(|| RetryState::new(policy, is_repeatable, upstream.limits(), now))
            .prepare(&mut call);
        call
    }

    fn policy<'a>(&'a self, ctx: &RequestContext) -> &'a Policy {
        self.route(ctx).map_or(&self.unrouted, |route| &*route.policy)
    }

    /// Handles the head of a response. Returns the failure that it reports, if any.
    pub(super) fn record_response(
        &self,
        ctx: &mut RequestContext,
        head: &UpstreamHead,
    ) -> Option<AttemptFailure> {
        let permit = ctx.permit.as_mut()?;
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
        AttemptFailure::from_response(status, &outcome)
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
        self.engine.stale_head(request, route, error, status, Reason::Class(error)).await
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
        let reply =
            self.engine.stale_head(request, route, error, None, Reason::Error(failure)).await?;
        if let Some(permit) = &mut ctx.permit {
            permit.on_failure(failure);
        }
        Some(reply)
    }

    /// Whether a retry follows: the attempt failed, and retry state and admission control allow it.
    pub(super) fn schedule_retry(
        &self,
        request: &ProxyRequest,
        ctx: &mut RequestContext,
        upstream: &UpstreamTarget,
        failure: Option<AttemptFailure>,
    ) -> bool {
        let admission = &self.network.admission;
        let (Some(retry), Some(failure)) = (&mut ctx.retry, failure) else { return false };
        let next = retry.next(&failure, admission.instant(), rand::random());
        let RetryDecision::After(wait) = next else { return false };
        let call = self.call_context(ctx, request, upstream);
        let granted = admission.try_acquire_retry(upstream, &call, failure.reason, wait);
        if let Some(retry) = ctx.retry.as_mut().filter(|_| granted) {
            retry.set_retry_reason(failure.reason);
            ctx.retry_wait = Some(wait);
        }
        granted
    }
}
