//! Connection-oriented authentication, such as NTLM and Negotiate (RFC 4559 §6): a client's sign-in is
//! valid for one connection to the origin, which is therefore pinned to the client's connection.
//!
//! Owns: the choice of the requests that need a pinned connection, and the responses to their clients.
//! Never touches: the connections (`upstream::connect::pinned`).

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::frontend::session::ClientSession;
use crate::proxy::ExchangeEnd;
use crate::proxy::context::ExchangeFailure;
use crate::proxy::exchange::Exchange;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::connection_auth;
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

impl Exchange {
    /// The scheme of a lost sign-in, which the client must repeat before the request may be sent.
    pub(super) fn lost_sign_in(&self) -> Option<&'static str> {
        let (request, upstream) = (&self.routed.request, self.routed.upstream());
        self.client.pins()?.reauthentication_scheme(&upstream.origin(), &request.headers)
    }

    /// Requests a new sign-in, on the client's next connection, as the client regards this one as signed
    /// in. The client may repeat the request: the origin has not received it, or it is idempotent.
    pub(super) async fn reply_signed_out(
        &mut self,
        scheme: &'static str,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        self.ctx.permit = None;
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        CacheStatus::refused().append_to(&mut headers);
        self.write_error_with(&SIGNED_OUT, headers).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Handles an HTTP/2 response that requests a connection-oriented sign-in, which is impossible over HTTP/2,
    /// so the client must use HTTP/1. The first such response is passed on and is the last one of its
    /// connection: all clients understand a 401, but few can repeat a request over HTTP/1 (Go's client cannot).
    /// If the request was already a step of a sign-in, the next step would be for a connection that the client
    /// does not have. The function then resets the stream with `HTTP_1_1_REQUIRED` and returns true. The
    /// connection stays open, because curl 7.88 misses that reset if the connection closes right after it.
    pub(super) fn needs_http1(&mut self, status: StatusCode, headers: &HeaderMap) -> bool {
        let requests_sign_in = status == StatusCode::UNAUTHORIZED && connection_auth::is_in_response(headers);
        let Some(siblings) = self.client.shared_connection().filter(|_| requests_sign_in) else {
            return false;
        };
        if !siblings.require_http1() {
            return false;
        }
        if connection_auth::is_in_request(&self.request().headers) {
            self.ctx.error = Some("http1_required");
            self.client.require_http1();
            return true;
        }
        self.client.goaway_after();
        false
    }

    /// The owner of the connection for a call.
    pub(super) fn connection_owner(&mut self) -> ConnectionOwner {
        let (request, upstream) = (&self.routed.request, self.routed.upstream());
        let client = &mut self.client;
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
    pub(super) fn on_sign_in_head(&mut self, headers: &HeaderMap, channel: &mut CallChannel) {
        if channel.is_pinned() && !channel.persists() {
            self.client.close_after();
        }
        if connection_auth::is_in_response(headers) {
            channel.set_owner(reserved_owner(&mut self.client, self.routed.upstream()));
        }
    }
}

/// The owner of a connection that is reserved for the client. If the client's connection carries several
/// requests at once (HTTP/2), each call gets its own connection, which is not reused.
fn reserved_owner(client: &mut ClientSession, upstream: &UpstreamTarget) -> ConnectionOwner {
    let pins = client.ensure_pins();
    pins.map_or(ConnectionOwner::Call, |pins| ConnectionOwner::Client(pins.clone(), upstream.origin()))
}
