//! Chooses the response to a client: a hit, a response of a fill, a stale response in place of an error, or
//! an error of larder.
//!
//! Owns: when a stale response replaces an error, and what `Cache-Status` says. Never touches: lookups,
//! calls to the origin, the parts of a response that the client receives (`response`).

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;

use crate::clock::Clock;
use crate::decide::{
    CacheLookup, Decision, ErrorClass, ForwardReason, StaleReason, decide, decide_offline, stale_if_error,
};
use crate::engine::body::BodyReader;
use crate::engine::deps::EngineDeps;
use crate::engine::entry_updates::EntryUpdates;
use crate::engine::inflight::ResponseHead;
use crate::engine::miss::Miss;
use crate::engine::mode::{ModeSwitch, OFFLINE_PROBLEM};
use crate::engine::refusal_replay::RefusalReplay;
use crate::engine::response::ClientResponse;
use crate::key::CacheKey;
use crate::policy::Mode;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::request::ProxyRequest;
use crate::stored::StoredResponse;
use crate::telemetry::problem::Problem;
use crate::telemetry::{ResultKind, Telemetry};
use crate::upstream::admission::rejection::Rejection;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::reason::Reason;
use crate::upstream::retry::AttemptFailure;
use crate::upstream::routed_request::RoutedRequest;

/// RFC 9111 §5.2.1.7.
const ONLY_IF_CACHED: Problem = Problem::new(
    StatusCode::GATEWAY_TIMEOUT,
    "only_if_cached",
    "nothing usable is stored and the request contains only-if-cached",
    "http_request_denied",
);

/// The client's role in a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Leads the fill and gets its response in every case.
    Leader,
    /// Waits for a fill that another client leads.
    Waiter,
}

/// Chooses responses.
pub(crate) struct Responder {
    updates: Arc<EntryUpdates>,
    telemetry: Arc<Telemetry>,
    switch: Arc<ModeSwitch>,
    refusals: RefusalReplay,
    clock: Clock,
}

impl Responder {
    pub(super) fn new(deps: &EngineDeps, updates: &Arc<EntryUpdates>) -> Arc<Self> {
        let (telemetry, switch) = (Arc::clone(&deps.telemetry), Arc::clone(&deps.switch));
        let refusals = RefusalReplay::new(&deps.origin, &deps.key_builder);
        let (updates, clock) = (Arc::clone(updates), deps.clock.clone());
        Arc::new(Self { updates, telemetry, switch, refusals, clock })
    }

    /// Decides on `routed` given what is stored under `key`.
    pub(super) fn decide(
        &self,
        routed: &RoutedRequest,
        key: &CacheKey,
        found: CacheLookup<'_>,
        now: SystemTime,
    ) -> Decision {
        let input = routed.decision_input(key, now);
        match self.switch.mode() {
            Mode::Offline => decide_offline(&input, found),
            // In bypass mode requests do not come here; a mode change in between applies to the next request.
            Mode::Cache | Mode::Bypass => decide(&input, found),
        }
    }

    /// While larder is offline: the response to a request that would have to pass through.
    pub(super) fn offline(&self, request: &ProxyRequest) -> Option<ClientResponse> {
        let status = CacheStatus::refused().detail(Mode::Offline.token(), "");
        (self.switch.mode() == Mode::Offline)
            .then(|| ClientResponse::from_problem(request, &OFFLINE_PROBLEM, &status))
    }

    /// The response to a request for which no upstream call may be made.
    pub(super) fn offline_or_504(&self, request: &ProxyRequest) -> ClientResponse {
        let status = CacheStatus::refused().detail("only-if-cached", "");
        self.offline(request)
            .unwrap_or_else(|| ClientResponse::from_problem(request, &ONLY_IF_CACHED, &status))
    }

    /// The stored response; `stale`: why it may be served although it is not fresh.
    pub(super) fn hit(
        &self,
        routed: &RoutedRequest,
        stored: &StoredResponse,
        (ttl, stale): (i64, Option<StaleReason>),
        now: SystemTime,
    ) -> ClientResponse {
        let status = match stale {
            None => CacheStatus::hit(ttl),
            Some(reason) => {
                self.telemetry.stale_served(routed.route_index, reason.token());
                CacheStatus::hit(ttl).detail(reason.token(), "")
            }
        };
        let result = if stale.is_some() { ResultKind::Stale } else { ResultKind::Hit };
        let reply = ClientResponse::from_stored(&routed.request, stored, now, &status, result);
        if routed.policy.keep_limit_fields { reply.with_limit_fields(stored) } else { reply }
    }

    /// The stored response, if it is fresh and no call is needed.
    pub(super) fn fresh_hit(&self, miss: &Miss<'_>, stored: &StoredResponse) -> Option<ClientResponse> {
        let now = self.clock.now();
        match self.decide(miss.routed, miss.key, CacheLookup::Stored(stored), now) {
            Decision::Serve { ttl, stale: None, refresh: false } => {
                Some(self.hit(miss.routed, stored, (ttl, None), now))
            }
            Decision::Serve { .. } | Decision::Forward { .. } | Decision::Refuse => None,
        }
    }

    /// The stored response in place of the failure of its fill, if policy and origin allow it.
    pub(super) fn stale_for_failed_fill(
        &self,
        miss: &Miss<'_>,
        failure: AttemptFailure,
    ) -> Option<ClientResponse> {
        let (stored, now) = (miss.fallback_response()?, self.clock.now());
        self.stale_if_error(miss.routed, (miss.key, stored), (miss.reason, failure), now)
    }

    /// The stored response in place of an error response.
    pub(super) fn stale_for_error(&self, miss: &Miss<'_>, head: &ResponseHead) -> Option<ClientResponse> {
        self.stale_for_failed_fill(miss, head.failure())
    }

    /// The stored response in place of a failure, if policy and origin allow it. `reason`: why the request was
    /// forwarded.
    pub(super) fn stale_if_error(
        &self,
        routed: &RoutedRequest,
        (key, stored): (&CacheKey, &StoredResponse),
        (reason, failure): (ForwardReason, AttemptFailure),
        now: SystemTime,
    ) -> Option<ClientResponse> {
        let AttemptFailure { class, status: origin_status, reason: cause, .. } = failure;
        let ttl = stale_if_error(&routed.decision_input(key, now), stored, class)?;
        self.updates.may_serve_on_error(key, stored).then_some(())?;
        let mut status = CacheStatus::forwarded(reason.token()).ttl(ttl);
        if let Some(origin_status) = origin_status {
            status = status.status(origin_status);
        }
        let status = status.detail("stale-if-error", cause.token());
        self.telemetry.stale_served(routed.route_index, cause.token());
        let request = &routed.request;
        let reply = ClientResponse::from_stored(request, stored, now, &status, ResultKind::Stale);
        Some(reply.with_forward_reason(reason))
    }

    /// The stored response in place of a call that is not made.
    pub(super) fn stale_without_call(&self, miss: &Miss<'_>, rejection: Rejection) -> Option<ClientResponse> {
        let (stored, now) = (miss.fallback_response()?, self.clock.now());
        self.updates.may_serve_on_error(miss.key, stored).then_some(())?;
        let failure = rejection.error_class()?;
        let ttl = stale_if_error(&miss.decision_input(now), stored, failure)?;
        let cause = rejection.reason.token();
        self.telemetry.stale_served(miss.routed.route_index, cause);
        let status = CacheStatus::hit(ttl).detail("stale-if-error", cause);
        Some(ClientResponse::from_stored(miss.request(), stored, now, &status, ResultKind::Stale))
    }

    /// The response when the fill has failed without a head.
    pub(super) fn failed(&self, miss: &Miss<'_>, failure: UpstreamError) -> ClientResponse {
        let stale = if let UpstreamError::Rejected(rejection) = failure {
            let replay = || self.refusals.response(miss.routed, Some(miss.key), rejection);
            self.stale_without_call(miss, rejection).or_else(replay)
        } else {
            let class = failure.error_class();
            class.and_then(|class| {
                self.stale_for_failed_fill(miss, AttemptFailure::new(class, Reason::Error(failure)))
            })
        };
        stale.unwrap_or_else(|| {
            if let UpstreamError::Denied(reason) = failure {
                self.telemetry.denied(reason.token());
            }
            let status = failure.cache_status(miss.reason);
            ClientResponse::from_problem(miss.request(), &failure.problem(), &status)
                .with_forward_reason(miss.reason)
        })
    }

    /// The stored response that the origin has confirmed. `kept`: whether it stays stored.
    pub(super) fn revalidated(
        &self,
        miss: &Miss<'_>,
        stored: &StoredResponse,
        kept: bool,
        role: Role,
    ) -> ClientResponse {
        let now = self.clock.now();
        let mut status = CacheStatus::forwarded(miss.reason.token()).status(StatusCode::NOT_MODIFIED);
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
        let reply = ClientResponse::from_stored(miss.request(), stored, now, &status, result);
        let reply =
            if miss.routed.policy.keep_limit_fields { reply.with_limit_fields(stored) } else { reply };
        reply.with_forward_reason(miss.reason)
    }

    /// The response of a fill whose body is still arriving.
    pub(super) fn growing(
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
        let mut reply = ClientResponse::from_growing(miss.request(), head, headers, reader);
        if role == Role::Waiter {
            reply.result = ResultKind::Coalesced;
        }
        reply.with_forward_reason(miss.reason)
    }

    /// The response when too many requests wait for this key.
    pub(super) fn too_many_waiters(&self, miss: &Miss<'_>) -> ClientResponse {
        let failure = AttemptFailure::new(ErrorClass::Timeout, Reason::Waiters);
        if let Some(reply) = self.stale_for_failed_fill(miss, failure) {
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
        ClientResponse::from_problem(miss.request(), &problem, &status).with_forward_reason(miss.reason)
    }
}
