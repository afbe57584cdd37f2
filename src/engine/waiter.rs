//! Following a fill: what one client makes of what the fill publishes.
//!
//! Owns: whether this client may have that answer, stale instead of an error, how long it waits.
//! Never touches: fetching.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::decide::{self, stale_if_error};
use crate::engine::Engine;
use crate::engine::body::BodyReader;
use crate::engine::inflight::{
    AttemptFailure, FillEvent, FillState, InFlightFetch, ResponseHead, Revalidated,
};
use crate::engine::miss::Miss;
use crate::engine::response::ClientResponse;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::vary::{VariantId, Vary};
use crate::stored::StoredResponse;
use crate::telemetry::ResultKind;
use crate::telemetry::problem::Problem;
use crate::upstream::error::UpstreamError;
use crate::upstream::rejection::Rejection;

/// What following came to.
pub(crate) enum WaitOutcome {
    /// An answer for this client.
    Reply(Box<ClientResponse>),
    /// The answer is another variant's; this client's is this one.
    OtherVariant(VariantId),
    /// The answer is somebody else's alone: ask for yourself.
    Alone(Option<OwnedSemaphorePermit>),
}

impl WaitOutcome {
    fn reply(reply: ClientResponse) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// Whose fill this client follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Its own: it gets the answer whatever it is.
    Leader,
    /// Somebody else's.
    Waiter,
}

impl Engine {
    /// Follows a fill of one's own: its answer is this client's, whatever it is.
    pub(crate) async fn follow_as_leader(
        &self,
        plan: &Miss<'_>,
        flight: &InFlightFetch,
        reader: BodyReader,
    ) -> ClientResponse {
        let published = match self.await_head(plan, flight).await {
            Ok(published) => published,
            Err(reply) => return *reply,
        };
        match published {
            FillState::Failed(failure) => self.failed(plan, failure),
            FillState::Confirmed(Revalidated { own, shared }) => {
                self.confirmed(plan, &own, shared.is_ok(), Role::Leader)
            }
            FillState::Head(head) => self
                .stale_for_error(plan, &head)
                .unwrap_or_else(|| Self::growing(plan, &head, reader, Role::Leader)),
        }
    }

    /// Follows somebody else's fill until it publishes something, for `coalesce.wait` or so.
    pub(crate) async fn follow_as_waiter(
        &self,
        plan: &Miss<'_>,
        flight: &Arc<InFlightFetch>,
        reader: BodyReader,
    ) -> WaitOutcome {
        let published =
            match timeout(plan.policy.coalesce_wait, self.await_head(plan, flight)).await {
                Ok(Ok(published)) => published,
                Ok(Err(reply)) => return WaitOutcome::Reply(reply),
                // The fill has other tries to come: a call of one's own would be one more of them.
                Err(_elapsed) if flight.is_in_trouble() => flight.published().await,
                Err(_elapsed) => match self.on_wait_timeout(plan, flight).await {
                    Ok(published) => published,
                    Err(followed) => return followed,
                },
            };
        match published {
            FillState::Failed(failure) => WaitOutcome::reply(self.failed(plan, failure)),
            FillState::Confirmed(Revalidated { shared: Ok(stored), .. }) => {
                WaitOutcome::reply(self.confirmed(plan, &stored, true, Role::Waiter))
            }
            // Nothing may be shared: every waiter asks for itself, and none waits for another.
            FillState::Confirmed(Revalidated { shared: Err(_), .. }) => WaitOutcome::Alone(None),
            FillState::Head(head) => self.shared(plan, &head, reader),
        }
    }

    /// Waits for what the fill comes to; once it is in trouble, for whoever has something stale that is
    /// the answer, while the fill goes on behind.
    async fn await_head(
        &self,
        plan: &Miss<'_>,
        flight: &InFlightFetch,
    ) -> Result<FillState, Box<ClientResponse>> {
        match flight.next_event().await {
            FillEvent::Published(published) => Ok(published),
            FillEvent::Trouble(AttemptFailure { failure, status, cause }) => {
                match self.stale(plan, failure, status, cause) {
                    Some(reply) => Err(Box::new(reply)),
                    None => Ok(flight.published().await),
                }
            }
        }
    }

    /// What keeps calls to the origin back right now, where this client has something stale: that is
    /// its answer, and nobody is asked.
    pub(crate) fn stale_if_blocked(&self, plan: &Miss<'_>) -> Option<ClientResponse> {
        if plan.stored.is_none() || !plan.fallback {
            return None;
        }
        let mut knock = self.knock(plan.asked, plan.route.index, plan.policy, Some(&plan.key));
        knock.yields = true;
        let held = self.origin.check_admission(&plan.asked.target, &knock)?;
        self.stale_for_rejection(plan, held)
    }

    /// What may stand in for an error, unless its right to has ended since it was looked up.
    fn standing_in<'p>(&self, plan: &'p Miss<'_>) -> Option<&'p Arc<StoredResponse>> {
        let stored = plan.stored.as_ref().filter(|_| plan.fallback)?;
        self.has_its_right(&plan.key, stored).then_some(stored)
    }

    /// The stored response in the place of a call that is not made.
    fn stale_for_rejection(&self, plan: &Miss<'_>, held: Rejection) -> Option<ClientResponse> {
        let stored = self.standing_in(plan)?;
        let now = self.clock.now();
        let failure = held.error_class()?;
        let ttl = stale_if_error(plan.asked, plan.policy, plan.cache, stored, failure, now)?;
        let cause = held.cause.token();
        self.account.stale_served(plan.route.index, cause);
        let status = CacheStatus::hit(ttl).detail("stale-if-error", cause);
        Some(ClientResponse::from_stored(plan.asked, stored, now, &status, ResultKind::Stale))
    }

    /// The wait is over and there is no head: stale if there is something, else this client asks for
    /// itself as soon as few enough others do, or takes what the fill brings after all.
    async fn on_wait_timeout(
        &self,
        plan: &Miss<'_>,
        flight: &Arc<InFlightFetch>,
    ) -> Result<FillState, WaitOutcome> {
        let cause = "coalesce-wait";
        if let Some(reply) = self.stale(plan, decide::ErrorClass::Timeout, None, cause) {
            return Err(WaitOutcome::reply(reply));
        }
        if flight.in_line.load(Ordering::Relaxed) {
            return Ok(flight.published().await);
        }
        tokio::select! {
            published = flight.published() => Ok(published),
            Ok(permit) = Arc::clone(&flight.own_heads).acquire_owned() => {
                Err(WaitOutcome::Alone(Some(permit)))
            }
        }
    }

    fn failed(&self, plan: &Miss<'_>, failure: UpstreamError) -> ClientResponse {
        let stale = if let UpstreamError::Held(held) = failure {
            self.stale_for_rejection(plan, held)
        } else {
            failure.error_class().and_then(|error| self.stale(plan, error, None, failure.token()))
        };
        stale.unwrap_or_else(|| {
            if let UpstreamError::Denied(why) = failure {
                self.account.denied(why.token());
            }
            let status = failure.told(plan.why.token());
            ClientResponse::from_problem(plan.asked, &failure.problem(), &status)
                .with_forward_reason(plan.why.token())
        })
    }

    fn confirmed(
        &self,
        plan: &Miss<'_>,
        stored: &StoredResponse,
        kept: bool,
        role: Role,
    ) -> ClientResponse {
        let now = self.clock.now();
        let mut status = CacheStatus::forwarded(plan.why.token()).status(StatusCode::NOT_MODIFIED);
        if kept {
            status = status.stored().ttl(plan.ttl(stored, now));
        }
        if role == Role::Waiter {
            status = status.collapsed();
        }
        let result = match role {
            Role::Leader => ResultKind::Revalidated,
            Role::Waiter => ResultKind::Coalesced,
        };
        ClientResponse::from_stored(plan.asked, stored, now, &status, result)
            .with_forward_reason(plan.why.token())
    }

    /// What a waiter makes of a head: stale instead of an error, a share of the body, or neither.
    fn shared(&self, plan: &Miss<'_>, head: &ResponseHead, reader: BodyReader) -> WaitOutcome {
        if let Some(reply) = self.stale_for_error(plan, head) {
            return WaitOutcome::reply(reply);
        }
        if head.shared.is_err() && !head.is_shared_error(plan.policy, plan.cache) {
            return WaitOutcome::Alone(None);
        }
        match self.other_variant(plan, head) {
            Some(other) => WaitOutcome::OtherVariant(other),
            None => WaitOutcome::reply(Self::growing(plan, head, reader, Role::Waiter)),
        }
    }

    /// The stored response in place of the error that this head is.
    fn stale_for_error(&self, plan: &Miss<'_>, head: &ResponseHead) -> Option<ClientResponse> {
        self.stale(plan, head.failure, Some(head.status), head.cause)
    }

    /// The variant of this client, if it is not the one that was fetched.
    fn other_variant(&self, plan: &Miss<'_>, head: &ResponseHead) -> Option<VariantId> {
        let Vary::Fields(fields) = &head.vary else { return None };
        let mine = self.variant(plan.asked, fields);
        (head.variant != Some(mine)).then_some(mine)
    }

    fn growing(
        plan: &Miss<'_>,
        head: &ResponseHead,
        reader: BodyReader,
        role: Role,
    ) -> ClientResponse {
        let mut status = CacheStatus::forwarded(plan.why.token()).status(head.status);
        if head.shared.is_ok() {
            let ttl = plan.ttl_of(head.kept_as(), &head.said, head.received);
            status = status.stored().ttl(ttl);
        }
        if role == Role::Waiter {
            status = status.collapsed();
        }
        if let Some((act, cause)) = head.detail {
            status = status.detail(act, cause);
        }
        let mut headers = match (role, &head.shared) {
            (Role::Waiter, Ok(shared)) => shared.clone(),
            (Role::Leader, _) | (Role::Waiter, Err(_)) => head.own.clone(),
        };
        status.append_to(&mut headers);
        let said = &head.said;
        let mut reply = ClientResponse::from_growing(
            plan.asked,
            said,
            head.status,
            headers,
            head.length,
            reader,
        );
        if role == Role::Waiter {
            reply.result = ResultKind::Coalesced;
        }
        reply.with_forward_reason(plan.why.token())
    }

    /// The stored response in place of an error, where policy and origin allow it.
    fn stale(
        &self,
        plan: &Miss<'_>,
        failure: decide::ErrorClass,
        answered: Option<StatusCode>,
        cause: &'static str,
    ) -> Option<ClientResponse> {
        let stored = self.standing_in(plan)?;
        let now = self.clock.now();
        let ttl = stale_if_error(plan.asked, plan.policy, plan.cache, stored, failure, now)?;
        let mut status = CacheStatus::forwarded(plan.why.token()).ttl(ttl);
        if let Some(answered) = answered {
            status = status.status(answered);
        }
        let status = status.detail("stale-if-error", cause);
        self.account.stale_served(plan.route.index, cause);
        let reply =
            ClientResponse::from_stored(plan.asked, stored, now, &status, ResultKind::Stale);
        Some(reply.with_forward_reason(plan.why.token()))
    }

    /// Too many wait for this key already.
    pub(crate) fn too_many(&self, plan: &Miss<'_>) -> ClientResponse {
        let cause = "waiters";
        if let Some(reply) = self.stale(plan, decide::ErrorClass::Timeout, None, cause) {
            return reply;
        }
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "waiters_per_key",
            "too many requests wait for this answer already; see limits.waiters_per_key",
            "connection_limit_reached",
        )
        .retry_after(1);
        let status = CacheStatus::forwarded(plan.why.token());
        ClientResponse::from_problem(plan.asked, &problem, &status)
            .with_forward_reason(plan.why.token())
    }
}
