//! The state of one exchange (request and response) while it lasts.
//!
//! Owns: the data that its steps share, and its telemetry record at the end. Never touches: decisions.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::decide::ForwardReason;
use crate::engine::pass_through::PassThroughStart;
use crate::engine::pass_through::store_post::PostCapture;
use crate::engine::purger::UnknownOutcomeGuard;
use crate::frontend::session::{ClientError, ClientSession};
use crate::proxy::ProxyHandler;
use crate::proxy::body_capture::BodyCapture;
use crate::proxy::upload::RequestUpload;
use crate::semantics::invalidation;
use crate::semantics::request::{ProxyRequest, RequestFraming};
use crate::telemetry::{RequestEvent, ResultKind};
use crate::upstream::admission::Permit;
use crate::upstream::admission::refusal_capture::RefusalCapture;
use crate::upstream::outcome::body_inspection::InspectedBody;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::retry::RetryState;
use crate::upstream::routed_request::RoutedRequest;

/// The state of one exchange.
pub(super) struct RequestContext {
    pub(super) since: Instant,
    pub(super) result: ResultKind,
    /// The reason why the request passes through.
    pub(super) forward_reason: ForwardReason,
    /// The recorded reason of a miss.
    pub(super) response_forward_reason: Option<ForwardReason>,
    pub(super) error: Option<&'static str>,
    /// The last member of `Cache-Status` that the client got.
    pub(super) cache_status: Option<HeaderValue>,
    /// The start of the pass-through call, for the effects of its response on stored entries.
    pub(super) pass_through_start: Option<PassThroughStart>,
    /// Guard of an unsafe request while its effect at the origin is unknown.
    pub(super) unknown_outcome: Option<UnknownOutcomeGuard>,
    /// The response to a `POST` that is captured for later `GET`s.
    pub(super) post_capture: Option<PostCapture>,
    /// The permit of the pass-through call.
    pub(super) permit: Option<Permit>,
    /// The state of its attempts; set when the first one begins.
    pub(super) retry: Option<RetryState>,
    /// The wait before the next attempt.
    pub(super) retry_wait: Option<Duration>,
    /// Set while the client delays the call; other calls then do not wait for its outcome.
    pub(super) stepped_aside: bool,
    /// A copy of the response body if a rule inspects it.
    pub(super) body_capture: Option<BodyCapture>,
    /// A copy of a response that refuses the call.
    pub(super) refusal: Option<RefusalCapture>,
    /// Set if the call uses a connection with a sign-in of its client; the response then does not affect
    /// stored entries.
    pub(super) signed_in: bool,
    /// Bytes of the response body that were received for this client only.
    pub(super) upstream_bytes: u64,
    /// Bytes of the response body that were received by a fill that this request began.
    pub(super) filled_bytes: u64,
    /// Set if the client got an error that larder generated.
    pub(super) is_own_error: bool,
}

/// The reason why an exchange ended without a complete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExchangeFailure {
    /// The client failed.
    Client(ClientError),
    /// The origin's response broke off.
    Response(UpstreamError),
}

impl From<ClientError> for ExchangeFailure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl RequestContext {
    /// An exchange that begins now.
    pub(super) fn new(since: Instant) -> Self {
        Self {
            since,
            result: ResultKind::Bypass,
            forward_reason: ForwardReason::Bypass,
            response_forward_reason: None,
            error: None,
            cache_status: None,
            pass_through_start: None,
            unknown_outcome: None,
            post_capture: None,
            permit: None,
            retry: None,
            retry_wait: None,
            stepped_aside: false,
            body_capture: None,
            refusal: None,
            signed_in: false,
            upstream_bytes: 0,
            filled_bytes: 0,
            is_own_error: false,
        }
    }

    /// Handles the status of the response, after which the effect of the call is known, unless a gateway
    /// generated the response.
    pub(super) async fn on_response(&mut self, status: StatusCode) {
        if let Some(guard) = self.unknown_outcome.take() {
            if invalidation::leaves_outcome_unknown(status) {
                guard.invalidate_unresolved().await;
            } else {
                guard.resolved();
            }
        }
    }

    /// Handles a call that has finally failed without a response.
    pub(super) async fn on_failure(&mut self, failure: UpstreamError) {
        if let Some(guard) = self.unknown_outcome.take() {
            // RFC 9113 §8.7: the call had no effect.
            if failure == UpstreamError::NotProcessed {
                guard.resolved();
            } else {
                guard.invalidate_unresolved().await;
            }
        }
    }

    /// The client is slow: other calls no longer wait for the outcome of this one.
    pub(super) fn step_aside(&mut self) {
        self.stepped_aside = true;
        if let Some(permit) = &mut self.permit {
            permit.on_client_stalled();
        }
    }

    /// Whether the soft deadline for the head has passed: the call is not repeated.
    pub(super) fn is_slow(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_slow)
    }

    /// Returns once other calls wait for the permit that the call keeps because of its client.
    pub(super) async fn preempted(&self) {
        match self.permit.as_ref().and_then(Permit::preemption) {
            Some(way) => way.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Drops the permit without an outcome if the origin closed the connection before the whole body was
    /// sent: it may have refused the body, which does not show a fault of the origin.
    pub(super) fn ignore_early_close(
        &mut self,
        request: &ProxyRequest,
        failure: UpstreamError,
        upload: &RequestUpload,
    ) {
        let is_incomplete = request.body != RequestFraming::None && !upload.is_sent();
        if is_incomplete && failure == UpstreamError::Closed {
            self.permit = None;
        }
    }

    /// Records the failure of the exchange.
    pub(super) fn set_failure(&mut self, failure: ExchangeFailure) {
        self.result = ResultKind::Error;
        self.error = Some(match failure {
            ExchangeFailure::Client(ClientError::Malformed) => "malformed_body",
            ExchangeFailure::Client(ClientError::Gone | ClientError::Stalled) => "client_gone",
            ExchangeFailure::Response(error) => error.token(),
        });
    }

    /// Records the completed exchange in the telemetry.
    pub(super) fn record(
        &self,
        routed: &RoutedRequest,
        client: Option<&ClientSession>,
        handler: &ProxyHandler,
    ) {
        let request = &routed.request;
        handler.telemetry.record(&RequestEvent {
            route: routed.route_index,
            result: self.result,
            forward_reason: self.response_forward_reason,
            method: &request.method,
            host: request.target.host(),
            port: request.target.port(),
            path: request.target.path(),
            status: client.map_or(Some(StatusCode::SWITCHING_PROTOCOLS), ClientSession::status),
            cache_status: self.cache_status.as_ref().and_then(|value| value.to_str().ok()),
            error: self.error,
            duration: handler.clock.instant().saturating_duration_since(self.since),
            client_bytes: client.map_or(self.upstream_bytes, ClientSession::body_bytes),
            upstream_bytes: self.upstream_bytes,
            filled_bytes: self.filled_bytes,
            is_own_error: self.is_own_error,
        });
    }
}

impl RequestContext {
    /// Captures a piece of a response body that passes through.
    pub(super) fn capture_piece(&mut self, piece: &Bytes) {
        // First, as the rules may find that the response must not be stored.
        if let Some(capture) = self.body_capture.take_if(|capture| !capture.push(piece)) {
            self.skip_inspection(capture.status);
        }
        self.post_capture.take_if(|capture| !capture.push(piece));
        self.refusal.take_if(|refusal| !refusal.push(piece));
    }

    /// Applies the rules to the complete body. A large body is parsed outside the worker threads.
    pub(super) async fn inspect_body(&mut self) {
        let Some(capture) = self.body_capture.take() else { return };
        let inspected = capture.parse().await;
        let Some(permit) = &mut self.permit else { return };
        match inspected {
            InspectedBody::Json(json) if permit.on_body(capture.status, &capture.headers, &json) => {}
            // An error that is only visible in the body is not stored.
            InspectedBody::Json(_) => self.post_capture = None,
            InspectedBody::NotJson => permit.finish_without_body(),
            InspectedBody::Unread => self.skip_inspection(capture.status),
        }
    }

    /// Ends the call without inspection. The response may be an error, so it is not stored.
    fn skip_inspection(&mut self, status: StatusCode) {
        let Some(permit) = &mut self.permit else { return };
        permit.finish_without_body();
        if permit.body_affects_outcome(status) {
            self.post_capture = None;
        }
    }
}
