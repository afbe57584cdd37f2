//! The tries of a call that passes through: at the gate, and again as its route's plan and the gate allow.
//!
//! Owns: when such a call is made once more. What was sent is sent again only where the route's `retry`
//! names the method, and only while pingora still holds all of the body. Never touches: bodies.

use std::time::{Duration, Instant};

use http::StatusCode;
use pingora_error::{Error, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::policy::{Failure as Kind, Policy};
use crate::proxy::copied::Copied;
use crate::proxy::exchange::Ctx;
use crate::proxy::failed::origin_failure;
use crate::proxy::handler::Handler;
use crate::semantics::asked::Asked;
use crate::upstream::classify;
use crate::upstream::failure::Failure;
use crate::upstream::gate::knock::{Attempt, Knock};
use crate::upstream::held::Cause;
use crate::upstream::place::Place;
use crate::upstream::retry::{Next, Plan};
use crate::upstream::verdict::Verdict;

/// The tries so far.
#[derive(Default)]
pub(super) struct Tries {
    /// `None`: there is but one.
    plan: Option<Plan>,
    /// When the first began, and what the last one said at the gate.
    began: Option<Instant>,
    knock: Option<(Place, Knock)>,
    /// How long to wait before the next.
    wait: Option<Duration>,
    /// Why the last one that failed did.
    cause: Option<&'static str>,
    /// What it waited for at the gate.
    waited: Option<&'static str>,
    /// Whether a connection that had died in the pool was replaced.
    redialled: bool,
}

impl Tries {
    /// What `Cache-Status` tells of them.
    pub(super) fn detail(&self) -> Option<(&'static str, &'static str)> {
        let retried = self.cause.map(|cause| ("retried", cause));
        retried.or_else(|| self.waited.map(|cause| ("waited", cause)))
    }
}

/// The error by which pingora is told to begin anew.
#[expect(clippy::unnecessary_box_returns, reason = "as pingora hands errors on")]
pub(super) fn again() -> Box<Error> {
    let mut error = Error::new_up(ErrorType::Custom("retry"));
    error.set_retry(true);
    error
}

impl Handler {
    /// Passes the gate, after the wait that the plan asks for.
    pub(super) async fn passed(
        &self,
        ctx: &mut Ctx,
        asked: &Asked,
        place: &Place,
    ) -> Result<(), Failure> {
        let gate = &self.network.gate;
        if let Some(wait) = ctx.tries.wait.take() {
            ctx.pass = None;
            gate.sleep(wait).await;
        }
        if ctx.pass.is_some() {
            gate.redialled(place.index, ctx.route);
            return Ok(());
        }
        let knock = self.knock(ctx, asked, place);
        ctx.tries.began.get_or_insert_with(|| gate.instant());
        let pass = gate.enter(place, knock.clone()).await.map_err(Failure::Held)?;
        ctx.tries.waited = pass.waited().map(Cause::token);
        (ctx.pass, ctx.tries.knock) = (Some(pass), Some((place.clone(), knock)));
        ctx.sent.get_or_insert_with(|| self.engine.sent());
        Ok(())
    }

    /// What the call says at the gate. The first time its plan is made too.
    fn knock(&self, ctx: &mut Ctx, asked: &Asked, place: &Place) -> Knock {
        let policy = self.policy(ctx);
        let mut knock = self.engine.knock(asked, ctx.route, policy, None);
        knock.governed = self.route(ctx).is_some();
        let begun = ctx.tries.began.is_some();
        if !begun && policy.retry.repeats(&asked.method) && knock.governed && !asked.upgrade {
            let plan = Plan::new(policy.retry.clone(), place.timeouts.total);
            ctx.tries.plan = Some(plan);
        }
        if begun {
            knock.attempt = Attempt::Again;
        }
        let turn = place.upstream.as_ref().map(|upstream| upstream.conduct.pace.max_wait);
        let plan = ctx.tries.plan.as_ref().map(Plan::left);
        knock.patience = plan.or(turn).unwrap_or_default();
        knock
    }

    fn policy<'a>(&'a self, ctx: &Ctx) -> &'a Policy {
        self.route(ctx).map_or(&*self.unrouted, |route| &*route.policy)
    }

    /// The head of an answer: whether another try takes its place.
    pub(super) fn answered(
        &self,
        session: &Session,
        response: &ResponseHeader,
        ctx: &mut Ctx,
    ) -> bool {
        let Some(pass) = &mut ctx.pass else { return false };
        let status = response.status;
        ctx.copy = None;
        if pass.reads_bodies() {
            ctx.copy = Copied::of(status, &response.headers);
        }
        let verdict = match ctx.copy {
            Some(_) => pass.answered_so_far(status, &response.headers),
            None => pass.answered(status, &response.headers, None),
        };
        let error = !verdict.is_ok() || status.as_u16() >= 400;
        error && self.tries_again(session, ctx, &verdict, status, verdict.class.token())
    }

    /// No answer came: whether there is another try.
    pub(super) fn fails(&self, session: &Session, ctx: &mut Ctx, failure: Failure) -> bool {
        if let Some(pass) = &mut ctx.pass {
            pass.failed(failure);
        }
        let Some(verdict) = classify::failure(failure) else { return false };
        failure.may_pass()
            && self.tries_again(session, ctx, &verdict, StatusCode::BAD_GATEWAY, failure.token())
    }

    /// A connection that could not be made, or that broke before an answer came.
    #[expect(clippy::unnecessary_box_returns, reason = "as pingora hands errors on")]
    pub(super) fn broken(
        &self,
        session: &Session,
        ctx: &mut Ctx,
        mut error: Box<Error>,
        reused: bool,
    ) -> Box<Error> {
        if ctx.tries.wait.is_some() {
            // It was decided when the answer came.
            return error;
        }
        let replays = session.req_header().method.is_idempotent() && whole(session);
        if reused && replays && !ctx.tries.redialled {
            error.retry.decide_reuse(reused);
            if error.retry() {
                ctx.tries.redialled = true;
                return error;
            }
        }
        error.set_retry(false);
        let upstream = *error.esource() == pingora_error::ErrorSource::Upstream;
        if upstream && session.as_downstream().response_written().is_none() {
            let failure = ctx.failure.unwrap_or_else(|| origin_failure(&error));
            error.set_retry(self.fails(session, ctx, failure));
        }
        error
    }

    fn tries_again(
        &self,
        session: &Session,
        ctx: &mut Ctx,
        verdict: &Verdict,
        status: StatusCode,
        cause: &'static str,
    ) -> bool {
        let hold = self.policy(ctx).hold;
        let gate = &self.network.gate;
        let Tries { plan: Some(plan), began: Some(began), knock: Some((place, knock)), .. } =
            &mut ctx.tries
        else {
            return false;
        };
        if !whole(session) {
            return false;
        }
        let elapsed = gate.instant().saturating_duration_since(*began);
        let kind: Kind = verdict.as_error(status);
        let next = plan.next(kind, verdict.heard(&hold), elapsed, rand::random());
        let Next::After(wait) = next else { return false };
        (knock.attempt, knock.patience) = (Attempt::Again, plan.left());
        if !gate.spare(place, knock, cause, wait) {
            return false;
        }
        (ctx.tries.wait, ctx.tries.cause) = (Some(wait), Some(cause));
        true
    }
}

/// Whether pingora still holds all that the client has sent.
fn whole(session: &Session) -> bool {
    !session.as_downstream().retry_buffer_truncated()
}
