//! HTTP client for calls to origins over the network.
//!
//! Owns: deadlines up to the response head and between pieces of a body; transparent retries, which are
//! always safe: after a dead pooled connection, and for a request that the origin reports as not processed.
//! Never touches: clients, the store, configured retries (`retry`).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use pingora_core::upstreams::peer::HttpPeer;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::policy::upstream::OutcomeClass;
use crate::semantics::connection_auth;
use crate::semantics::event_stream;
use crate::semantics::field_case::FieldCase;
use crate::semantics::hop_by_hop;
use crate::semantics::request::RequestFraming;
use crate::semantics::target::{Scheme, Target};
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::refusal_capture::CapturedBody;
use crate::upstream::admission::rejection::Rejection;
use crate::upstream::admission::{AdmissionControl, Permit, ReplayedRefusal};
use crate::upstream::connect::parent::{Hop, HopTarget};
use crate::upstream::connect::parent_path::Destination;
use crate::upstream::connect::peer::peer;
use crate::upstream::connect::pool::{CallChannel, ConnectionOwner, ConnectionPool, ConnectionUse};
use crate::upstream::connect::resolve::Resolver;
pub use crate::upstream::connect::session::AttemptError;
use crate::upstream::connect::session::{OutgoingRequest, SessionError, SessionEvent, UpstreamHead};
use crate::upstream::connect::tls_config::TlsConfigs;
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::interim::{Interim, Interims};
use crate::upstream::outcome::CallOutcome;
use crate::upstream::outcome::body_inspection::{self, InspectedBody};
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::reason::Reason;
use crate::upstream::routing::{UpstreamTable, UpstreamTarget};
use crate::upstream::{Body, BodyFraming, Origin, UpstreamRequest, UpstreamResponse};

/// Transparent retries of a call that the origin reports as not processed.
const MAX_NOT_PROCESSED: u32 = 2;

/// Makes calls to origins over the network.
pub struct HttpClient {
    /// Connections to origins.
    pub pool: ConnectionPool,
    /// Maps hosts to upstreams.
    pub upstreams: Arc<UpstreamTable>,
    /// Resolves names to permitted addresses.
    pub resolver: Arc<Resolver>,
    /// Admission control, shared by fills and pass-through.
    pub admission: AdmissionControl,
    /// Counts buffered body bytes, including bodies that rules inspect.
    pub in_flight: Arc<InFlightBytes>,
    /// TLS to origins.
    pub tls_configs: TlsConfigs,
    /// The clock.
    pub clock: Clock,
}

impl HttpClient {
    /// Begins a call to `destination` on a connection of `owner`.
    pub async fn begin(
        &self,
        destination: &UpstreamTarget,
        request: &OutgoingRequest,
        connection_use: ConnectionUse,
        owner: ConnectionOwner,
    ) -> Result<CallChannel, AttemptError> {
        let (mut peer, hop) = self.peer(destination, request).await.map_err(AttemptError::Failed)?;
        if matches!(owner, ConnectionOwner::Pool)
            && let Some(credentials_hash) = connection_auth::unknown_scheme_hash(&request.headers)
        {
            peer.group_key ^= credentials_hash;
        }
        if let Some(Hop { target: HopTarget::Requests, proxy, .. }) = hop {
            let to_proxy = request.in_absolute_form(proxy.authorization());
            let mut channel = self.pool.begin(&peer, &to_proxy, connection_use, owner).await?;
            channel.is_to_parent = true;
            return Ok(channel);
        }
        self.pool.begin(&peer, request, connection_use, owner).await
    }

    /// The peer of a call, and the parent proxy on the way.
    async fn peer(
        &self,
        destination: &UpstreamTarget,
        request: &OutgoingRequest,
    ) -> Result<(HttpPeer, Option<Hop>), UpstreamError> {
        let UpstreamTarget { ref host, port, ref proxy, .. } = *destination;
        let listener = request.listener;
        // A proxy does not forward a switch to another protocol (RFC 9110 §7.8), but a tunnel does.
        let absolute_form = destination.scheme == Scheme::Http && request.upgrade.is_none();
        let to = Destination { host, port, proxy: proxy.as_ref(), absolute_form, listener };
        let lookup = timeout(destination.timeouts.connect, self.resolver.path(to));
        let path = lookup.await.map_err(|_elapsed| UpstreamError::Dns)??;
        let hop = path.hop.clone();
        let peer = peer(destination, listener, path, self.resolver.preferred(), &self.tls_configs)?;
        Ok((peer, hop))
    }

    async fn attempt(
        &self,
        call: &UpstreamRequest,
        connection_use: ConnectionUse,
        permit: &mut Permit,
    ) -> Result<UpstreamResponse, AttemptError> {
        let (request, destination) = (outgoing(call), call.context.target());
        let mut channel =
            self.begin(destination, &request, connection_use, ConnectionOwner::default()).await?;
        let request_time = self.clock.now();
        let head = match head_in_time(&mut channel, call, permit).await {
            Some(Ok(head)) => head,
            Some(Err(error)) => return Err(channel.attempt_error(error)),
            None => {
                channel.stop_reuse();
                return Err(AttemptError::Failed(UpstreamError::FirstByteTimeout));
            }
        };
        if connection_auth::is_in_response(&head.headers) {
            channel.set_owner(ConnectionOwner::Call);
        }
        let body = response_body(&head.headers, channel, destination);
        Ok(UpstreamResponse {
            status: head.status,
            headers: head.headers,
            request_time,
            response_time: self.clock.now(),
            framing: head.framing,
            storing_limit: destination.timeouts.storing_limit(),
            outcome: CallOutcome::from_class(OutcomeClass::Ok),
            body_uninspected: false,
            wait_reason: None,
            body,
        })
    }
}

/// Counts the transparent retries of one call; they are not charged to the retry budget.
#[derive(Debug, Default)]
pub struct TransparentRetries {
    not_processed: u32,
    reconnected: bool,
}

impl TransparentRetries {
    /// Whether to send a call, whose request is still complete, once more on a new connection.
    pub fn should_retry(&mut self, attempt: AttemptError, idempotent: bool) -> bool {
        match attempt {
            // RFC 9113 §8.7: safe for every method.
            AttemptError::NotProcessed => {
                self.not_processed += 1;
                self.not_processed <= MAX_NOT_PROCESSED
            }
            AttemptError::DeadConnection if idempotent => !std::mem::replace(&mut self.reconnected, true),
            AttemptError::DeadConnection | AttemptError::SignedOut | AttemptError::Failed(_) => false,
        }
    }
}

#[async_trait]
impl Origin for HttpClient {
    async fn fetch(&self, call: &UpstreamRequest) -> Result<UpstreamResponse, UpstreamError> {
        let acquired = self.admission.acquire(call.context.clone()).await;
        let mut permit = acquired.map_err(UpstreamError::Rejected)?;
        let (mut repeats, mut connection_use) = (TransparentRetries::default(), ConnectionUse::Pooled);
        loop {
            match self.attempt(call, connection_use, &mut permit).await {
                Ok(response) => {
                    return classify_response(response, &call.context, &mut permit, &self.in_flight).await;
                }
                // A `GET` is idempotent, but a slow response is not asked for again.
                Err(attempt) if repeats.should_retry(attempt, !permit.is_slow()) => {
                    self.admission.record_reconnect(&call.context.routed);
                    connection_use = ConnectionUse::New;
                }
                Err(attempt) => {
                    permit.on_failure(attempt.upstream_error());
                    return Err(attempt.upstream_error());
                }
            }
        }
    }

    fn check_admission(&self, call: &CallContext) -> Option<Rejection> {
        self.admission.check_admission(call)
    }

    fn on_failed_body(&self, call: &CallContext, failure: UpstreamError) {
        self.admission.on_failed_body(call, failure);
    }

    fn on_cut_refresh(&self, call: &CallContext, failure: UpstreamError) {
        self.admission.on_cut_refresh(call, failure);
    }

    fn try_acquire_retry(&self, call: &CallContext, reason: Reason, wait: Duration) -> bool {
        self.admission.try_acquire_retry(call, reason, wait)
    }

    fn are_retries_paused(&self, call: &CallContext) -> bool {
        self.admission.are_retries_paused(call)
    }

    fn pause_retries(&self, call: &CallContext) {
        self.admission.pause_retries(call);
    }

    fn last_refusal(&self, call: &CallContext, rejection: Rejection) -> Option<ReplayedRefusal> {
        self.admission.last_refusal(call, rejection)
    }

    fn canonical_target(&self, target: &Target) -> Option<Target> {
        self.upstreams.canonical_target(target)
    }
}

/// Classifies the response. If a rule inspects bodies, the body is read first.
async fn classify_response(
    mut response: UpstreamResponse,
    call: &CallContext,
    permit: &mut Permit,
    in_flight: &Arc<InFlightBytes>,
) -> Result<UpstreamResponse, UpstreamError> {
    let mut inspected = InspectedBody::NotJson;
    if permit.reads_body_of(response.status) && response.framing != BodyFraming::Length(0) {
        if response.status.is_success() {
            permit.release_probe();
        }
        let reading = body_inspection::read(&response.headers, response.body, in_flight);
        let limit = response.storing_limit;
        let Some((read, body)) = in_time(reading, limit, call, permit).await else {
            if response.status.is_success() {
                permit.on_client_gone();
            }
            permit.on_failure(UpstreamError::TotalTimeout);
            return Err(UpstreamError::TotalTimeout);
        };
        (inspected, response.body) = (read, body);
    }
    response.outcome = permit.on_response(response.status, &response.headers, inspected.json());
    response.body_uninspected =
        inspected == InspectedBody::Unread && permit.body_affects_outcome(response.status);
    response.wait_reason = permit.waited();
    if let Some(capture) = permit.capture_refusal(response.status, &response.headers) {
        response.body = Box::new(CapturedBody { body: response.body, capture: Some(capture) });
    }
    Ok(response)
}

fn outgoing(call: &UpstreamRequest) -> OutgoingRequest {
    let (request, upstream) = (&call.context.routed.request, call.context.target());
    let mut headers = call.headers.clone();
    // Only responses to GET and HEAD are stored.
    let method = if request.method == Method::HEAD { Method::HEAD } else { Method::GET };
    upstream.apply_upstream_headers(&method, &mut headers);
    OutgoingRequest {
        method,
        scheme: upstream.scheme.as_str(),
        authority: upstream.authority(),
        path: request.target.path_and_query().to_owned(),
        listener: request.listener,
        headers,
        spelling: FieldCase::default(),
        body: RequestFraming::None,
        upgrade: None,
        trailers: false,
    }
}

/// The head of the final response; `None`: the deadline has passed. At a soft deadline before it the call counts
/// as slow and goes on.
async fn head_in_time(
    channel: &mut CallChannel,
    call: &UpstreamRequest,
    permit: &mut Permit,
) -> Option<Result<UpstreamHead, SessionError>> {
    let limit = call.context.target().timeouts.head_limit();
    in_time(final_head(channel, call.interims.as_deref()), limit, &call.context, permit).await
}

/// The result of what the client waits for before its first byte; `None`: the limit has passed. At a soft deadline
/// before it the call counts as slow, once, and goes on.
async fn in_time<T>(
    work: impl Future<Output = T>,
    limit: Duration,
    call: &CallContext,
    permit: &mut Permit,
) -> Option<T> {
    let mut work = pin!(work);
    let soft = call.target().timeouts.first_byte.soft().filter(|soft| *soft < limit && !permit.is_slow());
    let Some(soft) = soft else { return timeout(limit, work).await.ok() };
    if let Ok(done) = timeout(soft, &mut work).await {
        return Some(done);
    }
    permit.on_slow(false);
    call.on_slow.call();
    timeout(limit.saturating_sub(soft), work).await.ok()
}

/// Reads up to the head of the final response; interim heads are passed on.
async fn final_head(
    channel: &mut CallChannel,
    interims: Option<&Interims>,
) -> Result<UpstreamHead, SessionError> {
    loop {
        let head = match channel.next(true).await? {
            SessionEvent::Head(head) => head,
            SessionEvent::SendReady => continue,
            SessionEvent::Data(_) | SessionEvent::End(_) => return Err(SessionError::Protocol),
        };
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(SessionError::Switched),
            // No client of a fill waits for a 100.
            StatusCode::CONTINUE => {}
            status if status.is_informational() => {
                if let Some(interims) = interims {
                    let mut headers = head.headers;
                    hop_by_hop::strip(&mut headers);
                    interims.push(Interim { status, headers });
                }
            }
            _ => return Ok(*head),
        }
    }
}

/// The response body that follows a head received on `channel`.
pub fn response_body(
    headers: &HeaderMap,
    channel: CallChannel,
    destination: &UpstreamTarget,
) -> Box<dyn Body> {
    // An event stream may be silent between events.
    let between_bytes = (!event_stream::is_response(headers)).then_some(destination.timeouts.body_limit());
    Box::new(NetworkBody { channel: Some(channel), between_bytes })
}

/// A body that is read from a connection; the connection is released after the last piece.
struct NetworkBody {
    channel: Option<CallChannel>,
    /// `None`: no deadline between pieces.
    between_bytes: Option<Duration>,
}

#[async_trait]
impl Body for NetworkBody {
    fn receive_window(&self) -> usize {
        self.channel.as_ref().map_or(0, CallChannel::receive_window)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let Some(channel) = self.channel.as_mut() else { return Ok(None) };
            let next = channel.next(true);
            let next = match self.between_bytes {
                Some(limit) => timeout(limit, next).await,
                None => Ok(next.await),
            };
            match next {
                Ok(Ok(SessionEvent::Data(piece))) => return Ok(Some(piece)),
                Ok(Ok(SessionEvent::SendReady)) => {}
                Ok(Ok(SessionEvent::End(_trailers))) => self.channel = None,
                Ok(Ok(SessionEvent::Head(_)) | Err(_)) => {
                    self.channel = None;
                    return Err(UpstreamError::Cut);
                }
                Err(_elapsed) => {
                    channel.stop_reuse();
                    self.channel = None;
                    return Err(UpstreamError::BodyTimeout);
                }
            }
        }
    }
}
