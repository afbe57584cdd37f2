//! Connections to origins that belong to one client's connection: a user has signed in on them
//! (RFC 4559 §6).
//!
//! Owns: which of them a client's connection has between its requests, and how many there are of all
//! clients together. Never touches: which requests need one (`semantics::session_auth`); connections that
//! anybody's calls may use (`connect`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use pingora_core::protocols::Stream;

/// How many origins one client's connection may be signed in at; beyond that the oldest is let go.
const MOST: usize = 8;

/// How many wait for their next call in all; beyond that the one that has waited longest is let go. Each
/// holds a descriptor that no client's call accounts for.
pub const MOST_IN_ALL: usize = 256;

/// The connections to origins that one client's connection has for itself. They end with it. Cheap to
/// clone: a call under way brings its connection back.
#[derive(Clone, Default)]
pub struct Pins(Arc<Mutex<Vec<Pin>>>);

struct Pin {
    /// Host, port, scheme, upstream and listener ([`crate::upstream::peer::group_key`]).
    place: u64,
    waiting: Waiting,
}

impl Pins {
    /// Whether there is one to this place.
    pub fn has(&self, place: u64) -> bool {
        self.0.lock().iter().any(|pin| pin.place == place && pin.waiting.is_there())
    }

    /// The one to this place, for a call.
    pub(super) fn take(&self, place: u64) -> Option<Stream> {
        let mut pins = self.0.lock();
        let at = pins.iter().position(|pin| pin.place == place)?;
        pins.remove(at).waiting.take()
    }

    /// Keeps a connection whose call is over, as one of `all`.
    pub(super) fn put(&self, place: u64, stream: Stream, all: &Pinned) {
        let mut pins = self.0.lock();
        // One client's connection has one call at a time: a second one to a place is a newer one.
        pins.retain(|pin| pin.place != place && pin.waiting.is_there());
        if pins.len() == MOST {
            pins.remove(0);
        }
        pins.push(Pin { place, waiting: all.keep(stream) });
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pins({})", self.0.lock().len())
    }
}

/// The connections that wait for their next call, of all clients. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Pinned(Arc<Mutex<Streams>>);

#[derive(Default)]
struct Streams {
    next: u64,
    /// In the order in which they began to wait.
    waiting: BTreeMap<u64, Stream>,
}

impl Pinned {
    fn keep(&self, stream: Stream) -> Waiting {
        let mut all = self.0.lock();
        let id = all.next;
        all.next += 1;
        all.waiting.insert(id, stream);
        let oldest = (all.waiting.len() > MOST_IN_ALL).then(|| all.waiting.pop_first()).flatten();
        drop(all);
        drop(oldest);
        Waiting { id, all: self.clone() }
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
    all: Pinned,
}

impl Waiting {
    fn is_there(&self) -> bool {
        self.all.0.lock().waiting.contains_key(&self.id)
    }

    fn take(&self) -> Option<Stream> {
        self.all.0.lock().waiting.remove(&self.id)
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
    use tokio::io::duplex;

    use super::*;

    fn stream() -> Stream {
        Box::new(duplex(1).0)
    }

    #[test]
    fn a_clients_connection_has_one_to_a_place_and_few_in_all() {
        let (all, pins) = (Pinned::default(), Pins::default());
        for place in [1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
            pins.put(place, stream(), &all);
        }
        assert!(!pins.has(1) && pins.has(2) && pins.has(9));
        assert!(pins.take(2).is_some() && !pins.has(2) && pins.take(2).is_none());
        assert_eq!(all.0.lock().waiting.len(), MOST - 1);
        drop(pins);
        assert!(!all.let_one_go(), "they end with the client's connection");
    }

    #[test]
    fn beyond_the_most_of_all_clients_the_one_that_has_waited_longest_goes() {
        let all = Pinned::default();
        let clients: Vec<Pins> = (0..MOST_IN_ALL + 2).map(|_| Pins::default()).collect();
        clients[0].put(7, stream(), &all);
        clients[1].put(7, stream(), &all);
        let used = clients[0].take(7).expect("its own");
        clients[0].put(7, used, &all);
        for client in &clients[2..] {
            client.put(7, stream(), &all);
        }
        assert!(!clients[1].has(7) && clients[1].take(7).is_none());
        assert!(!clients[0].has(7), "the next to go");
        assert!(clients[2].has(7) && all.let_one_go() && !clients[2].has(7));
        assert_eq!(all.0.lock().waiting.len(), MOST_IN_ALL - 1);
    }
}
