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
use crate::upstream::idle::Idle;
use crate::upstream::in_flight::SENT_AHEAD;
use crate::upstream::peer::IDLE;
use crate::upstream::pinned::{Pinned, Pins, Taken};
use crate::upstream::session::http1::{Http1, Raw};
use crate::upstream::session::http2::Http2;
use crate::upstream::session::{Broken, Event, Outgoing, Part, Session};
use crate::upstream::shared::Shared;
use crate::upstream::tls_error::TlsError;

/// Connections to origins that wait for their next request. Cheap to clone: whoever has the same one
/// shares them.
#[derive(Clone)]
pub struct ConnectionPool(Arc<Inner>);

struct Inner {
    transport: TransportConnector,
    shared: Shared,
    pinned: Pinned,
    idle: Idle,
}

impl Default for ConnectionPool {
    fn default() -> Self {
        let options = ConnectorOptions::new(descriptors::waiting());
        Self(Arc::new(Inner {
            transport: TransportConnector::new(Some(options)),
            shared: Shared::default(),
            pinned: Pinned::default(),
            idle: Idle::default(),
        }))
    }
}

/// Whose a connection to an origin is.
#[derive(Debug, Clone, Default)]
pub enum Owner {
    /// Anybody's calls may use it.
    #[default]
    Pool,
    /// One client's connection has it, for a user has signed in on it, at this origin ([`crate::upstream::place::UpstreamTarget::origin`]).
    Client(Pins, String),
    /// The call's alone: it ends with it.
    Call,
}

/// A call under way, and where its connection goes when it is over.
pub struct Channel {
    session: Option<Session>,
    pool: ConnectionPool,
    owner: Owner,
    key: u64,
    /// The peer's group ([`crate::upstream::peer::group_key`]).
    place: u64,
    idle: Option<Duration>,
    /// Whether the connection has been used before.
    reused: bool,
}

/// Why a call could not be begun.
pub enum NotBegun {
    /// No connection.
    Failed(UpstreamError),
    /// A connection, and nothing of the request was sent.
    NotProcessed,
    /// The connection on which the client had signed in has ended: its origin would not know who asks.
    SignedOut,
}

/// What a call goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
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
        request: &Outgoing,
        over: Over,
        owner: Owner,
    ) -> Result<Channel, NotBegun> {
        let (key, place) = (peer.reuse_hash(), peer.group_key);
        // RFC 9113 §8.6: HTTP/2 cannot switch to another protocol. Nor does it know sign-ins that count
        // for a connection.
        let http1 = request.upgrade.is_some()
            || !matches!(owner, Owner::Pool)
            || self.0.shared.is_http1_only(key);
        let reused = match (&owner, over) {
            (Owner::Pool, Over::New) | (Owner::Call, _) => None,
            (Owner::Pool, Over::Pooled) => self.reused(peer, key, request, http1).await,
            (Owner::Client(pins, origin), _) => {
                match pins.take(origin, place, &request.headers, &self.0.pinned) {
                    Taken::Stream(stream) => {
                        Some(Session::Http1(Box::new(Http1::new(stream, request))))
                    }
                    Taken::New => None,
                    Taken::SignedOut => return Err(NotBegun::SignedOut),
                }
            }
        };
        let channel = |session, reused| Channel {
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
        let stream = Box::pin(self.dial(peer, http1)).await.map_err(NotBegun::Failed)?;
        if stream.selected_alpn_proto() != Some(ALPN::H2) {
            self.0.idle.made(key, peer.clone());
            let session = Http1::new(stream, request);
            return Ok(channel(Session::Http1(Box::new(session)), false));
        }
        let within = peer.connection_timeout().unwrap_or(IDLE);
        let begun = async {
            let connection = self.0.shared.add(stream, key).await.ok_or(Broken::Protocol)?;
            Http2::new(connection, request).await
        };
        match timeout(within, begun).await {
            Ok(Ok(session)) => Ok(channel(Session::Http2(Box::new(session)), false)),
            Ok(Err(Broken::NotProcessed)) => Err(NotBegun::NotProcessed),
            Ok(Err(Broken::Tls(fault))) => Err(NotBegun::Failed(UpstreamError::Tls(fault))),
            Ok(Err(_broken)) => Err(NotBegun::Failed(UpstreamError::Protocol)),
            Err(_elapsed) => Err(NotBegun::Failed(UpstreamError::ConnectTimeout)),
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
        request: &Outgoing,
        http1: bool,
    ) -> Option<Session> {
        // A connection of HTTP/2 that turns out to be closing leads to the next one.
        while let Some(connection) = (!http1).then(|| self.0.shared.find(key)).flatten() {
            let begun = timeout(IDLE, Http2::new(connection, request));
            if let Ok(Ok(session)) = begun.await {
                return Some(Session::Http2(Box::new(session)));
            }
        }
        let stream = self.0.transport.reused_stream(peer).await?;
        Some(Session::Http1(Box::new(Http1::new(stream, request))))
    }
}

impl Channel {
    /// What comes next; without `reads` only whether there is room for more of the request. Once the
    /// answer is whole the connection is free for others.
    pub async fn next(&mut self, reads: bool) -> Result<Event, Broken> {
        let Some(session) = &mut self.session else { return Ok(Event::End(None)) };
        let event = session.next(reads).await;
        if matches!(event, Err(Broken::NotProcessed)) && session.requires_http1() {
            self.pool.0.shared.remember_http1_only(self.key);
        }
        if matches!(event, Ok(Event::End(_))) {
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
    pub fn belongs_to(&mut self, owner: Owner) {
        self.owner = owner;
    }

    /// Whether one client's connection has it.
    pub fn is_a_clients(&self) -> bool {
        matches!(self.owner, Owner::Client(..))
    }

    /// Whether [`Channel::send`] may be called.
    pub fn has_room(&self) -> bool {
        self.session.as_ref().is_some_and(Session::has_room)
    }

    /// Takes the next part of the request's body.
    pub fn send(&mut self, part: Part) {
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
            Some(Session::Http1(_)) | None => 0,
            Some(Session::Http2(_)) => SENT_AHEAD as usize,
        }
    }

    /// Whether the connection may be used again, as far as the head of the answer tells.
    pub fn persists(&self) -> bool {
        self.session.as_ref().is_none_or(Session::persists)
    }

    /// Whether larder has to answer an `Expect` in the place of the origin.
    pub fn goes_on_unasked(&self) -> bool {
        self.session.as_ref().is_some_and(Session::goes_on_unasked)
    }

    /// The connection as it is, once it speaks another protocol.
    pub fn into_raw(mut self) -> Option<Raw> {
        match self.session.take()? {
            Session::Http1(session) => Some(session.into_raw()),
            Session::Http2(_) => None,
        }
    }

    fn release(&mut self) {
        if let Some(Session::Http1(session)) = self.session.take()
            && let Some(stream) = session.into_reusable()
        {
            match &self.owner {
                Owner::Pool => {
                    self.pool.0.transport.release_stream(stream, self.key, self.idle);
                }
                Owner::Client(pins, origin) => {
                    pins.put(origin, self.place, stream, &self.pool.0.pinned);
                }
                Owner::Call => {}
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
