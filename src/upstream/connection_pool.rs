//! Connections to origins: new ones, and those that wait for their next call.
//!
//! Owns: which connection a call gets, what becomes of it afterwards. Both ways out share them.
//! Never touches: which origin is meant (`peer`), what is said on a connection (`session`).

use std::sync::Arc;
use std::time::Duration;

use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::{Error, ErrorType};
use tokio::time::timeout;

use crate::upstream::descriptors;
use crate::upstream::error::UpstreamError;
use crate::upstream::happy_eyeballs::EXHAUSTED;
use crate::upstream::idle_connections::IdleConnections;
use crate::upstream::in_flight_bytes::SENT_AHEAD;
use crate::upstream::peer::IDLE;
use crate::upstream::pinned_connections::{ClientPins, PinnedConnections, PinnedUse};
use crate::upstream::session::http1::{Http1Call, Raw};
use crate::upstream::session::http2::Http2Call;
use crate::upstream::session::{
    OutgoingRequest, RequestPart, SessionError, SessionEvent, UpstreamSession,
};
use crate::upstream::shared_http2::SharedHttp2;
use crate::upstream::tls_error::TlsError;

/// Connections to origins that wait for their next request. Cheap to clone: whoever has the same one
/// shares them.
#[derive(Clone)]
pub struct ConnectionPool(Arc<Inner>);

struct Inner {
    transport: TransportConnector,
    shared: SharedHttp2,
    pinned: PinnedConnections,
    idle: IdleConnections,
}

impl Default for ConnectionPool {
    fn default() -> Self {
        let options = ConnectorOptions::new(descriptors::waiting());
        Self(Arc::new(Inner {
            transport: TransportConnector::new(Some(options)),
            shared: SharedHttp2::default(),
            pinned: PinnedConnections::default(),
            idle: IdleConnections::default(),
        }))
    }
}

/// Whose a connection to an origin is.
#[derive(Debug, Clone, Default)]
pub enum ConnectionOwner {
    /// Anybody's calls may use it.
    #[default]
    Pool,
    /// One client's connection has it, for a user has signed in on it, at this origin ([`crate::upstream::place::UpstreamTarget::origin`]).
    Client(ClientPins, String),
    /// The call's alone: it ends with it.
    Call,
}

/// A call under way, and where its connection goes when it is over.
pub struct CallChannel {
    session: Option<UpstreamSession>,
    pool: ConnectionPool,
    owner: ConnectionOwner,
    key: u64,
    /// The peer's group ([`crate::upstream::peer::group_key`]).
    place: u64,
    idle: Option<Duration>,
    /// Whether the connection has been used before.
    reused: bool,
}

/// Why a call could not be begun.
pub enum ConnectFailure {
    /// No connection.
    Failed(UpstreamError),
    /// A connection, and nothing of the request was sent.
    NotProcessed,
    /// The connection on which the client had signed in has ended: its origin would not know who asks.
    SignedOut,
}

/// What a call goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionUse {
    /// One of the pool, if it has one.
    Pooled,
    /// A new one: a network that forgets idle connections has forgotten all of them.
    New,
}

impl ConnectionPool {
    /// Begins a call on a connection of `owner`'s.
    pub async fn begin(
        &self,
        peer: &HttpPeer,
        request: &OutgoingRequest,
        over: ConnectionUse,
        owner: ConnectionOwner,
    ) -> Result<CallChannel, ConnectFailure> {
        let (key, place) = (peer.reuse_hash(), peer.group_key);
        // RFC 9113 §8.6: HTTP/2 cannot switch to another protocol. Nor does it know sign-ins that count
        // for a connection.
        let http1 = request.upgrade.is_some()
            || !matches!(owner, ConnectionOwner::Pool)
            || self.0.shared.is_http1_only(key);
        let reused = match (&owner, over) {
            (ConnectionOwner::Pool, ConnectionUse::New) | (ConnectionOwner::Call, _) => None,
            (ConnectionOwner::Pool, ConnectionUse::Pooled) => {
                self.reused(peer, key, request, http1).await
            }
            (ConnectionOwner::Client(pins, origin), _) => {
                match pins.take(origin, place, &request.headers, &self.0.pinned) {
                    PinnedUse::Stream(stream) => {
                        Some(UpstreamSession::Http1(Box::new(Http1Call::new(stream, request))))
                    }
                    PinnedUse::New => None,
                    PinnedUse::SignedOut => return Err(ConnectFailure::SignedOut),
                }
            }
        };
        let channel = |session, reused| CallChannel {
            session: Some(session),
            pool: self.clone(),
            owner,
            key,
            place,
            idle: peer.idle_timeout(),
            reused,
        };
        if let Some(session) = reused {
            return Ok(channel(session, true));
        }
        // Boxed: a call on a connection that is there must not carry the room that dialling needs.
        let stream = Box::pin(self.dial(peer, http1)).await.map_err(ConnectFailure::Failed)?;
        if stream.selected_alpn_proto() != Some(ALPN::H2) {
            self.0.idle.made(key, peer.clone());
            let session = Http1Call::new(stream, request);
            return Ok(channel(UpstreamSession::Http1(Box::new(session)), false));
        }
        let within = peer.connection_timeout().unwrap_or(IDLE);
        let begun = async {
            let connection = self.0.shared.add(stream, key).await.ok_or(SessionError::Protocol)?;
            Http2Call::new(connection, request).await
        };
        match timeout(within, begun).await {
            Ok(Ok(session)) => Ok(channel(UpstreamSession::Http2(Box::new(session)), false)),
            Ok(Err(SessionError::NotProcessed)) => Err(ConnectFailure::NotProcessed),
            Ok(Err(SessionError::Tls(fault))) => {
                Err(ConnectFailure::Failed(UpstreamError::Tls(fault)))
            }
            Ok(Err(_broken)) => Err(ConnectFailure::Failed(UpstreamError::Protocol)),
            Err(_elapsed) => Err(ConnectFailure::Failed(UpstreamError::ConnectTimeout)),
        }
    }

    async fn dial(&self, peer: &HttpPeer, http1: bool) -> Result<Stream, UpstreamError> {
        let mut peer = peer.clone();
        if http1 {
            peer.options.alpn = ALPN::H1;
        }
        let Inner { transport, pinned, idle, .. } = &*self.0;
        loop {
            let dialled = transport.new_stream(&peer).await.map_err(|error| failure(&error));
            let lacks = matches!(dialled, Err(UpstreamError::Exhausted));
            // A connection that only waits has what this one lacks.
            if !lacks || !(idle.let_one_go(transport).await || pinned.let_one_go()) {
                return dialled;
            }
        }
    }

    async fn reused(
        &self,
        peer: &HttpPeer,
        key: u64,
        request: &OutgoingRequest,
        http1: bool,
    ) -> Option<UpstreamSession> {
        // A connection of HTTP/2 that turns out to be closing leads to the next one.
        while let Some(connection) = (!http1).then(|| self.0.shared.find(key)).flatten() {
            let begun = timeout(IDLE, Http2Call::new(connection, request));
            if let Ok(Ok(session)) = begun.await {
                return Some(UpstreamSession::Http2(Box::new(session)));
            }
        }
        let stream = self.0.transport.reused_stream(peer).await?;
        Some(UpstreamSession::Http1(Box::new(Http1Call::new(stream, request))))
    }
}

impl CallChannel {
    /// What comes next; without `reads` only whether there is room for more of the request. Once the
    /// answer is whole the connection is free for others.
    pub async fn next(&mut self, reads: bool) -> Result<SessionEvent, SessionError> {
        let Some(session) = &mut self.session else { return Ok(SessionEvent::End(None)) };
        let event = session.next(reads).await;
        if matches!(event, Err(SessionError::NotProcessed)) && session.requires_http1() {
            self.pool.0.shared.remember_http1_only(self.key);
        }
        if matches!(event, Ok(SessionEvent::End(_))) {
            self.release();
        }
        event
    }

    /// The call, to go on elsewhere; here it is over.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self {
            session: self.session.take(),
            pool: self.pool.clone(),
            owner: self.owner.clone(),
            ..*self
        }
    }

    /// The origin has been silent for too long: no other call is to wait on its connection.
    pub fn distrust(&self) {
        if let Some(session) = &self.session {
            session.distrust();
        }
    }

    /// What has been said on the connection makes it `owner`'s: it goes back to no pool.
    pub fn belongs_to(&mut self, owner: ConnectionOwner) {
        self.owner = owner;
    }

    /// Whether one client's connection has it.
    pub fn is_a_clients(&self) -> bool {
        matches!(self.owner, ConnectionOwner::Client(..))
    }

    /// Whether [`CallChannel::send`] may be called.
    pub fn has_room(&self) -> bool {
        self.session.as_ref().is_some_and(UpstreamSession::has_room)
    }

    /// Takes the next part of the request's body.
    pub fn send(&mut self, part: RequestPart) {
        if let Some(session) = &mut self.session {
            session.send(part);
        }
    }

    /// Whether the connection had been used before this call.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// How much of the answer may come before it is read.
    pub fn ahead(&self) -> usize {
        match self.session {
            // What the socket holds is the system's.
            Some(UpstreamSession::Http1(_)) | None => 0,
            Some(UpstreamSession::Http2(_)) => SENT_AHEAD as usize,
        }
    }

    /// Whether the connection may be used again, as far as the head of the answer tells.
    pub fn persists(&self) -> bool {
        self.session.as_ref().is_none_or(UpstreamSession::persists)
    }

    /// Whether larder has to answer an `Expect` in the place of the origin.
    pub fn goes_on_unasked(&self) -> bool {
        self.session.as_ref().is_some_and(UpstreamSession::goes_on_unasked)
    }

    /// The connection as it is, once it speaks another protocol.
    pub fn into_raw(mut self) -> Option<Raw> {
        match self.session.take()? {
            UpstreamSession::Http1(session) => Some(session.into_raw()),
            UpstreamSession::Http2(_) => None,
        }
    }

    fn release(&mut self) {
        if let Some(UpstreamSession::Http1(session)) = self.session.take()
            && let Some(stream) = session.into_reusable()
        {
            match &self.owner {
                ConnectionOwner::Pool => {
                    self.pool.0.transport.release_stream(stream, self.key, self.idle);
                }
                ConnectionOwner::Client(pins, origin) => {
                    pins.put(origin, self.place, stream, &self.pool.0.pinned);
                }
                ConnectionOwner::Call => {}
            }
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "pingora adds error types; all others are one")]
fn failure(error: &Error) -> UpstreamError {
    use ErrorType::{ConnectTimedout, H2Error, HandshakeError, TLSHandshakeTimedout};
    if let Some(fault) = TlsError::of(error) {
        return UpstreamError::Tls(fault);
    }
    match error.etype() {
        ConnectTimedout | TLSHandshakeTimedout => UpstreamError::ConnectTimeout,
        HandshakeError | H2Error => UpstreamError::Protocol,
        other if other == &EXHAUSTED => UpstreamError::Exhausted,
        _ => UpstreamError::Refused,
    }
}
