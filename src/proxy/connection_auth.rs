//! Connection-oriented authentication, such as NTLM and Negotiate (RFC 4559 §6): a client's sign-in is
//! valid for one connection to the origin, which is therefore pinned to the client's connection.
//!
//! Owns: the choice of the requests that need a pinned connection, and the responses to their clients.
//! Never touches: the connections (`upstream::pinned_connections`).

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::frontend::session::ClientSession;
use crate::proxy::context::{ExchangeFailure, RequestContext};
use crate::proxy::{ExchangeEnd, ProxyHandler};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::connection_auth::{self, PROXY_SUPPORT, SUPPORTED};
use crate::semantics::request::ProxyRequest;
use crate::telemetry::problem::Problem;
use crate::upstream::connect::pinned::ClientPins;
use crate::upstream::connect::pool::{CallChannel, ConnectionOwner};
use crate::upstream::routing::UpstreamTarget;

/// The 401 for a client whose sign-in was lost. larder sends it instead of the origin, which would only
/// send the same response to an anonymous request.
const SIGNED_OUT: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "signed_out",
    "the connection to the origin on which this client was signed in has ended: it must sign in again",
    "connection_terminated",
);

impl ProxyHandler {
    /// Whether a connection to the origin of `request` is pinned to the client's connection. The request
    /// must then go to the origin, where the client is signed in.
    pub(super) fn has_pinned_connection(
        &self,
        request: &ProxyRequest,
        client: &ClientSession,
    ) -> bool {
        client.pins().is_some_and(|pins| {
            let upstream = self.network.upstreams.lookup(&request.target);
            pins.has(&upstream.origin())
        })
    }

    /// Requests a new sign-in, on the client's next connection, as the client regards this one as signed
    /// in. The client may repeat `request`: the origin has not received it, or it is idempotent.
    pub(super) async fn reply_signed_out(
        &self,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        scheme: &'static str,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        ctx.permit = None;
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        CacheStatus::refused().append_to(&mut headers);
        self.write_error_with(request, client, ctx, &SIGNED_OUT, headers).await?;
        Ok(ExchangeEnd::Completed)
    }
}

/// The scheme of a lost sign-in, which the client must repeat before `request` may be sent to `upstream`.
pub(super) fn lost_sign_in(
    request: &ProxyRequest,
    client: &ClientSession,
    upstream: &UpstreamTarget,
) -> Option<&'static str> {
    client.pins()?.reauthentication_scheme(&upstream.origin(), &request.headers)
}

/// Handles an HTTP/2 response that requests a connection-oriented sign-in, which is impossible over HTTP/2,
/// so the client must use HTTP/1. The first such response is passed on and is the last one of its
/// connection: all clients understand a 401, but few can repeat a request over HTTP/1 (Go's client cannot).
/// If the request was already a step of a sign-in, the next step would be for a connection that the client
/// does not have. The function then resets the stream with `HTTP_1_1_REQUIRED` and returns true. The
/// connection stays open, because curl 7.88 misses that reset if the connection closes right after it.
pub(super) fn needs_http1(
    request: &ProxyRequest,
    client: &mut ClientSession,
    ctx: &mut RequestContext,
    (status, headers): (StatusCode, &HeaderMap),
) -> bool {
    let requests_sign_in =
        status == StatusCode::UNAUTHORIZED && connection_auth::is_in_response(headers);
    let Some(siblings) = client.shared_connection().filter(|_| requests_sign_in) else {
        return false;
    };
    if !siblings.require_http1() {
        return false;
    }
    if connection_auth::is_in_request(&request.headers) {
        ctx.error = Some("http1_required");
        client.require_http1();
        return true;
    }
    client.goaway_after();
    false
}

/// The owner of the connection for a call.
pub(super) fn connection_owner(
    request: &ProxyRequest,
    client: &mut ClientSession,
    upstream: &UpstreamTarget,
) -> ConnectionOwner {
    let pinned = client.pins().is_some_and(|pins| pins.has(&upstream.origin()));
    if !pinned && !connection_auth::is_in_request(&request.headers) {
        return ConnectionOwner::Pool;
    }
    if client.pins().is_some_and(ClientPins::is_nearly_full) {
        client.close_after();
    }
    reserved_owner(client, upstream)
}

/// Handles the head of a response. If it requests a connection-oriented sign-in, its connection is pinned to
/// the client. If the origin closes a pinned connection, the client's connection is closed too, so that the
/// client notices the lost sign-in.
pub(super) fn on_response_head(
    headers: &HeaderMap,
    client: &mut ClientSession,
    channel: &mut CallChannel,
    upstream: &UpstreamTarget,
) {
    if channel.is_pinned() && !channel.persists() {
        client.close_after();
    }
    if connection_auth::is_in_response(headers) {
        channel.set_owner(reserved_owner(client, upstream));
    }
}

/// Adds `Proxy-Support`, which allows the client to sign in through larder.
pub(super) fn add_proxy_support(headers: &mut HeaderMap, client: &ClientSession) {
    if matches!(client, ClientSession::Http1(_)) && connection_auth::is_in_response(headers) {
        headers.insert(PROXY_SUPPORT, SUPPORTED);
    }
}

/// The owner of a connection that is reserved for the client. If the client's connection carries several
/// requests at once (HTTP/2), each call gets its own connection, which is not reused.
fn reserved_owner(client: &mut ClientSession, upstream: &UpstreamTarget) -> ConnectionOwner {
    let pins = client.ensure_pins();
    pins.map_or(ConnectionOwner::Call, |pins| {
        ConnectionOwner::Client(pins.clone(), upstream.origin())
    })
}
