//! Connections to origins that are pinned to one client connection, because a user has signed in on them
//! (connection-based authentication, RFC 4559 §6).
//!
//! Owns: the pinned connections of a client connection between its requests, their total number, and the
//! record of sign-ins whose connection has ended, because the client still relies on them.
//! Never touches: which requests need one (`semantics::connection_auth`); shared connections
//! (`pool`); responses to the client (`proxy::connection_auth`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use pingora_core::protocols::Stream;

use crate::semantics::connection_auth;
use crate::upstream::connect::idle::is_quiet;

/// Pinned connections per client connection; beyond that the oldest is closed.
const MAX_PER_CLIENT: usize = 8;

/// Number of origins whose sign-in is remembered per client connection.
const MAX_ORIGINS: usize = 64;

/// Idle pinned connections of all clients; beyond that the one that has been idle longest is closed. Each
/// uses a descriptor that no client's call accounts for.
pub const MAX_PINNED: usize = 256;

/// The connections to origins that are pinned to one client connection. They are closed with it. Cheap to
/// clone: a call in progress returns its connection through a clone.
#[derive(Clone, Default)]
pub struct ClientPins(Arc<Mutex<Vec<Pin>>>);

struct Pin {
    /// As returned by [`crate::upstream::routing::UpstreamTarget::origin`]. A reload may change the route to
    /// the same origin; the user that the client has signed in as does not change with it.
    origin: String,
    /// The authentication scheme of the client's sign-in here, if any.
    scheme: Option<&'static str>,
    /// `None`: the connection is in use by a call, or has ended.
    idle: Option<IdlePin>,
}

/// The connection for a call of a pinned client.
pub(in crate::upstream) enum PinnedUse {
    /// The pinned connection.
    Stream(Stream),
    /// A new connection, because no sign-in is lost with it.
    New,
    /// None: the client relies on a sign-in whose connection has ended.
    SignedOut,
}

impl ClientPins {
    /// Whether the client has a pinned connection to this origin, or relies on a sign-in there.
    pub fn has(&self, origin: &str) -> bool {
        let pins = self.0.lock();
        pins.iter().any(|pin| pin.origin == origin && (pin.scheme.is_some() || pin.is_open()))
    }

    /// The scheme by which the client has to sign in again before a request with these fields is sent to this
    /// origin: the client relies on a sign-in whose connection has ended, and the request has no
    /// `Authorization`. The origin would treat such a request as anonymous.
    pub fn reauthentication_scheme(&self, origin: &str, request: &HeaderMap) -> Option<&'static str> {
        let mut pins = self.0.lock();
        let pin = pins.iter_mut().find(|pin| pin.origin == origin)?;
        let scheme = pin.scheme.filter(|_| !request.contains_key(AUTHORIZATION))?;
        (!pin.is_usable()).then_some(scheme)
    }

    /// Whether the number of remembered origins has almost reached its limit.
    pub fn is_nearly_full(&self) -> bool {
        self.0.lock().len() + 1 >= MAX_ORIGINS
    }

    /// The connection for a call to this origin with these fields. `group_key` and `all` are those of the
    /// call: a connection that was made with others, such as before a reload, is not reused.
    pub(in crate::upstream) fn take(
        &self,
        origin: &str,
        group_key: u64,
        request: &HeaderMap,
        all: &PinnedConnections,
    ) -> PinnedUse {
        let mut pins = self.0.lock();
        let mut pin = pins.iter_mut().find(|pin| pin.origin == origin);
        let relies_on_sign_in = pin.as_ref().is_some_and(|pin| pin.scheme.is_some());
        let stream = pin.as_mut().and_then(|pin| pin.take(group_key, all));
        let sent_scheme = connection_auth::request_scheme(request);
        match (pin, sent_scheme) {
            (Some(pin), Some(_)) => pin.scheme = sent_scheme,
            (None, Some(_)) => {
                pins.push(Pin { origin: origin.to_owned(), scheme: sent_scheme, idle: None });
            }
            (_, None) => {}
        }
        match stream {
            Some(stream) => PinnedUse::Stream(stream),
            None if relies_on_sign_in && !request.contains_key(AUTHORIZATION) => PinnedUse::SignedOut,
            None => PinnedUse::New,
        }
    }

    /// Keeps a connection whose call is over, registered in `all`.
    pub(in crate::upstream) fn put(
        &self,
        origin: &str,
        group_key: u64,
        stream: Stream,
        all: &PinnedConnections,
    ) {
        let mut pins = self.0.lock();
        let known = pins.iter().find(|pin| pin.origin == origin);
        let scheme = known.and_then(|pin| pin.scheme);
        // A client connection makes one call at a time, so a second connection to an origin replaces the
        // first.
        pins.retain(|pin| pin.origin != origin && (pin.scheme.is_some() || pin.is_open()));
        if pins.iter().filter(|pin| pin.is_open()).count() == MAX_PER_CLIENT
            && let Some(oldest) = pins.iter_mut().find(|pin| pin.is_open())
        {
            oldest.idle = None;
        }
        let idle = Some(all.keep(stream, group_key));
        pins.push(Pin { origin: origin.to_owned(), scheme, idle });
    }
}

impl Pin {
    fn is_open(&self) -> bool {
        self.idle.as_ref().is_some_and(IdlePin::is_open)
    }

    /// Whether it is open, and the origin has neither closed it nor sent unrequested bytes.
    fn is_usable(&mut self) -> bool {
        let Some(idle) = &self.idle else { return false };
        let usable = idle.is_quiet();
        if !usable {
            self.idle = None;
        }
        usable
    }

    fn take(&mut self, group_key: u64, all: &PinnedConnections) -> Option<Stream> {
        let usable = self.is_usable();
        let idle = self.idle.take().filter(|_| usable)?;
        (idle.group_key == group_key && Arc::ptr_eq(&idle.all.0, &all.0)).then(|| idle.take()).flatten()
    }
}

impl fmt::Debug for ClientPins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientPins({})", self.0.lock().len())
    }
}

/// The idle pinned connections of all clients. Cheap to clone.
#[derive(Clone, Default)]
pub(in crate::upstream) struct PinnedConnections(Arc<Mutex<Streams>>);

#[derive(Default)]
struct Streams {
    next_id: u64,
    /// In the order in which they became idle.
    idle: BTreeMap<u64, Stream>,
}

impl PinnedConnections {
    fn keep(&self, stream: Stream, group_key: u64) -> IdlePin {
        let mut all = self.0.lock();
        let id = all.next_id;
        all.next_id += 1;
        all.idle.insert(id, stream);
        let oldest = (all.idle.len() > MAX_PINNED).then(|| all.idle.pop_first()).flatten();
        drop(all);
        drop(oldest);
        IdlePin { id, group_key, all: self.clone() }
    }

    /// Closes the connection that has been idle longest; false: there is none.
    pub(in crate::upstream) fn evict_oldest(&self) -> bool {
        let oldest = self.0.lock().idle.pop_first();
        oldest.is_some()
    }
}

/// A handle to an idle pinned connection, which may be evicted at any time.
struct IdlePin {
    id: u64,
    /// Host, port, scheme, upstream and listener ([`crate::upstream::connect::peer::group_key`]).
    group_key: u64,
    all: PinnedConnections,
}

impl IdlePin {
    fn is_open(&self) -> bool {
        self.all.0.lock().idle.contains_key(&self.id)
    }

    fn take(&self) -> Option<Stream> {
        self.all.0.lock().idle.remove(&self.id)
    }

    /// Whether it is open, and nothing has arrived on it, not even its end.
    fn is_quiet(&self) -> bool {
        let Some(mut stream) = self.take() else { return false };
        if !is_quiet(&mut stream) {
            return false;
        }
        self.all.0.lock().idle.insert(self.id, stream);
        true
    }
}

impl Drop for IdlePin {
    fn drop(&mut self) {
        // Dropped outside the lock: closing a connection may take a moment.
        let stream = self.take();
        drop(stream);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const GROUP_KEY: u64 = 1;

    /// A connection, and the origin's end of it.
    fn connection() -> (Stream, DuplexStream) {
        let (near, far) = duplex(16);
        (Box::new(near), far)
    }

    fn fields(authorization: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(authorization))])
    }

    fn bare() -> HeaderMap {
        HeaderMap::new()
    }

    /// A client that has signed in at `origin`, and the origin's end of its connection.
    fn signed_in(pins: &ClientPins, origin: &str, all: &PinnedConnections) -> DuplexStream {
        let (stream, end) = connection();
        assert!(matches!(pins.take(origin, GROUP_KEY, &fields("ntlm x"), all), PinnedUse::New));
        pins.put(origin, GROUP_KEY, stream, all);
        end
    }

    fn is_stream(pins: &ClientPins, origin: &str, all: &PinnedConnections) -> bool {
        matches!(pins.take(origin, GROUP_KEY, &bare(), all), PinnedUse::Stream(_))
    }

    fn is_lost(pins: &ClientPins, origin: &str, all: &PinnedConnections) -> bool {
        let scheme = pins.reauthentication_scheme(origin, &bare());
        pins.has(origin)
            && scheme == Some("NTLM")
            && matches!(pins.take(origin, GROUP_KEY, &bare(), all), PinnedUse::SignedOut)
            && matches!(pins.take(origin, GROUP_KEY, &fields("Basic x"), all), PinnedUse::New)
    }

    #[test]
    fn pinned_connections_are_one_per_origin_and_limited_per_client() {
        let (all, pins) = (PinnedConnections::default(), ClientPins::default());
        let ends = ["1", "1", "2", "3", "4", "5", "6", "7", "8", "9"].map(|origin| {
            let (stream, end) = connection();
            pins.put(origin, GROUP_KEY, stream, &all);
            end
        });
        assert!(!pins.has("1") && pins.has("2") && pins.has("9"));
        assert!(is_stream(&pins, "2", &all) && !pins.has("2") && !is_stream(&pins, "2", &all));
        assert_eq!(all.0.lock().idle.len(), MAX_PER_CLIENT - 1);
        drop((pins, ends));
        assert!(!all.evict_oldest(), "they are closed with the client connection");
    }

    #[test]
    fn the_sign_in_of_an_evicted_connection_is_remembered() {
        let (all, pins) = (PinnedConnections::default(), ClientPins::default());
        let origins: Vec<_> = (0..MAX_ORIGINS).map(|n| n.to_string()).collect();
        let mut ends = Vec::new();
        for origin in &origins {
            assert_eq!(pins.is_nearly_full(), ends.len() + 1 >= MAX_ORIGINS);
            ends.push(signed_in(&pins, origin, &all));
        }
        let (evicted, kept) = origins.split_at(MAX_ORIGINS - MAX_PER_CLIENT);
        assert!(evicted.iter().all(|origin| is_lost(&pins, origin, &all)));
        assert!(kept.iter().all(|origin| is_stream(&pins, origin, &all)));
    }

    #[test]
    fn beyond_the_limit_of_all_clients_the_longest_idle_one_is_evicted() {
        let all = PinnedConnections::default();
        let clients: Vec<ClientPins> = (0..MAX_PINNED + 2).map(|_| ClientPins::default()).collect();
        let mut ends = vec![signed_in(&clients[0], "a", &all), signed_in(&clients[1], "a", &all)];
        let PinnedUse::Stream(used) = clients[0].take("a", GROUP_KEY, &bare(), &all) else {
            panic!("the pinned connection")
        };
        clients[0].put("a", GROUP_KEY, used, &all);
        for client in &clients[2..] {
            ends.push(signed_in(client, "a", &all));
        }
        assert!(is_lost(&clients[1], "a", &all));
        assert!(is_lost(&clients[0], "a", &all), "the next to be evicted");
        assert!(all.evict_oldest() && is_lost(&clients[2], "a", &all));
        assert!(is_stream(&clients[3], "a", &all));
        assert_eq!(all.0.lock().idle.len(), MAX_PINNED - 2);
    }

    #[tokio::test]
    async fn a_closed_connection_or_one_with_unrequested_bytes_is_not_reused() {
        for unrequested in [&b""[..], b"HTTP/1.1 200 OK\r\n"] {
            let (all, pins) = (PinnedConnections::default(), ClientPins::default());
            let mut end = signed_in(&pins, "a", &all);
            assert_eq!(pins.reauthentication_scheme("a", &bare()), None);
            if unrequested.is_empty() {
                drop(end);
            } else {
                end.write_all(&unrequested[..16]).await.unwrap();
            }
            assert!(is_lost(&pins, "a", &all), "{unrequested:?}");
            let _again = signed_in(&pins, "a", &all);
            assert!(is_stream(&pins, "a", &all));
        }
    }

    #[test]
    fn a_lost_connection_without_a_sign_in_is_replaced() {
        let (all, pins) = (PinnedConnections::default(), ClientPins::default());
        let (stream, end) = connection();
        pins.put("a", GROUP_KEY, stream, &all);
        drop(end);
        assert_eq!(pins.reauthentication_scheme("a", &bare()), None);
        assert!(matches!(pins.take("a", GROUP_KEY, &bare(), &all), PinnedUse::New));
    }

    /// A reload may have changed the route to the origin, the egress policy, and the client certificate.
    #[test]
    fn a_connection_from_before_a_reload_is_not_reused() {
        let (all, new) = (PinnedConnections::default(), PinnedConnections::default());
        let pins = ClientPins::default();
        let _end = signed_in(&pins, "a", &all);
        assert!(matches!(pins.take("a", GROUP_KEY, &bare(), &new), PinnedUse::SignedOut));
        let _end = signed_in(&pins, "a", &all);
        assert!(matches!(pins.take("a", GROUP_KEY + 1, &bare(), &all), PinnedUse::SignedOut));
        assert!(!all.evict_oldest());
    }
}
