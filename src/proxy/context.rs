//! What is known about one exchange while it lasts.
//!
//! Owns: the facts that its steps hand from one to the next, and its record at the end. Never touches:
//! acting on them.

use std::time::Instant;

use http::{HeaderValue, StatusCode};

use crate::clock;
use crate::decide::ForwardReason;
use crate::engine::head_update::PassThroughStart;
use crate::engine::store_post::PostCapture;
use crate::engine::unsafe_request::UnknownOutcomeGuard;
use crate::frontend::session::{ClientError, ClientSession};
use crate::proxy::body_capture::BodyCapture;
use crate::proxy::retry::RetryContext;
use crate::proxy::upload::RequestUpload;
use crate::semantics::invalidation;
use crate::semantics::request::{ProxyRequest, RequestFraming};
use crate::telemetry::{RequestEvent, ResultKind, Telemetry};
use crate::upstream::admission::Permit;
use crate::upstream::error::UpstreamError;

/// One exchange.
pub(super) struct RequestContext {
    pub(super) route: usize,
    pub(super) since: Instant,
    pub(super) result: ResultKind,
    /// Why it is passed through.
    pub(super) why: ForwardReason,
    /// The token recorded as the reason of a miss.
    pub(super) miss: Option<&'static str>,
    pub(super) error: Option<&'static str>,
    /// The last member of `Cache-Status` that the client got.
    pub(super) cache_status: Option<HeaderValue>,
    /// When it was passed through: its answer may bear on what is stored.
    pub(super) sent: Option<PassThroughStart>,
    /// What may have come of it, until that is known.
    pub(super) doubt: Option<UnknownOutcomeGuard>,
    /// The answer to a `POST` that is stored for later `GET`s.
    pub(super) recording: Option<PostCapture>,
    /// The pass-through's call at the gate.
    pub(super) pass: Option<Permit>,
    /// Its tries.
    pub(super) tries: RetryContext,
    /// It is held up by its client, and holds nobody up at the gate.
    pub(super) aside: bool,
    /// The answer's body, where a rule reads it as it passes.
    pub(super) copy: Option<BodyCapture>,
    /// It goes over a connection on which its client signs in, or has: what is stored is none of its
    /// business.
    pub(super) signed_in: bool,
    /// Bytes of the answer's body that came for this client alone.
    pub(super) upstream_bytes: u64,
    /// Bytes of the body that came for it by a fill that it began.
    pub(super) filled_bytes: u64,
    /// Its client got an error of larder's own.
    pub(super) is_larders: bool,
}

/// How an exchange ended, if not with a whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExchangeFailure {
    /// By its client.
    Client(ClientError),
    /// The answer was cut on its way to larder.
    Answer(UpstreamError),
}

impl From<ClientError> for ExchangeFailure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl RequestContext {
    /// An exchange that begins now; `route` is the index that stands for no route.
    pub(super) fn new(route: usize) -> Self {
        Self {
            route,
            since: clock::monotonic(),
            result: ResultKind::Bypass,
            why: ForwardReason::Bypass,
            miss: None,
            error: None,
            cache_status: None,
            sent: None,
            doubt: None,
            recording: None,
            pass: None,
            tries: RetryContext::default(),
            aside: false,
            copy: None,
            signed_in: false,
            upstream_bytes: 0,
            filled_bytes: 0,
            is_larders: false,
        }
    }

    /// The origin has answered, so what came of the call is known; a gateway does not know.
    pub(super) async fn answered(&mut self, status: StatusCode) {
        if let Some(doubt) = self.doubt.take() {
            if invalidation::leaves_open(status) { doubt.stays().await } else { doubt.resolved() }
        }
    }

    /// It has not, and will not.
    pub(super) async fn unanswered(&mut self, failure: UpstreamError) {
        if let Some(doubt) = self.doubt.take() {
            // RFC 9113 §8.7: then nothing came of it.
            if failure == UpstreamError::NotProcessed {
                doubt.resolved()
            } else {
                doubt.stays().await
            }
        }
    }

    /// The client is slow: others need not wait for what this call finds out.
    pub(super) fn step_aside(&mut self) {
        self.aside = true;
        if let Some(pass) = &mut self.pass {
            pass.step_aside();
        }
    }

    /// Returns once others wait for the place that its client makes it hold.
    pub(super) async fn has_to_make_way(&self) {
        match self.pass.as_ref().and_then(Permit::way) {
            Some(way) => way.notified().await,
            None => std::future::pending().await,
        }
    }

    /// An origin that ends a connection before all of a body was sent may refuse the body: that says nothing
    /// of how it is.
    pub(super) fn spare_the_origin(
        &mut self,
        asked: &ProxyRequest,
        failure: UpstreamError,
        upload: &RequestUpload,
    ) {
        let sending = asked.body != RequestFraming::None && !upload.is_sent();
        if sending && failure == UpstreamError::Closed {
            self.pass = None;
        }
    }

    /// The exchange was broken off.
    pub(super) fn broken(&mut self, why: ExchangeFailure) {
        self.result = ResultKind::Error;
        self.error = Some(match why {
            ExchangeFailure::Client(ClientError::Malformed) => "malformed_body",
            ExchangeFailure::Client(ClientError::Gone | ClientError::Stalled) => "client_gone",
            ExchangeFailure::Answer(failure) => failure.token(),
        });
    }

    /// Records the exchange, which is over.
    pub(super) fn record(
        &self,
        asked: &ProxyRequest,
        client: Option<&ClientSession>,
        account: &Telemetry,
    ) {
        account.record(&RequestEvent {
            route: self.route,
            result: self.result,
            why: self.miss,
            method: &asked.method,
            host: asked.target.host(),
            port: asked.target.port(),
            path: asked.target.path(),
            status: client.map_or(Some(StatusCode::SWITCHING_PROTOCOLS), ClientSession::status),
            cache_status: self.cache_status.as_ref().and_then(|value| value.to_str().ok()),
            error: self.error,
            duration: clock::monotonic().saturating_duration_since(self.since),
            client_bytes: client.map_or(self.upstream_bytes, ClientSession::body_bytes),
            upstream_bytes: self.upstream_bytes,
            filled_bytes: self.filled_bytes,
            is_larders: self.is_larders,
        });
    }
}
