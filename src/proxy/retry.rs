//! The tries of a call that passes through: at the gate, and again as its route's plan and the gate allow.
//!
//! Owns: when such a call is made once more. What was sent is sent again only where the route's `retry`
//! names the method, and only while all of the body is kept. Never touches: bodies.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::engine::response::ClientResponse;
use crate::policy::{ErrorClass as Kind, Policy};
use crate::proxy::body_capture::BodyCapture;
use crate::proxy::context::RequestContext;
use crate::proxy::forwarded_message;
use crate::proxy::handler::PingoraHandler;
use crate::semantics::request::ProxyRequest;
use crate::upstream::admission::call::{AttemptKind, CallContext};
use crate::upstream::classify;
use crate::upstream::error::UpstreamError;
use crate::upstream::outcome::CallOutcome;
use crate::upstream::rejection::RejectReason;
use crate::upstream::retry::{RetryDecision, RetryState};
use crate::upstream::routing::UpstreamTarget;
use crate::upstream::session::UpstreamHead;

/// The tries so far.
#[derive(Default)]
pub(super) struct RetryContext {
    /// `None`: there is but one.
    plan: Option<RetryState>,
    /// When the first began, and what the last one said at the gate.
    began: Option<Instant>,
    knock: Option<(UpstreamTarget, CallContext)>,
    /// How long to wait before the next.
    wait: Option<Duration>,
    /// Why the last one that failed did.
    cause: Option<&'static str>,
    /// What it waited for at the gate.
    waited: Option<&'static str>,
}

impl RetryContext {
    /// What `Cache-Status` tells of them.
    pub(super) fn detail(&self) -> Option<(&'static str, &'static str)> {
        let retried = self.cause.map(|cause| ("retried", cause));
        retried.or_else(|| self.waited.map(|cause| ("waited", cause)))
    }
}

impl PingoraHandler {
    /// Passes the gate, after the wait that the plan asks for.
    pub(super) async fn passed(
        &self,
        ctx: &mut RequestContext,
        asked: &ProxyRequest,
        place: &UpstreamTarget,
    ) -> Result<(), UpstreamError> {
        let gate = &self.network.gate;
        if let Some(wait) = ctx.tries.wait.take() {
            ctx.pass = None;
            gate.sleep(wait).await;
        }
        let knock = self.knock(ctx, asked, place);
        ctx.tries.began.get_or_insert_with(|| gate.instant());
        let pass = gate.acquire(place, knock.clone()).await.map_err(UpstreamError::Held)?;
        ctx.tries.waited = pass.waited().map(RejectReason::token);
        (ctx.pass, ctx.tries.knock) = (Some(pass), Some((place.clone(), knock)));
        let route = match asked.method {
            Method::POST => {
                forwarded_message::as_a_get(asked).and_then(|get| self.routes.find(&get))
            }
            _ => self.route(ctx),
        };
        ctx.sent = Some(self.engine.sent(asked, route));
        Ok(())
    }

    /// What the call says at the gate. The first time its plan is made too.
    fn knock(
        &self,
        ctx: &mut RequestContext,
        asked: &ProxyRequest,
        place: &UpstreamTarget,
    ) -> CallContext {
        let policy = self.policy(ctx);
        let mut knock = self.engine.knock(asked, ctx.route, policy, None);
        knock.governed = self.route(ctx).is_some();
        let begun = ctx.tries.began.is_some();
        if !begun
            && policy.retry.repeats(&asked.method)
            && !asked.is_overridden()
            && knock.governed
            && asked.upgrade.is_none()
        {
            let plan = RetryState::new(policy.retry.clone(), place.timeouts.total);
            ctx.tries.plan = Some(plan);
        }
        if begun {
            knock.attempt = AttemptKind::Again;
        }
        let plan = ctx.tries.plan.as_ref().map(RetryState::left);
        knock.patience = plan.unwrap_or_else(|| place.patience());
        knock
    }

    fn policy<'a>(&'a self, ctx: &RequestContext) -> &'a Policy {
        self.route(ctx).map_or(&self.unrouted, |route| &*route.policy)
    }

    /// The head of an answer: whether another try takes its place. `whole`: all of the request can
    /// be sent once more.
    pub(super) fn is_asked_again(
        &self,
        ctx: &mut RequestContext,
        head: &UpstreamHead,
        whole: bool,
    ) -> bool {
        let Some(pass) = &mut ctx.pass else { return false };
        let status = head.status;
        ctx.copy = None;
        // Behind a 101 comes another protocol, and no body.
        if pass.reads_bodies() && status != StatusCode::SWITCHING_PROTOCOLS {
            ctx.copy = BodyCapture::of(status, &head.headers, &self.network.in_flight);
        }
        let verdict = match ctx.copy {
            Some(_) => pass.on_head_unread(status, &head.headers),
            None => pass.answered(status, &head.headers, None),
        };
        let error = !verdict.is_ok() || status.as_u16() >= 400;
        error && whole && self.tries_again(ctx, &verdict, status, verdict.class.token())
    }

    /// What is stored in the place of an error that a `HEAD` was answered with.
    pub(super) async fn stale_head(
        &self,
        asked: &ProxyRequest,
        ctx: &mut RequestContext,
        head: &UpstreamHead,
    ) -> Option<ClientResponse> {
        if asked.method != Method::HEAD || head.status.as_u16() < 400 || ctx.signed_in {
            return None;
        }
        let (error, status) = (Kind::Status(head.status), Some(head.status));
        // Before the look-up: its client may leave meanwhile.
        if let Some(pass) = &mut ctx.pass {
            pass.answered(head.status, &head.headers, None);
        }
        let route = self.route(ctx)?;
        self.engine.stale_head(asked, route, error, status, error.token()).await
    }

    /// What is stored in the place of no answer to a `HEAD`.
    pub(super) async fn stale_instead(
        &self,
        asked: &ProxyRequest,
        ctx: &mut RequestContext,
        failure: UpstreamError,
    ) -> Option<ClientResponse> {
        let is_head = asked.method == Method::HEAD && !ctx.signed_in;
        let error = failure.error_class().filter(|_| is_head)?;
        let route = self.route(ctx)?;
        let reply = self.engine.stale_head(asked, route, error, None, failure.token()).await?;
        if let Some(pass) = &mut ctx.pass {
            pass.failed(failure);
        }
        Some(reply)
    }

    /// No answer came: whether there is another try.
    pub(super) fn fails(
        &self,
        ctx: &mut RequestContext,
        failure: UpstreamError,
        whole: bool,
    ) -> bool {
        if let Some(pass) = &mut ctx.pass {
            pass.failed(failure);
        }
        let Some(verdict) = classify::failure(failure) else { return false };
        failure.may_pass()
            && whole
            && self.tries_again(ctx, &verdict, StatusCode::BAD_GATEWAY, failure.token())
    }

    fn tries_again(
        &self,
        ctx: &mut RequestContext,
        verdict: &CallOutcome,
        status: StatusCode,
        cause: &'static str,
    ) -> bool {
        let hold = self.policy(ctx).hold;
        let gate = &self.network.gate;
        let RetryContext {
            plan: Some(plan), began: Some(began), knock: Some((place, knock)), ..
        } = &mut ctx.tries
        else {
            return false;
        };
        let elapsed = gate.instant().saturating_duration_since(*began);
        let kind: Kind = verdict.error_class(status);
        let next = plan.next(kind, verdict.bounded_retry_after(&hold), elapsed, rand::random());
        let RetryDecision::After(wait) = next else { return false };
        (knock.attempt, knock.patience) = (AttemptKind::Again, plan.left());
        if !gate.try_acquire_retry(place, knock, cause, wait) {
            return false;
        }
        (ctx.tries.wait, ctx.tries.cause) = (Some(wait), Some(cause));
        true
    }
}
