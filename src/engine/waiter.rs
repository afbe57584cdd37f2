//! Waiting for a fill: builds one client's response from the state that the fill publishes.
//!
//! Owns: whether this client may share the response, stale responses in place of errors, the length of
//! the wait. Never touches: fetching.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::decide::{self, stale_if_error};
use crate::engine::Engine;
use crate::engine::body::BodyReader;
use crate::engine::inflight::{FillEvent, FillState, InFlightFetch, ResponseHead, Revalidated};
use crate::engine::miss::Miss;
use crate::engine::response::ClientResponse;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::vary::{VariantId, Vary};
use crate::stored::StoredResponse;
use crate::telemetry::ResultKind;
use crate::telemetry::problem::Problem;
use crate::upstream::admission::rejection::Rejection;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::reason::Reason;
use crate::upstream::retry::AttemptFailure;

/// The result of waiting for a fill.
pub(crate) enum WaitOutcome {
    /// A response for this client.
    Reply(Box<ClientResponse>),
    /// The response is another variant; this client's variant is this one.
    OtherVariant(VariantId),
    /// The response is not shareable: fetch separately.
    FetchSeparately(Option<OwnedSemaphorePermit>),
}

impl WaitOutcome {
    fn reply(reply: ClientResponse) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// The client's role in the fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Leads the fill and gets its response in every case.
    Leader,
    /// Waits for a fill that another client leads.
    Waiter,
}

impl Engine {
    /// Waits for the client's own fill and returns its response in every case.
    pub(crate) async fn follow_as_leader(
        &self,
        miss: &Miss<'_>,
        fetch: &InFlightFetch,
        reader: BodyReader,
    ) -> ClientResponse {
        let published = match self.await_head(miss, fetch).await {
            Ok(published) => published,
            Err(reply) => return *reply,
        };
        match published {
            FillState::Failed(failure) => self.respond_failed(miss, failure),
            FillState::Confirmed(Revalidated { own, shared }) => {
                self.respond_revalidated(miss, &own, shared.is_ok(), Role::Leader)
            }
            FillState::Head(head) => self
                .stale_for_error(miss, &head)
                .unwrap_or_else(|| Self::respond_growing(miss, &head, reader, Role::Leader)),
        }
    }

    /// Waits for another client's fill until it publishes its state, at most about `coalesce.wait`.
    pub(crate) async fn follow_as_waiter(
        &self,
        miss: &Miss<'_>,
        fetch: &Arc<InFlightFetch>,
        reader: BodyReader,
    ) -> WaitOutcome {
        let published = match timeout(miss.policy.coalesce_wait, self.await_head(miss, fetch)).await
        {
            Ok(Ok(published)) => published,
            Ok(Err(reply)) => return WaitOutcome::Reply(reply),
            // The fill has retries left: a separate call would only add one more.
            Err(_elapsed) if fetch.has_failed_attempt() => fetch.published().await,
            Err(_elapsed) => match self.on_wait_timeout(miss, fetch).await {
                Ok(published) => published,
                Err(outcome) => return outcome,
            },
        };
        match published {
            FillState::Failed(failure) => WaitOutcome::reply(self.respond_failed(miss, failure)),
            FillState::Confirmed(Revalidated { shared: Ok(stored), .. }) => {
                WaitOutcome::reply(self.respond_revalidated(miss, &stored, true, Role::Waiter))
            }
            // Not shareable: every waiter fetches separately and does not wait for another.
            FillState::Confirmed(Revalidated { shared: Err(_), .. }) => {
                WaitOutcome::FetchSeparately(None)
            }
            FillState::Head(head) => self.respond_shared(miss, &head, reader),
        }
    }

    /// Waits for the state of the fill. If an attempt fails and a stale response is stored, it is served
    /// at once; the fill continues in the background.
    async fn await_head(
        &self,
        miss: &Miss<'_>,
        fetch: &InFlightFetch,
    ) -> Result<FillState, Box<ClientResponse>> {
        match fetch.next_event().await {
            FillEvent::Published(state) => Ok(state),
            FillEvent::AttemptFailed(AttemptFailure { class, status, reason, .. }) => {
                match self.stale_response(miss, class, status, reason) {
                    Some(reply) => Err(Box::new(reply)),
                    None => Ok(fetch.published().await),
                }
            }
        }
    }

    /// The stale response, if calls to the origin are blocked right now and one may be served. No call
    /// is made then.
    pub(crate) fn stale_if_blocked(&self, miss: &Miss<'_>) -> Option<ClientResponse> {
        if miss.stored.is_none() || !miss.fallback {
            return None;
        }
        let mut call =
            self.call_context(miss.request, miss.route.index, miss.policy, Some(&miss.key));
        call.has_stale = true;
        let rejection = self.origin.check_admission(&miss.request.target, &call)?;
        self.stale_for_rejection(miss, rejection)
    }

    /// The stored response that may be served on errors, unless its right to that has ended since the
    /// lookup.
    fn fallback_response<'p>(&self, miss: &'p Miss<'_>) -> Option<&'p Arc<StoredResponse>> {
        let stored = miss.stored.as_ref().filter(|_| miss.fallback)?;
        self.may_serve_on_error(&miss.key, stored).then_some(stored)
    }

    /// The stored response in place of a call that is not made.
    fn stale_for_rejection(&self, miss: &Miss<'_>, rejection: Rejection) -> Option<ClientResponse> {
        let stored = self.fallback_response(miss)?;
        let now = self.clock.now();
        let failure = rejection.error_class()?;
        let ttl = stale_if_error(miss.request, miss.policy, miss.cache, stored, failure, now)?;
        let cause = rejection.reason.token();
        self.telemetry.stale_served(miss.route.index, cause);
        let status = CacheStatus::hit(ttl).detail("stale-if-error", cause);
        Some(ClientResponse::from_stored(miss.request, stored, now, &status, ResultKind::Stale))
    }

    /// Handles the end of the wait without a head: serves a stale response if there is one. Otherwise
    /// the client fetches separately as soon as few enough others do, or takes the state of the fill if
    /// that comes first.
    async fn on_wait_timeout(
        &self,
        miss: &Miss<'_>,
        fetch: &Arc<InFlightFetch>,
    ) -> Result<FillState, WaitOutcome> {
        let reason = Reason::CoalesceWait;
        if let Some(reply) = self.stale_response(miss, decide::ErrorClass::Timeout, None, reason) {
            return Err(WaitOutcome::reply(reply));
        }
        if fetch.is_queued.load(Ordering::Relaxed) {
            return Ok(fetch.published().await);
        }
        tokio::select! {
            published = fetch.published() => Ok(published),
            Ok(permit) = Arc::clone(&fetch.separate_fetches).acquire_owned() => {
                Err(WaitOutcome::FetchSeparately(Some(permit)))
            }
        }
    }

    fn respond_failed(&self, miss: &Miss<'_>, failure: UpstreamError) -> ClientResponse {
        let stale = if let UpstreamError::Rejected(rejection) = failure {
            self.stale_for_rejection(miss, rejection)
        } else {
            failure
                .error_class()
                .and_then(|error| self.stale_response(miss, error, None, Reason::Error(failure)))
        };
        stale.unwrap_or_else(|| {
            if let UpstreamError::Denied(reason) = failure {
                self.telemetry.denied(reason.token());
            }
            let status = failure.cache_status(miss.reason);
            ClientResponse::from_problem(miss.request, &failure.problem(), &status)
                .with_forward_reason(miss.reason)
        })
    }

    fn respond_revalidated(
        &self,
        miss: &Miss<'_>,
        stored: &StoredResponse,
        kept: bool,
        role: Role,
    ) -> ClientResponse {
        let now = self.clock.now();
        let mut status =
            CacheStatus::forwarded(miss.reason.token()).status(StatusCode::NOT_MODIFIED);
        if kept {
            status = status.stored().ttl(miss.ttl(stored, now));
        }
        if role == Role::Waiter {
            status = status.collapsed();
        }
        let result = match role {
            Role::Leader => ResultKind::Revalidated,
            Role::Waiter => ResultKind::Coalesced,
        };
        ClientResponse::from_stored(miss.request, stored, now, &status, result)
            .with_forward_reason(miss.reason)
    }

    /// The waiter's result for a head: a stale response instead of an error, a shared body, or neither.
    fn respond_shared(
        &self,
        miss: &Miss<'_>,
        head: &ResponseHead,
        reader: BodyReader,
    ) -> WaitOutcome {
        if let Some(reply) = self.stale_for_error(miss, head) {
            return WaitOutcome::reply(reply);
        }
        if head.shared.is_err() && !head.is_shared_error(miss.policy, miss.cache) {
            return WaitOutcome::FetchSeparately(None);
        }
        match self.other_variant(miss, head) {
            Some(other) => WaitOutcome::OtherVariant(other),
            None => WaitOutcome::reply(Self::respond_growing(miss, head, reader, Role::Waiter)),
        }
    }

    /// The stored response in place of an error response.
    fn stale_for_error(&self, miss: &Miss<'_>, head: &ResponseHead) -> Option<ClientResponse> {
        self.stale_response(miss, head.failure, Some(head.status), head.reason)
    }

    /// The client's variant, if it differs from the fetched one.
    fn other_variant(&self, miss: &Miss<'_>, head: &ResponseHead) -> Option<VariantId> {
        let Vary::Fields(fields) = &head.vary else { return None };
        let variant = self.variant(miss.request, fields);
        (head.variant != Some(variant)).then_some(variant)
    }

    fn respond_growing(
        miss: &Miss<'_>,
        head: &ResponseHead,
        reader: BodyReader,
        role: Role,
    ) -> ClientResponse {
        let mut status = CacheStatus::forwarded(miss.reason.token()).status(head.status);
        if head.shared.is_ok() {
            let ttl = miss.ttl_of(head.policy_status(), &head.metadata, head.received);
            status = status.stored().ttl(ttl);
        }
        if role == Role::Waiter {
            status = status.collapsed();
        }
        if let Some((name, reason)) = head.detail {
            status = status.detail(name, reason.token());
        }
        let mut headers = match (role, &head.shared) {
            (Role::Waiter, Ok(shared)) => shared.clone(),
            (Role::Leader, _) | (Role::Waiter, Err(_)) => head.own.clone(),
        };
        status.append_to(&mut headers);
        let metadata = &head.metadata;
        let mut reply = ClientResponse::from_growing(
            miss.request,
            metadata,
            head.status,
            headers,
            head.length,
            reader,
        );
        if role == Role::Waiter {
            reply.result = ResultKind::Coalesced;
        }
        reply.with_forward_reason(miss.reason)
    }

    /// The stored response in place of an error, if policy and origin allow it.
    fn stale_response(
        &self,
        miss: &Miss<'_>,
        failure: decide::ErrorClass,
        origin_status: Option<StatusCode>,
        reason: Reason,
    ) -> Option<ClientResponse> {
        let stored = self.fallback_response(miss)?;
        let now = self.clock.now();
        let ttl = stale_if_error(miss.request, miss.policy, miss.cache, stored, failure, now)?;
        let mut status = CacheStatus::forwarded(miss.reason.token()).ttl(ttl);
        if let Some(origin_status) = origin_status {
            status = status.status(origin_status);
        }
        let status = status.detail("stale-if-error", reason.token());
        self.telemetry.stale_served(miss.route.index, reason.token());
        let reply =
            ClientResponse::from_stored(miss.request, stored, now, &status, ResultKind::Stale);
        Some(reply.with_forward_reason(miss.reason))
    }

    /// The response when too many requests wait for this key.
    pub(crate) fn too_many_waiters(&self, miss: &Miss<'_>) -> ClientResponse {
        let reason = Reason::Waiters;
        if let Some(reply) = self.stale_response(miss, decide::ErrorClass::Timeout, None, reason) {
            return reply;
        }
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "waiters_per_key",
            "too many requests wait for this response already; see limits.waiters_per_key",
            "connection_limit_reached",
        )
        .retry_after(1);
        let status = CacheStatus::forwarded(miss.reason.token());
        ClientResponse::from_problem(miss.request, &problem, &status)
            .with_forward_reason(miss.reason)
    }
}
