//! Sign-ins that count for a connection (RFC 4559 §6): a client's connection and one to the origin stay
//! together.
//!
//! Owns: which exchanges need that, and what their clients are told. Never touches: the connections
//! (`upstream::pinned`).

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::frontend::session::ClientSession;
use crate::proxy::context::{ExchangeFailure, RequestContext};
use crate::proxy::handler::{ExchangeEnd, PingoraHandler};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::connection_auth::{self, PROXY_SUPPORT, SUPPORTED};
use crate::semantics::request::ProxyRequest;
use crate::telemetry::problem::Problem;
use crate::upstream::connection_pool::{CallChannel, ConnectionOwner};
use crate::upstream::pinned_connections::ClientPins;
use crate::upstream::routing::UpstreamTarget;

/// What a client is told that believes it is signed in: larder asks in the place of the origin, which would
/// have to be asked as nobody to say the same.
const SIGNED_OUT: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "signed_out",
    "the connection to the origin on which this client had signed in has ended: it has to sign in again",
    "connection_terminated",
);

impl PingoraHandler {
    /// Whether the client's connection has one to the place of `asked` for itself: then the origin alone
    /// answers, for there it is somebody.
    pub(super) fn has_signed_in(&self, asked: &ProxyRequest, client: &ClientSession) -> bool {
        client.pins().is_some_and(|pins| {
            let place = self.network.upstreams.place(&asked.target);
            pins.has(&place.origin())
        })
    }

    /// Asks the client to sign in again, over its next connection; this one it takes for its user's. Either the
    /// origin has not seen `asked`, or making it twice does no more than once: it may be made again.
    pub(super) async fn signed_out(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        scheme: &'static str,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        ctx.pass = None;
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        CacheStatus::refused().append_to(&mut headers);
        self.tell_with(asked, client, ctx, &SIGNED_OUT, headers).await?;
        Ok(ExchangeEnd::Answered)
    }
}

/// The scheme by which the client has to sign in again before `asked` may be sent to `place`.
pub(super) fn lost(
    asked: &ProxyRequest,
    client: &ClientSession,
    place: &UpstreamTarget,
) -> Option<&'static str> {
    client.pins()?.signed_out(&place.origin(), &asked.headers)
}

/// An answer over HTTP/2 that asks for such a sign-in: there nobody can sign in, so its client is to come by
/// HTTP/1. The first question is passed on, and is the last answer of its connection: all clients know a 401,
/// and few (Go's does not) how to make a request again over HTTP/1. Where the request was a step of a sign-in,
/// the next one would be for a connection that the client does not have: then true, and the stream has ended
/// with the word that it is to be taken again over HTTP/1. Its connection stays: curl 7.88 misses that word
/// where the connection ends right behind it.
pub(super) fn is_left_to_http1(
    asked: &ProxyRequest,
    client: &mut ClientSession,
    ctx: &mut RequestContext,
    (status, headers): (StatusCode, &HeaderMap),
) -> bool {
    let asks = status == StatusCode::UNAUTHORIZED && connection_auth::is_asked_for(headers);
    let Some(siblings) = client.siblings().filter(|_| asks) else { return false };
    if !siblings.need_http1() {
        return false;
    }
    if connection_auth::is_sent(&asked.headers) {
        ctx.error = Some("http1_required");
        client.require_http1();
        return true;
    }
    client.leave_after();
    false
}

/// Whose connection a call goes over.
pub(super) fn owner(
    asked: &ProxyRequest,
    client: &mut ClientSession,
    place: &UpstreamTarget,
) -> ConnectionOwner {
    let pinned = client.pins().is_some_and(|pins| pins.has(&place.origin()));
    if !pinned && !connection_auth::is_sent(&asked.headers) {
        return ConnectionOwner::Pool;
    }
    if client.pins().is_some_and(ClientPins::are_many) {
        client.close_after();
    }
    own(client, place)
}

/// An answer has come: if it asks for such a sign-in, its connection is the client's from now on. Where a client
/// may have signed in and the origin ends that, the client's connection ends too: so it learns of it.
pub(super) fn heard(
    headers: &HeaderMap,
    client: &mut ClientSession,
    channel: &mut CallChannel,
    place: &UpstreamTarget,
) {
    if channel.is_a_clients() && !channel.persists() {
        client.close_after();
    }
    if connection_auth::is_asked_for(headers) {
        channel.belongs_to(own(client, place));
    }
}

/// Tells the client that it may sign in here.
pub(super) fn tell(headers: &mut HeaderMap, client: &ClientSession) {
    if matches!(client, ClientSession::Http1(_)) && connection_auth::is_asked_for(headers) {
        headers.insert(PROXY_SUPPORT, SUPPORTED);
    }
}

/// Where many exchanges share the client's connection, each has one of its own: it is nobody's afterwards.
fn own(client: &mut ClientSession, place: &UpstreamTarget) -> ConnectionOwner {
    let pins = client.pins_to_be();
    pins.map_or(ConnectionOwner::Call, |pins| ConnectionOwner::Client(pins.clone(), place.origin()))
}
