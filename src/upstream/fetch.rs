//! Calls to real origins: pooled HTTP/1.1 and HTTP/2 over pingora's connector.
//!
//! Owns: deadlines up to the head and between pieces of a body, the one transparent retry on a dead
//! pooled connection, bounds on what an origin may send. Never touches: clients, the store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::policy::conduct::Class;
use crate::semantics::asked::Listener;
use crate::semantics::hop_by_hop;
use crate::semantics::storing::is_event_stream;
use crate::semantics::target::Target;
use crate::upstream::clear::{is_clear, is_framed_twice};
use crate::upstream::failure::Failure;
use crate::upstream::gate::knock::Knock;
use crate::upstream::gate::{Gate, Pass};
use crate::upstream::held::Held;
use crate::upstream::interim::{Interim, Interims};
use crate::upstream::json;
use crate::upstream::peer::peer;
use crate::upstream::place::{Place, Upstreams};
use crate::upstream::profile::Profiles;
use crate::upstream::resolve::Resolver;
use crate::upstream::tls::TlsFault;
use crate::upstream::verdict::Verdict;
use crate::upstream::{Answer, Body, BodyFraming, Call, Origin};

/// How many interim (1xx) answers may precede the final one.
const INTERIM: usize = 16;

/// The bytes of an answer's head, names and values.
const HEAD_BYTES: usize = 256 * 1024;

/// Connections to origins that wait for their next request. Cheap to clone: who has the same one
/// shares them.
#[derive(Clone)]
pub struct Pool(Arc<Connector>);

impl Default for Pool {
    fn default() -> Self {
        Self(Arc::new(Connector::new(None)))
    }
}

/// The origins behind the network.
pub struct Network {
    connector: Arc<Connector>,
    /// Which upstream a host belongs to.
    pub upstreams: Upstreams,
    /// Names to allowed addresses.
    pub resolver: Arc<Resolver>,
    /// The gate of both ways out.
    pub gate: Gate,
    profiles: Profiles,
    clock: Clock,
}

impl Network {
    /// Joins the parts.
    pub fn new(
        upstreams: Upstreams,
        resolver: Arc<Resolver>,
        gate: Gate,
        profiles: Profiles,
        clock: Clock,
        pool: Pool,
    ) -> Self {
        Self { connector: pool.0, upstreams, resolver, gate, profiles, clock }
    }

    /// The peer that a call to `place` through `listener` goes to.
    pub async fn peer(&self, place: &Place, listener: Listener) -> Result<HttpPeer, Failure> {
        let found = timeout(
            place.timeouts.connect,
            self.resolver.addresses(&place.host, place.port, listener),
        );
        let addresses = found.await.map_err(|_elapsed| Failure::Dns)??;
        peer(place, addresses, self.resolver.preferred(), &self.profiles)
    }

    async fn attempt(
        &self,
        call: &Call,
        place: &Place,
        connection: Connection,
    ) -> Result<Answer, Attempt> {
        let mut peer = self.peer(place, call.listener).await.map_err(Attempt::Failed)?;
        let mut home = None;
        if connection == Connection::New {
            home = Some(peer.clone());
            // No pool knows this key: the connection is made for this call.
            peer.group_key = !peer.group_key;
        }
        let request = request_header(call, place).map_err(Attempt::Failed)?;
        let connected = self.connector.get_http_session(&peer).await;
        let (mut session, reused) = connected.map_err(|e| Attempt::Failed(connect_failure(&e)))?;
        let request_time = self.clock.now();
        let exchanged = timeout(
            place.timeouts.first_byte,
            exchange(&mut session, request, call.interims.as_deref()),
        )
        .await;
        let head = match exchanged {
            Ok(Ok(head)) => head,
            Ok(Err(error)) if reused && died_in_the_pool(&error) => return Err(Attempt::Dead),
            Ok(Err(error)) => return Err(Attempt::Failed(head_failure(&error))),
            Err(_elapsed) => {
                session.shutdown().await;
                return Err(Attempt::Failed(Failure::FirstByteTimeout));
            }
        };
        let framing = framing(&session, &head, &call.method);
        let peer = match (&session, home) {
            (HttpSession::H1(_), Some(home)) => home,
            _ => peer,
        };
        let session = Some(session);
        // An event stream may be silent for as long as nothing happens.
        let between_bytes =
            (!is_event_stream(&head.headers)).then_some(place.timeouts.between_bytes);
        Ok(Answer {
            status: head.status,
            headers: head.headers.clone(),
            request_time,
            response_time: self.clock.now(),
            framing,
            total: place.timeouts.total,
            verdict: Verdict::of(Class::Ok),
            waited: None,
            body: Box::new(NetworkBody {
                session,
                connector: Arc::clone(&self.connector),
                peer,
                between_bytes,
            }),
        })
    }
}

/// What an attempt goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    /// One of the pool, if it has one.
    Pooled,
    /// A new one: a network that forgets idle connections has forgotten all of them.
    New,
}

/// How one attempt ended without an answer.
enum Attempt {
    /// A pooled connection turned out to be dead before anything came: try once more.
    Dead,
    /// For good.
    Failed(Failure),
}

#[async_trait]
impl Origin for Network {
    async fn fetch(&self, call: &Call) -> Result<Answer, Failure> {
        let place = self.upstreams.place(&call.target);
        let mut pass = self.gate.enter(&place, call.knock.clone()).await.map_err(Failure::Held)?;
        let mut outcome = self.attempt(call, &place, Connection::Pooled).await;
        if matches!(outcome, Err(Attempt::Dead)) && call.method.is_idempotent() {
            self.gate.redialled(place.index, call.knock.route);
            outcome = self.attempt(call, &place, Connection::New).await;
        }
        match outcome {
            Ok(answer) => understood(answer, &mut pass).await,
            Err(attempt) => {
                let failure = match attempt {
                    Attempt::Dead => Failure::Closed,
                    Attempt::Failed(failure) => failure,
                };
                pass.failed(failure);
                Err(failure)
            }
        }
    }

    fn held(&self, target: &Target, knock: &Knock) -> Option<Held> {
        self.gate.held(&self.upstreams.place(target), knock)
    }

    fn spare(&self, target: &Target, knock: &Knock, cause: &'static str, wait: Duration) -> bool {
        self.gate.spare(&self.upstreams.place(target), knock, cause, wait)
    }

    fn total(&self, target: &Target) -> Duration {
        self.upstreams.place(target).timeouts.total
    }
}

/// What the answer means; where a rule reads bodies, that is known once this one is there.
async fn understood(mut answer: Answer, pass: &mut Pass) -> Result<Answer, Failure> {
    let mut said = None;
    if pass.reads_bodies() && answer.framing != BodyFraming::Length(0) {
        let reading = json::read(&answer.headers, answer.body);
        let Ok((read, body)) = timeout(answer.total, reading).await else {
            pass.failed(Failure::TotalTimeout);
            return Err(Failure::TotalTimeout);
        };
        (said, answer.body) = (read, body);
    }
    answer.verdict = pass.answered(answer.status, &answer.headers, said.as_ref());
    answer.waited = pass.waited();
    Ok(answer)
}

fn request_header(call: &Call, place: &Place) -> Result<Box<RequestHeader>, Failure> {
    let path = call.target.path_and_query().as_bytes();
    let mut header = RequestHeader::build(call.method.clone(), path, Some(call.headers.len() + 1))
        .map_err(|_| Failure::Internal)?;
    let authority = call.target.with_origin(place.scheme, &place.host, place.port).authority();
    header.insert_header(HOST, authority).map_err(|_| Failure::Internal)?;
    for (name, value) in &call.headers {
        header.append_header(name.clone(), value.clone()).map_err(|_| Failure::Internal)?;
    }
    place.dress(&mut header).map_err(|_| Failure::Internal)?;
    header.set_version(Version::HTTP_11);
    Ok(Box::new(header))
}

async fn exchange(
    session: &mut HttpSession,
    request: Box<RequestHeader>,
    interims: Option<&Interims>,
) -> Result<ResponseHeader, Box<Error>> {
    session.write_request_header(request).await?;
    session.finish_request_body().await?;
    for _ in 0..=INTERIM {
        session.read_response_header().await?;
        let Some(head) = session.response_header() else { break };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            break;
        }
        if !head.status.is_informational() {
            let bytes: usize = head.headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
            if bytes > HEAD_BYTES || !is_clear(head) || is_framed_twice(&raw(session)) {
                break;
            }
            return Ok(head.clone());
        }
        // No client asked larder to go on: a 100 is nobody's.
        let wanted = head.status != StatusCode::CONTINUE && is_clear(head);
        if let Some(interims) = interims.filter(|_| wanted) {
            let mut headers = head.headers.clone();
            hop_by_hop::strip_response(&mut headers);
            interims.push(Interim { status: head.status, headers });
        }
    }
    Err(Error::new_up(ErrorType::InvalidHTTPHeader))
}

/// The head as it came; HTTP/2 has none, and frames a body in one way only.
fn raw(session: &HttpSession) -> Bytes {
    match session {
        HttpSession::H1(session) => session.get_headers_raw_bytes(),
        HttpSession::H2(_) | HttpSession::Custom(()) => Bytes::new(),
    }
}

fn framing(session: &HttpSession, head: &ResponseHeader, method: &Method) -> BodyFraming {
    let empty = *method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if empty {
        return BodyFraming::Length(0);
    }
    let chunked = head.headers.contains_key(TRANSFER_ENCODING);
    let length = content_length(&head.headers);
    match (session, length) {
        (_, Some(length)) if !chunked => BodyFraming::Length(length),
        (HttpSession::H1(_), _) if !chunked => BodyFraming::Close,
        _ => BodyFraming::Marked,
    }
}

/// pingora has refused conflicting lengths by now; a list of equal ones counts as one.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    value.split(',').next()?.trim().parse().ok()
}

fn died_in_the_pool(error: &Error) -> bool {
    use ErrorType::{ConnectionClosed, H2Error, ReadError, WriteError};
    matches!(error.etype(), ConnectionClosed | ReadError | WriteError | H2Error)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "pingora adds error types; all others are one")]
fn connect_failure(error: &Error) -> Failure {
    use ErrorType::{ConnectTimedout, H2Error, HandshakeError, TLSHandshakeTimedout};
    if let Some(fault) = TlsFault::of(error) {
        return Failure::Tls(fault);
    }
    match error.etype() {
        ConnectTimedout | TLSHandshakeTimedout => Failure::ConnectTimeout,
        // HTTP/2 begins where TLS is done.
        HandshakeError | H2Error => Failure::Protocol,
        _ => Failure::Refused,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "pingora adds error types; all others are one")]
fn head_failure(error: &Error) -> Failure {
    use ErrorType::{ConnectionClosed, ReadError, ReadTimedout, WriteError, WriteTimedout};
    if let Some(fault) = TlsFault::of(error) {
        return Failure::Tls(fault);
    }
    match error.etype() {
        ReadTimedout | WriteTimedout => Failure::FirstByteTimeout,
        ConnectionClosed | ReadError | WriteError => Failure::Closed,
        _ => Failure::Protocol,
    }
}

/// A body that is read off a connection, which goes back to the pool after the last piece.
struct NetworkBody {
    session: Option<HttpSession>,
    connector: Arc<Connector>,
    peer: HttpPeer,
    /// `None`: it may pause for as long as it likes.
    between_bytes: Option<Duration>,
}

#[async_trait]
impl Body for NetworkBody {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(session) = self.session.as_mut() else {
            return Ok(None);
        };
        let read = session.read_response_body();
        let read = match self.between_bytes {
            Some(patience) => timeout(patience, read).await,
            None => Ok(read.await),
        };
        match read {
            Ok(Ok(Some(piece))) => Ok(Some(piece)),
            Ok(Ok(None)) => {
                if let Some(mut session) = self.session.take() {
                    if let HttpSession::H1(h1) = &mut session {
                        h1.respect_keepalive();
                    }
                    self.connector.release_http_session(session, &self.peer, None).await;
                }
                Ok(None)
            }
            Ok(Err(error)) => {
                self.session = None;
                let stalled = *error.etype() == ErrorType::ReadTimedout;
                Err(if stalled { Failure::BodyTimeout } else { Failure::Cut })
            }
            Err(_elapsed) => {
                self.session = None;
                Err(Failure::BodyTimeout)
            }
        }
    }
}
