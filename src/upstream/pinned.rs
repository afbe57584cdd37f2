//! Connections to origins that belong to one client's connection: a user has signed in on them
//! (RFC 4559 §6).
//!
//! Owns: which of them a client's connection has between its requests. Never touches: which requests
//! need one (`semantics::session_auth`); connections that anybody's calls may use (`connect`).

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use pingora_core::protocols::Stream;

/// How many origins one client's connection may be signed in at; beyond that the oldest is let go.
const MOST: usize = 8;

/// The connections to origins that one client's connection has for itself. They end with it. Cheap to
/// clone: a call under way brings its connection back.
#[derive(Clone, Default)]
pub struct Pins(Arc<Mutex<Vec<Pin>>>);

struct Pin {
    /// Host, port, scheme, upstream and listener ([`crate::upstream::peer::group_key`]).
    place: u64,
    stream: Stream,
}

impl Pins {
    /// Whether there is one to this place.
    pub fn has(&self, place: u64) -> bool {
        self.0.lock().iter().any(|pin| pin.place == place)
    }

    /// The one to this place, for a call.
    pub(super) fn take(&self, place: u64) -> Option<Stream> {
        let mut pins = self.0.lock();
        let at = pins.iter().position(|pin| pin.place == place)?;
        Some(pins.remove(at).stream)
    }

    /// Keeps a connection whose call is over.
    pub(super) fn put(&self, place: u64, stream: Stream) {
        let mut pins = self.0.lock();
        // One client's connection has one call at a time: a second one to a place is a newer one.
        pins.retain(|pin| pin.place != place);
        if pins.len() == MOST {
            pins.remove(0);
        }
        pins.push(Pin { place, stream });
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pins({})", self.0.lock().len())
    }
}
