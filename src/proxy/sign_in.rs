//! Sign-ins that count for a connection (RFC 4559 §6): a client's connection and one to the origin stay
//! together.
//!
//! Owns: which exchanges need that, and what their clients are told. Never touches: the connections
//! (`upstream::pinned`).

use http::HeaderMap;

use crate::front::session::Session;
use crate::proxy::handler::Handler;
use crate::semantics::asked::Asked;
use crate::semantics::session_auth::{self, PROXY_SUPPORT, SUPPORTED};
use crate::upstream::connect::{Channel, Owner};
use crate::upstream::peer::group_key;
use crate::upstream::place::Place;

impl Handler {
    /// Whether the client's connection has one to the place of `asked` for itself: then the origin alone
    /// answers, for there it is somebody.
    pub(super) fn has_signed_in(&self, asked: &Asked, client: &Session) -> bool {
        client.pins().is_some_and(|pins| {
            let place = self.network.upstreams.place(&asked.target);
            pins.has(group_key(&place, asked.listener))
        })
    }
}

/// Whose connection a call goes over.
pub(super) fn owner(asked: &Asked, client: &mut Session, place: &Place) -> Owner {
    let key = group_key(place, asked.listener);
    let pinned = client.pins().is_some_and(|pins| pins.has(key));
    if pinned || session_auth::is_sent(&asked.headers) { own(client) } else { Owner::Pool }
}

/// An answer has come: if it asks for such a sign-in, its connection is the client's from now on.
pub(super) fn heard(headers: &HeaderMap, client: &mut Session, channel: &mut Channel) {
    if session_auth::is_asked_for(headers) {
        channel.belongs_to(own(client));
    }
}

/// Tells the client that it may sign in here.
pub(super) fn tell(headers: &mut HeaderMap, client: &Session) {
    if matches!(client, Session::Http1(_)) && session_auth::is_asked_for(headers) {
        headers.insert(PROXY_SUPPORT, SUPPORTED);
    }
}

/// Where many exchanges share the client's connection, each has one of its own: it is nobody's afterwards.
fn own(client: &mut Session) -> Owner {
    client.pins_to_be().map_or(Owner::Call, |pins| Owner::Client(pins.clone()))
}
