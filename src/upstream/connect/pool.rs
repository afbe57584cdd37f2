//! Pool of connections to origins, shared by fills and pass-through.
//!
//! Owns: which connection a call uses, opening new ones, what happens to a connection after its call.
//! Never touches: which origin a peer is (`peer`), the protocol on a connection (`session`).

use std::sync::Arc;

use http::StatusCode;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use tokio::time::timeout;

use crate::upstream::connect::descriptors;
use crate::upstream::connect::idle::IdleConnections;
use crate::upstream::connect::peer::IDLE;
use crate::upstream::connect::pingora_error::from_pingora;
use crate::upstream::connect::pinned::{ClientPins, PinnedConnections, PinnedUse};
use crate::upstream::connect::session::http1::{Http1Call, UpgradedConnection};
use crate::upstream::connect::session::http2::Http2Call;
use crate::upstream::connect::session::{
    AttemptError, OutgoingRequest, RequestPart, SessionError, SessionEvent, UpstreamHead, UpstreamSession,
};
use crate::upstream::connect::shared_http2::SharedHttp2;
use crate::upstream::in_flight_bytes::RECEIVE_WINDOW;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::parent_error::ParentError;

/// Idle connections to origins. Cheap to clone: clones share the connections.
#[derive(Clone)]
pub struct ConnectionPool(Arc<Inner>);

struct Inner {
    /// Only dials: its own pool of idle connections is not used (`idle` has the reason).
    transport: TransportConnector,
    shared: SharedHttp2,
    pinned: PinnedConnections,
    idle: IdleConnections,
}

impl Default for ConnectionPool {
    fn default() -> Self {
        Self(Arc::new(Inner {
            transport: TransportConnector::new(Some(ConnectorOptions::new(1))),
            shared: SharedHttp2::default(),
            pinned: PinnedConnections::default(),
            idle: IdleConnections::new(descriptors::max_idle_connections()),
        }))
    }
}

/// Which calls may use a connection to an origin.
#[derive(Debug, Clone, Default)]
pub enum ConnectionOwner {
    /// Calls of every client.
    #[default]
    Pool,
    /// Only calls of one client connection, because a user has signed in on it at this origin
    /// ([`crate::upstream::routing::UpstreamTarget::origin`]).
    Client(ClientPins, String),
    /// Only the current call; the connection is closed after it.
    Call,
}

/// A call in progress. Returns its connection to the pool or to its owner when the call is over.
pub struct CallChannel {
    session: Option<UpstreamSession>,
    pool: ConnectionPool,
    owner: ConnectionOwner,
    key: u64,
    /// The peer's group ([`crate::upstream::connect::peer::group_key`]).
    group_key: u64,
    /// Whether the connection has been used before.
    reused: bool,
    /// Whether the request was sent to a parent proxy, in absolute form.
    pub(in crate::upstream) is_to_parent: bool,
}

/// Whether a call may reuse a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionUse {
    /// Use a pooled connection, if there is one.
    Pooled,
    /// Open a new one: if the network has dropped one idle connection, it has dropped all of them.
    New,
}

impl ConnectionPool {
    /// Begins a call on a connection of `owner`.
    pub async fn begin(
        &self,
        peer: &HttpPeer,
        request: &OutgoingRequest,
        connection_use: ConnectionUse,
        owner: ConnectionOwner,
    ) -> Result<CallChannel, AttemptError> {
        let (key, group_key) = (peer.reuse_hash(), peer.group_key);
        // RFC 9113 §8.6: HTTP/2 cannot switch to another protocol. Nor does it support connection-based
        // authentication.
        let http1 = request.upgrade.is_some()
            || !matches!(owner, ConnectionOwner::Pool)
            || self.0.shared.is_http1_only(key);
        let reused = match (&owner, connection_use) {
            (ConnectionOwner::Pool, ConnectionUse::New) | (ConnectionOwner::Call, _) => None,
            (ConnectionOwner::Pool, ConnectionUse::Pooled) => self.reused(key, request, http1).await,
            (ConnectionOwner::Client(pins, origin), _) => {
                match pins.take(origin, group_key, &request.headers, &self.0.pinned) {
                    PinnedUse::Stream(stream) => {
                        Some(UpstreamSession::Http1(Box::new(Http1Call::new(stream, request))))
                    }
                    PinnedUse::New => None,
                    PinnedUse::SignedOut => return Err(AttemptError::SignedOut),
                }
            }
        };
        let channel = |session, reused| CallChannel {
            session: Some(session),
            pool: self.clone(),
            owner,
            key,
            group_key,
            reused,
            is_to_parent: false,
        };
        if let Some(session) = reused {
            return Ok(channel(session, true));
        }
        // Boxed, so that the future of a call on a pooled connection does not include the size of dialling.
        let stream = Box::pin(self.dial(peer, http1)).await.map_err(AttemptError::Failed)?;
        if stream.selected_alpn_proto() != Some(ALPN::H2) {
            let session = Http1Call::new(stream, request);
            return Ok(channel(UpstreamSession::Http1(Box::new(session)), false));
        }
        let within = peer.connection_timeout().unwrap_or(IDLE);
        let started = async {
            let connection = self.0.shared.add(stream, key).await.ok_or(SessionError::Protocol)?;
            Http2Call::new(connection, request).await
        };
        match timeout(within, started).await {
            Ok(Ok(session)) => Ok(channel(UpstreamSession::Http2(Box::new(session)), false)),
            Ok(Err(SessionError::NotProcessed)) => Err(AttemptError::NotProcessed),
            Ok(Err(SessionError::Tls(fault))) => Err(AttemptError::Failed(UpstreamError::Tls(fault))),
            Ok(Err(_error)) => Err(AttemptError::Failed(UpstreamError::Protocol)),
            Err(_elapsed) => Err(AttemptError::Failed(UpstreamError::ConnectTimeout)),
        }
    }

    async fn dial(&self, peer: &HttpPeer, http1: bool) -> Result<Stream, UpstreamError> {
        let mut peer = peer.clone();
        if http1 {
            peer.options.alpn = ALPN::H1;
        }
        let Inner { transport, pinned, idle, .. } = &*self.0;
        loop {
            let dialled = transport.new_stream(&peer).await.map_err(|error| from_pingora(&error));
            let exhausted = matches!(dialled, Err(UpstreamError::Exhausted));
            // Closing an idle connection frees the descriptor that this one needs.
            if !exhausted || !(idle.evict_one().await || pinned.evict_oldest()) {
                return dialled;
            }
        }
    }

    async fn reused(&self, key: u64, request: &OutgoingRequest, http1: bool) -> Option<UpstreamSession> {
        // If an HTTP/2 connection turns out to be closing, the next one is tried.
        while let Some(connection) = (!http1).then(|| self.0.shared.find(key)).flatten() {
            let started = timeout(IDLE, Http2Call::new(connection, request));
            if let Ok(Ok(session)) = started.await {
                return Some(UpstreamSession::Http2(Box::new(session)));
            }
        }
        let stream = self.0.idle.take(key).await?;
        Some(UpstreamSession::Http1(Box::new(Http1Call::new(stream, request))))
    }
}

impl CallChannel {
    /// The next event; without `read_response` only [`SessionEvent::SendReady`]. Once the response is
    /// complete the connection is released.
    pub async fn next(&mut self, read_response: bool) -> Result<SessionEvent, SessionError> {
        let Some(session) = &mut self.session else { return Ok(SessionEvent::End(None)) };
        let event = session.next(read_response).await;
        if matches!(event, Err(SessionError::NotProcessed)) && session.requires_http1() {
            self.pool.0.shared.remember_http1_only(self.key);
        }
        if matches!(event, Ok(SessionEvent::End(_))) {
            self.release();
        }
        let is_407 = |head: &UpstreamHead| head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        if self.is_to_parent && matches!(&event, Ok(SessionEvent::Head(head)) if is_407(head)) {
            // It is for larder, whose credential the proxy has refused, never for the client.
            self.session = None;
            return Err(SessionError::ParentAuthentication);
        }
        event
    }

    /// Moves the call out; this channel then reports the end of the response.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { session: self.session.take(), pool: self.pool.clone(), owner: self.owner.clone(), ..*self }
    }

    /// Keeps further calls off the connection, because the origin has been silent for too long.
    pub fn stop_reuse(&self) {
        if let Some(session) = &self.session {
            session.stop_reuse();
        }
    }

    /// Assigns the connection to `owner`, because of the authentication exchanged on it.
    pub fn set_owner(&mut self, owner: ConnectionOwner) {
        self.owner = owner;
    }

    /// Whether the connection is pinned to one client connection.
    pub fn is_pinned(&self) -> bool {
        matches!(self.owner, ConnectionOwner::Client(..))
    }

    /// Whether [`CallChannel::send`] may be called.
    pub fn can_send(&self) -> bool {
        self.session.as_ref().is_some_and(UpstreamSession::can_send)
    }

    /// Queues the next part of the request body for sending.
    pub fn send(&mut self, part: RequestPart) {
        if let Some(session) = &mut self.session {
            session.send(part);
        }
    }

    /// The end of the attempt by an error that occurred before the response head.
    pub fn attempt_error(&self, error: SessionError) -> AttemptError {
        match error {
            SessionError::NotProcessed => AttemptError::NotProcessed,
            SessionError::Closed if self.reused => AttemptError::DeadConnection,
            SessionError::Closed | SessionError::Cut => AttemptError::Failed(UpstreamError::Closed),
            SessionError::Tls(fault) => AttemptError::Failed(UpstreamError::Tls(fault)),
            SessionError::Switched => AttemptError::Failed(UpstreamError::Switched),
            SessionError::ParentAuthentication => {
                AttemptError::Failed(UpstreamError::Parent(ParentError::Authentication))
            }
            SessionError::Protocol => AttemptError::Failed(UpstreamError::Protocol),
        }
    }

    /// Bytes of the response that the origin may send before they are read.
    pub fn receive_window(&self) -> usize {
        match self.session {
            // Bytes in the socket buffer are the kernel's memory.
            Some(UpstreamSession::Http1(_)) | None => 0,
            Some(UpstreamSession::Http2(_)) => RECEIVE_WINDOW as usize,
        }
    }

    /// Whether the connection may be reused, judging by the response head.
    pub fn persists(&self) -> bool {
        self.session.as_ref().is_none_or(UpstreamSession::persists)
    }

    /// Whether larder has to respond to `Expect: 100-continue` itself.
    pub fn requires_local_continue(&self) -> bool {
        self.session.as_ref().is_some_and(UpstreamSession::requires_local_continue)
    }

    /// The connection itself, after a switch to another protocol.
    pub fn into_upgraded(mut self) -> Option<UpgradedConnection> {
        match self.session.take()? {
            UpstreamSession::Http1(session) => Some(session.into_upgraded()),
            UpstreamSession::Http2(_) => None,
        }
    }

    fn release(&mut self) {
        if let Some(UpstreamSession::Http1(session)) = self.session.take()
            && let Some(stream) = session.into_reusable()
        {
            match &self.owner {
                ConnectionOwner::Pool => {
                    self.pool.0.idle.put(self.key, stream, IDLE);
                }
                ConnectionOwner::Client(pins, origin) => {
                    pins.put(origin, self.group_key, stream, &self.pool.0.pinned);
                }
                ConnectionOwner::Call => {}
            }
        }
    }
}
