//! Connections to origins that belong to one client's connection: a user has signed in on them
//! (RFC 4559 §6).
//!
//! Owns: which of them a client's connection has between its requests, how many there are of all clients
//! together, and that a sign-in whose connection has ended is not forgotten: its client still believes in it.
//! Never touches: which requests need one (`semantics::session_auth`); connections that anybody's calls may
//! use (`connect`); what a client is told (`proxy::sign_in`).

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin as Pinning;
use std::sync::Arc;
use std::task::{Context, Waker};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::semantics::connection_auth;

/// How many connections to origins one client's connection has; beyond that the oldest is let go.
const MOST: usize = 8;

/// How many origins are remembered at which a client's connection has signed in.
const ORIGINS: usize = 64;

/// How many wait for their next call in all; beyond that the one that has waited longest is let go. Each
/// holds a descriptor that no client's call accounts for.
pub const MOST_IN_ALL: usize = 256;

/// The connections to origins that one client's connection has for itself. They end with it. Cheap to
/// clone: a call under way brings its connection back.
#[derive(Clone, Default)]
pub struct ClientPins(Arc<Mutex<Vec<Pin>>>);

struct Pin {
    /// As [`crate::upstream::place::UpstreamTarget::origin`] writes it. A reload may lead to the same origin another way; who the client believes to be
    /// there does not change with it.
    origin: String,
    /// The scheme by which the client has signed in here, if it has.
    scheme: Option<&'static str>,
    /// `None`: in use by a call, or it has ended.
    waiting: Option<Waiting>,
}

/// What a call of a client's goes over.
pub(super) enum PinnedUse {
    /// The client's own connection.
    Stream(Stream),
    /// A new connection: nothing that the client believes in is lost.
    New,
    /// Nothing: the client believes that it is signed in, and the connection on which it was has ended.
    SignedOut,
}

impl ClientPins {
    /// Whether the client has a connection to this origin, or believes that it is signed in there.
    pub fn has(&self, origin: &str) -> bool {
        let pins = self.0.lock();
        pins.iter().any(|pin| pin.origin == origin && (pin.scheme.is_some() || pin.is_there()))
    }

    /// The scheme by which a client has to sign in anew before a request with these fields is sent to this
    /// origin: it believes that it has, and says nothing of who asks, and the connection on which it was signed
    /// in has ended. The origin would take such a request for nobody's.
    pub fn signed_out(&self, origin: &str, request: &HeaderMap) -> Option<&'static str> {
        let mut pins = self.0.lock();
        let pin = pins.iter_mut().find(|pin| pin.origin == origin)?;
        let scheme = pin.scheme.filter(|_| !request.contains_key(AUTHORIZATION))?;
        (!pin.is_of_use()).then_some(scheme)
    }

    /// Whether the origins at which the client has signed in are nearly too many to remember.
    pub fn are_many(&self) -> bool {
        self.0.lock().len() + 1 >= ORIGINS
    }

    /// What a call to this origin with these fields goes over. `place` and `all` are those of the call: a
    /// connection that was made another way, as before a reload, is of no use to it.
    pub(super) fn take(
        &self,
        origin: &str,
        place: u64,
        request: &HeaderMap,
        all: &PinnedConnections,
    ) -> PinnedUse {
        let mut pins = self.0.lock();
        let mut pin = pins.iter_mut().find(|pin| pin.origin == origin);
        let believes = pin.as_ref().is_some_and(|pin| pin.scheme.is_some());
        let stream = pin.as_mut().and_then(|pin| pin.take(place, all));
        let signs_in = connection_auth::scheme_sent(request);
        match (pin, signs_in) {
            (Some(pin), Some(_)) => pin.scheme = signs_in,
            (None, Some(_)) => {
                pins.push(Pin { origin: origin.to_owned(), scheme: signs_in, waiting: None });
            }
            (_, None) => {}
        }
        match stream {
            Some(stream) => PinnedUse::Stream(stream),
            None if believes && !request.contains_key(AUTHORIZATION) => PinnedUse::SignedOut,
            None => PinnedUse::New,
        }
    }

    /// Keeps a connection whose call is over, as one of `all`.
    pub(super) fn put(&self, origin: &str, place: u64, stream: Stream, all: &PinnedConnections) {
        let mut pins = self.0.lock();
        let known = pins.iter().find(|pin| pin.origin == origin);
        let scheme = known.and_then(|pin| pin.scheme);
        // One client's connection has one call at a time: a second one to an origin is a newer one.
        pins.retain(|pin| pin.origin != origin && (pin.scheme.is_some() || pin.is_there()));
        if pins.iter().filter(|pin| pin.is_there()).count() == MOST
            && let Some(oldest) = pins.iter_mut().find(|pin| pin.is_there())
        {
            oldest.waiting = None;
        }
        let waiting = Some(all.keep(stream, place));
        pins.push(Pin { origin: origin.to_owned(), scheme, waiting });
    }
}

impl Pin {
    fn is_there(&self) -> bool {
        self.waiting.as_ref().is_some_and(Waiting::is_there)
    }

    /// Whether it is there, and the origin has neither ended it nor said anything unasked.
    fn is_of_use(&mut self) -> bool {
        let Some(waiting) = &self.waiting else { return false };
        let is = waiting.is_quiet();
        if !is {
            self.waiting = None;
        }
        is
    }

    fn take(&mut self, place: u64, all: &PinnedConnections) -> Option<Stream> {
        let of_use = self.is_of_use();
        let waiting = self.waiting.take().filter(|_| of_use)?;
        (waiting.place == place && Arc::ptr_eq(&waiting.all.0, &all.0))
            .then(|| waiting.take())
            .flatten()
    }
}

impl fmt::Debug for ClientPins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pins({})", self.0.lock().len())
    }
}

/// The connections that wait for their next call, of all clients. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct PinnedConnections(Arc<Mutex<Streams>>);

#[derive(Default)]
struct Streams {
    next: u64,
    /// In the order in which they began to wait.
    waiting: BTreeMap<u64, Stream>,
}

impl PinnedConnections {
    fn keep(&self, stream: Stream, place: u64) -> Waiting {
        let mut all = self.0.lock();
        let id = all.next;
        all.next += 1;
        all.waiting.insert(id, stream);
        let oldest = (all.waiting.len() > MOST_IN_ALL).then(|| all.waiting.pop_first()).flatten();
        drop(all);
        drop(oldest);
        Waiting { id, place, all: self.clone() }
    }

    /// Lets go of the one that has waited longest; false: there is none.
    pub(super) fn let_one_go(&self) -> bool {
        let oldest = self.0.lock().waiting.pop_first();
        oldest.is_some()
    }
}

/// A connection that waits. It may be let go meanwhile.
struct Waiting {
    id: u64,
    /// Host, port, scheme, upstream and listener ([`crate::upstream::peer::group_key`]).
    place: u64,
    all: PinnedConnections,
}

impl Waiting {
    fn is_there(&self) -> bool {
        self.all.0.lock().waiting.contains_key(&self.id)
    }

    fn take(&self) -> Option<Stream> {
        self.all.0.lock().waiting.remove(&self.id)
    }

    /// Whether it is there, and nothing has come on it, not even its end.
    fn is_quiet(&self) -> bool {
        let Some(mut stream) = self.take() else { return false };
        let mut byte = [0];
        // What comes before anything was asked answers nobody: that it is taken off here is no loss.
        let read = Pinning::new(&mut stream)
            .poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte));
        if read.is_ready() {
            return false;
        }
        self.all.0.lock().waiting.insert(self.id, stream);
        true
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Outside the lock: the end of a connection may take a moment.
        let stream = self.take();
        drop(stream);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const PLACE: u64 = 1;

    /// A connection, and the origin's end of it.
    fn connection() -> (Stream, DuplexStream) {
        let (own, origins) = duplex(16);
        (Box::new(own), origins)
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
        assert!(matches!(pins.take(origin, PLACE, &fields("ntlm x"), all), PinnedUse::New));
        pins.put(origin, PLACE, stream, all);
        end
    }

    fn is_stream(pins: &ClientPins, origin: &str, all: &PinnedConnections) -> bool {
        matches!(pins.take(origin, PLACE, &bare(), all), PinnedUse::Stream(_))
    }

    fn is_lost(pins: &ClientPins, origin: &str, all: &PinnedConnections) -> bool {
        let told = pins.signed_out(origin, &bare());
        pins.has(origin)
            && told == Some("NTLM")
            && matches!(pins.take(origin, PLACE, &bare(), all), PinnedUse::SignedOut)
            && matches!(pins.take(origin, PLACE, &fields("Basic x"), all), PinnedUse::New)
    }

    #[test]
    fn a_clients_connection_has_one_to_an_origin_and_few_in_all() {
        let (all, pins) = (PinnedConnections::default(), ClientPins::default());
        let ends = ["1", "1", "2", "3", "4", "5", "6", "7", "8", "9"].map(|origin| {
            let (stream, end) = connection();
            pins.put(origin, PLACE, stream, &all);
            end
        });
        assert!(!pins.has("1") && pins.has("2") && pins.has("9"));
        assert!(is_stream(&pins, "2", &all) && !pins.has("2") && !is_stream(&pins, "2", &all));
        assert_eq!(all.0.lock().waiting.len(), MOST - 1);
        drop((pins, ends));
        assert!(!all.let_one_go(), "they end with the client's connection");
    }

    #[test]
    fn a_sign_in_that_made_room_for_others_is_not_forgotten() {
        let (all, pins) = (PinnedConnections::default(), ClientPins::default());
        let origins: Vec<_> = (0..ORIGINS).map(|n| n.to_string()).collect();
        let mut ends = Vec::new();
        for origin in &origins {
            assert_eq!(pins.are_many(), ends.len() + 1 >= ORIGINS);
            ends.push(signed_in(&pins, origin, &all));
        }
        let (lost, kept) = origins.split_at(ORIGINS - MOST);
        assert!(lost.iter().all(|origin| is_lost(&pins, origin, &all)));
        assert!(kept.iter().all(|origin| is_stream(&pins, origin, &all)));
    }

    #[test]
    fn beyond_the_most_of_all_clients_the_one_that_has_waited_longest_goes() {
        let all = PinnedConnections::default();
        let clients: Vec<ClientPins> =
            (0..MOST_IN_ALL + 2).map(|_| ClientPins::default()).collect();
        let mut ends = vec![signed_in(&clients[0], "a", &all), signed_in(&clients[1], "a", &all)];
        let PinnedUse::Stream(used) = clients[0].take("a", PLACE, &bare(), &all) else {
            panic!("its own")
        };
        clients[0].put("a", PLACE, used, &all);
        for client in &clients[2..] {
            ends.push(signed_in(client, "a", &all));
        }
        assert!(is_lost(&clients[1], "a", &all));
        assert!(is_lost(&clients[0], "a", &all), "the next to go");
        assert!(all.let_one_go() && is_lost(&clients[2], "a", &all));
        assert!(is_stream(&clients[3], "a", &all));
        assert_eq!(all.0.lock().waiting.len(), MOST_IN_ALL - 2);
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_or_on_which_something_unasked_came_is_not_used() {
        for unasked in [&b""[..], b"HTTP/1.1 200 OK\r\n"] {
            let (all, pins) = (PinnedConnections::default(), ClientPins::default());
            let mut end = signed_in(&pins, "a", &all);
            assert_eq!(pins.signed_out("a", &bare()), None);
            if unasked.is_empty() {
                drop(end);
            } else {
                end.write_all(&unasked[..16]).await.unwrap();
            }
            assert!(is_lost(&pins, "a", &all), "{unasked:?}");
            let _again = signed_in(&pins, "a", &all);
            assert!(is_stream(&pins, "a", &all));
        }
    }

    #[test]
    fn a_connection_on_which_nobody_signed_in_is_no_loss() {
        let (all, pins) = (PinnedConnections::default(), ClientPins::default());
        let (stream, end) = connection();
        pins.put("a", PLACE, stream, &all);
        drop(end);
        assert_eq!(pins.signed_out("a", &bare()), None);
        assert!(matches!(pins.take("a", PLACE, &bare(), &all), PinnedUse::New));
    }

    /// A reload may have changed where its origin is, whether one may go there, and what it has to show.
    #[test]
    fn a_connection_of_before_a_reload_is_not_used() {
        let (all, new) = (PinnedConnections::default(), PinnedConnections::default());
        let pins = ClientPins::default();
        let _end = signed_in(&pins, "a", &all);
        assert!(matches!(pins.take("a", PLACE, &bare(), &new), PinnedUse::SignedOut));
        let _end = signed_in(&pins, "a", &all);
        assert!(matches!(pins.take("a", PLACE + 1, &bare(), &all), PinnedUse::SignedOut));
        assert!(!all.let_one_go());
    }
}
