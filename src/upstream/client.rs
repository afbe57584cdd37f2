//! Calls to real origins.
//!
//! Owns: deadlines up to the head and between pieces of a body; the repeats that are always safe: on a
//! pooled connection that was dead, and of what the origin says it has not processed. Never touches:
//! clients, the store, retries (`retry`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use pingora_core::upstreams::peer::HttpPeer;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::policy::upstream::OutcomeClass;
use crate::semantics::connection_auth;
use crate::semantics::field_case::FieldCase;
use crate::semantics::hop_by_hop;
use crate::semantics::method;
use crate::semantics::request::{ListenerKind, RequestFraming};
use crate::semantics::storability::is_event_stream;
use crate::semantics::target::Target;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::{AdmissionControl, Permit};
use crate::upstream::body_inspection::{self, InspectedBody};
use crate::upstream::connection_pool::{
    CallChannel, ConnectFailure, ConnectionOwner, ConnectionPool, ConnectionUse,
};
use crate::upstream::error::UpstreamError;
use crate::upstream::in_flight_bytes::InFlightBytes;
use crate::upstream::interim::{Interim, Interims};
use crate::upstream::outcome::CallOutcome;
use crate::upstream::peer::peer;
use crate::upstream::rejection::Rejection;
use crate::upstream::resolve::Resolver;
use crate::upstream::routing::{UpstreamTable, UpstreamTarget};
use crate::upstream::session::{OutgoingRequest, SessionError, SessionEvent, UpstreamHead};
use crate::upstream::tls_config::TlsConfigs;
use crate::upstream::{Body, BodyFraming, Origin, UpstreamRequest, UpstreamResponse};

/// How often a call is made again that the origin says it has not processed.
const REFUSED: u32 = 2;

/// The origins behind the network.
pub struct HttpClient {
    pool: ConnectionPool,
    /// Which upstream a host belongs to.
    pub upstreams: UpstreamTable,
    /// Names to allowed addresses.
    pub resolver: Arc<Resolver>,
    /// The gate of both ways out.
    pub gate: AdmissionControl,
    /// The bodies that are held on their way, those that rules read among them.
    pub in_flight: Arc<InFlightBytes>,
    profiles: TlsConfigs,
    clock: Clock,
}

impl HttpClient {
    /// Joins the parts.
    pub fn new(
        upstreams: UpstreamTable,
        resolver: Arc<Resolver>,
        gate: AdmissionControl,
        profiles: TlsConfigs,
        clock: Clock,
        pool: ConnectionPool,
        in_flight: Arc<InFlightBytes>,
    ) -> Self {
        Self { pool, upstreams, resolver, gate, in_flight, profiles, clock }
    }

    /// Begins a call to `place` on a connection of `owner`'s.
    pub async fn begin(
        &self,
        place: &UpstreamTarget,
        listener: ListenerKind,
        request: &OutgoingRequest,
        over: ConnectionUse,
        owner: ConnectionOwner,
    ) -> Result<CallChannel, AttemptError> {
        let mut peer = self.peer(place, listener).await.map_err(AttemptError::Failed)?;
        if matches!(owner, ConnectionOwner::Pool)
            && let Some(apart) = connection_auth::of_an_unknown_scheme(&request.headers)
        {
            peer.group_key ^= apart;
        }
        self.pool.begin(&peer, request, over, owner).await.map_err(|error| match error {
            ConnectFailure::Failed(failure) => AttemptError::Failed(failure),
            ConnectFailure::NotProcessed => AttemptError::NotProcessed,
            ConnectFailure::SignedOut => AttemptError::SignedOut,
        })
    }

    async fn peer(
        &self,
        place: &UpstreamTarget,
        listener: ListenerKind,
    ) -> Result<HttpPeer, UpstreamError> {
        let found = timeout(
            place.timeouts.connect,
            self.resolver.addresses(&place.host, place.port, listener),
        );
        let addresses = found.await.map_err(|_elapsed| UpstreamError::Dns)??;
        peer(place, listener, addresses, self.resolver.preferred(), &self.profiles)
    }

    async fn attempt(
        &self,
        call: &UpstreamRequest,
        place: &UpstreamTarget,
        over: ConnectionUse,
    ) -> Result<UpstreamResponse, AttemptError> {
        let request = outgoing(call, place);
        let mut channel =
            self.begin(place, call.listener, &request, over, ConnectionOwner::default()).await?;
        let request_time = self.clock.now();
        let exchanged = final_head(&mut channel, call.interims.as_deref());
        let head = match timeout(place.timeouts.first_byte, exchanged).await {
            Ok(Ok(head)) => head,
            Ok(Err(broken)) => return Err(AttemptError::after(broken, &channel)),
            Err(_elapsed) => {
                channel.distrust();
                return Err(AttemptError::Failed(UpstreamError::FirstByteTimeout));
            }
        };
        if connection_auth::is_asked_for(&head.headers) {
            channel.belongs_to(ConnectionOwner::Call);
        }
        let body = body_behind(&head.headers, channel, place);
        Ok(UpstreamResponse {
            status: head.status,
            headers: head.headers,
            request_time,
            response_time: self.clock.now(),
            framing: head.framing,
            total: place.timeouts.total,
            verdict: CallOutcome::of(OutcomeClass::Ok),
            unread: false,
            waited: None,
            body,
        })
    }
}

/// How one attempt ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptError {
    /// A pooled connection turned out to be dead before anything came.
    Dead,
    /// Nothing has come of it at the origin.
    NotProcessed,
    /// It was not made: the connection on which its client had signed in has ended.
    SignedOut,
    /// For good.
    Failed(UpstreamError),
}

impl AttemptError {
    /// What it means that `channel` broke before a head came.
    pub fn after(broken: SessionError, channel: &CallChannel) -> Self {
        match broken {
            SessionError::NotProcessed => Self::NotProcessed,
            SessionError::Closed if channel.is_reused() => Self::Dead,
            SessionError::Closed | SessionError::Cut => Self::Failed(UpstreamError::Closed),
            SessionError::Tls(fault) => Self::Failed(UpstreamError::Tls(fault)),
            SessionError::Switched => Self::Failed(UpstreamError::Switched),
            SessionError::Protocol => Self::Failed(UpstreamError::Protocol),
        }
    }

    /// The same, when it is not repeated.
    pub fn failure(self) -> UpstreamError {
        match self {
            Self::Dead | Self::SignedOut => UpstreamError::Closed,
            Self::NotProcessed => UpstreamError::NotProcessed,
            Self::Failed(failure) => failure,
        }
    }
}

/// The repeats of one call that need nobody's leave.
#[derive(Debug, Default)]
pub struct FreeRepeats {
    refused: u32,
    redialled: bool,
}

impl FreeRepeats {
    /// Whether a call, all of which can still be sent, is made once more, on a connection of its own.
    pub fn again(&mut self, attempt: AttemptError, idempotent: bool) -> bool {
        match attempt {
            // RFC 9113 §8.7: safe whatever the method is.
            AttemptError::NotProcessed => {
                self.refused += 1;
                self.refused <= REFUSED
            }
            AttemptError::Dead if idempotent => !std::mem::replace(&mut self.redialled, true),
            AttemptError::Dead | AttemptError::SignedOut | AttemptError::Failed(_) => false,
        }
    }
}

#[async_trait]
impl Origin for HttpClient {
    async fn fetch(&self, call: &UpstreamRequest) -> Result<UpstreamResponse, UpstreamError> {
        let place = self.upstreams.place(&call.target);
        let mut pass =
            self.gate.acquire(&place, call.knock.clone()).await.map_err(UpstreamError::Held)?;
        let (mut repeats, mut over) = (FreeRepeats::default(), ConnectionUse::Pooled);
        loop {
            match self.attempt(call, &place, over).await {
                Ok(answer) => return classify_response(answer, &mut pass, &self.in_flight).await,
                Err(attempt) if repeats.again(attempt, method::is_idempotent(&call.method)) => {
                    self.gate.redialled(&place, call.knock.route);
                    over = ConnectionUse::New;
                }
                Err(attempt) => {
                    pass.failed(attempt.failure());
                    return Err(attempt.failure());
                }
            }
        }
    }

    fn check_admission(&self, target: &Target, knock: &CallContext) -> Option<Rejection> {
        self.gate.check_admission(&self.upstreams.place(target), knock)
    }

    fn try_acquire_retry(
        &self,
        target: &Target,
        knock: &CallContext,
        cause: &'static str,
        wait: Duration,
    ) -> bool {
        self.gate.try_acquire_retry(&self.upstreams.place(target), knock, cause, wait)
    }

    fn moved(&self, target: &Target) -> Option<Target> {
        self.upstreams.moved(target)
    }

    fn patience(&self, target: &Target) -> Duration {
        self.upstreams.place(target).patience()
    }

    fn total(&self, target: &Target) -> Duration {
        self.upstreams.place(target).timeouts.total
    }
}

/// What the answer means; where a rule reads bodies, that is known once this one is there.
async fn classify_response(
    mut answer: UpstreamResponse,
    pass: &mut Permit,
    in_flight: &Arc<InFlightBytes>,
) -> Result<UpstreamResponse, UpstreamError> {
    let mut said = InspectedBody::NoJson;
    if pass.reads_bodies() && answer.framing != BodyFraming::Length(0) {
        if answer.status.is_success() {
            pass.gives_way();
        }
        let reading = body_inspection::read(&answer.headers, answer.body, in_flight);
        let Ok((read, body)) = timeout(answer.total, reading).await else {
            if answer.status.is_success() {
                pass.left();
            }
            pass.failed(UpstreamError::TotalTimeout);
            return Err(UpstreamError::TotalTimeout);
        };
        (said, answer.body) = (read, body);
    }
    answer.verdict = pass.answered(answer.status, &answer.headers, said.says());
    answer.unread = said == InspectedBody::Unread && pass.judges_bodies();
    answer.waited = pass.waited();
    Ok(answer)
}

fn outgoing(call: &UpstreamRequest, place: &UpstreamTarget) -> OutgoingRequest {
    let mut headers = call.headers.clone();
    place.apply_upstream_headers(&call.method, &mut headers);
    OutgoingRequest {
        method: call.method.clone(),
        scheme: place.scheme.as_str(),
        authority: place.authority(),
        path: call.target.path_and_query().to_owned(),
        headers,
        spelling: FieldCase::default(),
        body: RequestFraming::None,
        upgrade: None,
        trailers: false,
    }
}

/// The head of the final answer; interim ones are passed on.
async fn final_head(
    channel: &mut CallChannel,
    interims: Option<&Interims>,
) -> Result<UpstreamHead, SessionError> {
    loop {
        let head = match channel.next(true).await? {
            SessionEvent::Head(head) => head,
            SessionEvent::Room => continue,
            SessionEvent::Data(_) | SessionEvent::End(_) => return Err(SessionError::Protocol),
        };
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(SessionError::Switched),
            // No client asked larder to go on: a 100 is nobody's.
            StatusCode::CONTINUE => {}
            status if status.is_informational() => {
                if let Some(interims) = interims {
                    let mut headers = head.headers;
                    hop_by_hop::strip_response(&mut headers);
                    interims.push(Interim { status, headers });
                }
            }
            _ => return Ok(*head),
        }
    }
}

/// The body behind a head that came on `channel`.
pub fn body_behind(
    headers: &HeaderMap,
    channel: CallChannel,
    place: &UpstreamTarget,
) -> Box<dyn Body> {
    // An event stream may be silent for as long as nothing happens.
    let between_bytes = (!is_event_stream(headers)).then_some(place.timeouts.between_bytes);
    Box::new(NetworkBody { channel: Some(channel), between_bytes })
}

/// A body that is read off a connection, which is free for others after the last piece.
struct NetworkBody {
    channel: Option<CallChannel>,
    /// `None`: it may pause for as long as it likes.
    between_bytes: Option<Duration>,
}

#[async_trait]
impl Body for NetworkBody {
    fn ahead(&self) -> usize {
        self.channel.as_ref().map_or(0, CallChannel::ahead)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let Some(channel) = self.channel.as_mut() else { return Ok(None) };
            let next = channel.next(true);
            let next = match self.between_bytes {
                Some(patience) => timeout(patience, next).await,
                None => Ok(next.await),
            };
            match next {
                Ok(Ok(SessionEvent::Data(piece))) => return Ok(Some(piece)),
                Ok(Ok(SessionEvent::Room)) => {}
                Ok(Ok(SessionEvent::End(_trailers))) => self.channel = None,
                Ok(Ok(SessionEvent::Head(_)) | Err(_)) => {
                    self.channel = None;
                    return Err(UpstreamError::Cut);
                }
                Err(_elapsed) => {
                    channel.distrust();
                    self.channel = None;
                    return Err(UpstreamError::BodyTimeout);
                }
            }
        }
    }
}
