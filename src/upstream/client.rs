//! HTTP client for calls to origins over the network.
//!
//! Owns: deadlines up to the response head and between pieces of a body; transparent retries, which are
//! always safe: after a dead pooled connection, and for a request that the origin reports as not processed.
//! Never touches: clients, the store, configured retries (`retry`).

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
use crate::semantics::request::{ListenerKind, RequestFraming};
use crate::semantics::target::Target;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::rejection::Rejection;
use crate::upstream::admission::{AdmissionControl, Permit};
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
        let mut peer = self.peer(destination, request.listener).await.map_err(AttemptError::Failed)?;
        if matches!(owner, ConnectionOwner::Pool)
            && let Some(credentials_hash) = connection_auth::unknown_scheme_hash(&request.headers)
        {
            peer.group_key ^= credentials_hash;
        }
        self.pool.begin(&peer, request, connection_use, owner).await
    }

    async fn peer(
        &self,
        destination: &UpstreamTarget,
        listener: ListenerKind,
    ) -> Result<HttpPeer, UpstreamError> {
        let lookup = timeout(
            destination.timeouts.connect,
            self.resolver.addresses(&destination.host, destination.port, listener),
        );
        let addresses = lookup.await.map_err(|_elapsed| UpstreamError::Dns)??;
        peer(destination, listener, addresses, self.resolver.preferred(), &self.tls_configs)
    }

    async fn attempt(
        &self,
        call: &UpstreamRequest,
        connection_use: ConnectionUse,
    ) -> Result<UpstreamResponse, AttemptError> {
        let (request, destination) = (outgoing(call), call.context.target());
        let mut channel =
            self.begin(destination, &request, connection_use, ConnectionOwner::default()).await?;
        let request_time = self.clock.now();
        let awaited_head = final_head(&mut channel, call.interims.as_deref());
        let head = match timeout(destination.timeouts.first_byte, awaited_head).await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return Err(channel.attempt_error(error)),
            Err(_elapsed) => {
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
            total_timeout: destination.timeouts.total,
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
            match self.attempt(call, connection_use).await {
                Ok(response) => {
                    return classify_response(response, &mut permit, &self.in_flight).await;
                }
                // A `GET` is idempotent.
                Err(attempt) if repeats.should_retry(attempt, true) => {
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

    fn try_acquire_retry(&self, call: &CallContext, reason: Reason, wait: Duration) -> bool {
        self.admission.try_acquire_retry(call, reason, wait)
    }

    fn canonical_target(&self, target: &Target) -> Option<Target> {
        self.upstreams.canonical_target(target)
    }
}

/// Classifies the response. If a rule inspects bodies, the body is read first.
async fn classify_response(
    mut response: UpstreamResponse,
    permit: &mut Permit,
    in_flight: &Arc<InFlightBytes>,
) -> Result<UpstreamResponse, UpstreamError> {
    let mut inspected = InspectedBody::NotJson;
    if permit.reads_body_of(response.status) && response.framing != BodyFraming::Length(0) {
        if response.status.is_success() {
            permit.release_probe();
        }
        let reading = body_inspection::read(&response.headers, response.body, in_flight);
        let Ok((read, body)) = timeout(response.total_timeout, reading).await else {
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
    Ok(response)
}

fn outgoing(call: &UpstreamRequest) -> OutgoingRequest {
    let (request, upstream) = (&call.context.routed.request, call.context.target());
    let mut headers = call.headers.clone();
    upstream.apply_upstream_headers(&Method::GET, &mut headers);
    OutgoingRequest {
        method: Method::GET,
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
    let between_bytes = (!event_stream::is_response(headers)).then_some(destination.timeouts.between_bytes);
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
