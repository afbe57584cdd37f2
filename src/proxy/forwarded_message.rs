//! The changes to a message that passes through (RFC 9110 §7.6), and its effects on stored entries.
//!
//! Owns: the fields that are added and removed, in both directions. Never touches: the transfer of bodies
//! (`relay`).

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use crate::engine::head_update::{self, PassThroughStart};
use crate::engine::store_post::PostCapture;
use crate::frontend::session::{BodyLength, ClientSession};
use crate::proxy::ProxyHandler;
use crate::proxy::context::RequestContext;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::max_forwards;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::problem::{PROXY_STATUS, received_error};
use crate::upstream::BodyFraming;
use crate::upstream::admission::Permit;
use crate::upstream::connect::session::OutgoingRequest;
use crate::upstream::outcome::body_inspection;
use crate::upstream::retry::RetryState;
use crate::upstream::routing::UpstreamTarget;

/// The request to send to the origin.
pub(super) fn outgoing_request(
    handler: &ProxyHandler,
    request: &ProxyRequest,
    client: &ClientSession,
    upstream: &UpstreamTarget,
) -> OutgoingRequest {
    let mut headers = request.headers.clone();
    headers.append(http::header::VIA, handler.via.clone());
    for name in handler.routes.scope_headers(&request.target) {
        headers.remove(name);
    }
    max_forwards::decrement(&request.method, &mut headers);
    upstream.apply_upstream_headers(&request.method, &mut headers);
    OutgoingRequest {
        method: request.method.clone(),
        scheme: upstream.scheme.as_str(),
        authority: upstream.authority(),
        path: request.target.path_and_query().to_owned(),
        listener: request.listener,
        headers,
        spelling: client.spelling(),
        body: request.body,
        upgrade: request.upgrade.clone(),
        trailers: request.trailers,
    }
}

/// Adds the `Cache-Status` and `Proxy-Status` of a response that passes through.
pub(super) fn add_status_fields(ctx: &RequestContext, status: StatusCode, headers: &mut HeaderMap) {
    let mut cache_status = CacheStatus::forwarded(ctx.forward_reason.token()).status(status);
    if let Some((name, reason)) = ctx.retry.as_ref().and_then(RetryState::detail) {
        cache_status = cache_status.detail(name, reason.token());
    }
    cache_status.append_to(headers);
    if let Some(received) = received_error(status) {
        headers.append(PROXY_STATUS, received);
    }
}

/// The length of the body for the client.
pub(super) fn body_length(
    request: &ProxyRequest,
    status: StatusCode,
    headers: &HeaderMap,
    framing: BodyFraming,
    ended: bool,
) -> BodyLength {
    let bodiless = request.method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match framing {
        _ if bodiless => BodyLength::None,
        // An HTTP/2 head may end the stream. gRPC distinguishes this (trailers only) from an empty body.
        BodyFraming::Length(0)
            if ended
                && request.version == Version::HTTP_2
                && !headers.contains_key(CONTENT_LENGTH) =>
        {
            BodyLength::None
        }
        BodyFraming::Length(length) => BodyLength::Known(length),
        BodyFraming::Delimited | BodyFraming::Close => BodyLength::Unknown,
    }
}

/// Prefixes of the media types of gRPC and Connect streams.
const BIDIRECTIONAL_TYPES: [&[u8]; 2] = [b"application/grpc", b"application/connect+"];

/// Whether both sides send at the same time at any rate, so that the client's rate has no meaning.
pub(super) fn is_bidirectional(request: &ProxyRequest) -> bool {
    let media_type =
        request.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let has_prefix = |prefix: &[u8]| {
        media_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    request.upgrade.is_some() || BIDIRECTIONAL_TYPES.iter().any(|prefix| has_prefix(prefix))
}

/// Captures a piece of a response body that passes through.
pub(super) fn capture_piece(piece: &Bytes, ctx: &mut RequestContext) {
    // First, as the rules may find that the response must not be stored.
    ctx.capture_piece(piece);
    if let Some(mut recording) = ctx.post_capture.take()
        && recording.push(piece)
    {
        ctx.post_capture = Some(recording);
    }
}

/// The `GET` to which the response to this `POST` may also apply.
pub(super) fn as_get(request: &ProxyRequest) -> Option<ProxyRequest> {
    (request.method == Method::POST).then(|| head_update::as_a_get(request))
}

impl ProxyHandler {
    /// Applies the head of a response to the stored entries (invalidation, freshening).
    pub(super) async fn on_head(
        &self,
        request: &ProxyRequest,
        ctx: &mut RequestContext,
        status: StatusCode,
        headers: &HeaderMap,
        framing: BodyFraming,
    ) {
        let start = ctx.pass_through_start.as_ref().filter(|_| !ctx.signed_in);
        let is_limit = ctx.permit.as_ref().is_some_and(Permit::is_rate_limited);
        // Checked before its own invalidation: only those of other requests make the response outdated.
        let is_current = start.is_some_and(|start| self.engine.is_current(start));
        let is_recordable = is_current && framing != BodyFraming::Close;
        let record =
            || is_recordable.then(|| self.start_capture(request, ctx, status, headers)).flatten();
        let recording = self.engine.invalidate(request, status, headers, record).await;
        self.update_stored(request, (ctx.route, start), (status, is_limit), headers).await;
        ctx.post_capture = recording;
    }

    /// As [`Self::on_head`], for a call without a client.
    pub(super) async fn on_detached_head(
        &self,
        request: &ProxyRequest,
        read: (usize, Option<&PassThroughStart>),
        (status, is_limit): (StatusCode, bool),
        headers: &HeaderMap,
    ) {
        self.engine.invalidate(request, status, headers, || ()).await;
        self.update_stored(request, read, (status, is_limit), headers).await;
    }

    /// Applies the head of a response to the stored entries of its resource. `route` is the route of the
    /// request; `start` is `None` if the connection had a sign-in of its user.
    async fn update_stored(
        &self,
        request: &ProxyRequest,
        (route, start): (usize, Option<&PassThroughStart>),
        (status, is_limit): (StatusCode, bool),
        headers: &HeaderMap,
    ) {
        if let (Some(start), Some(route)) = (start, self.routes.routes().get(route)) {
            self.engine.on_read_response(request, route, start, (status, is_limit), headers).await;
            self.engine.on_head_response(request, route, start, status, headers).await;
        }
    }

    /// Starts the capture of a `POST` response that later `GET`s may use.
    fn start_capture(
        &self,
        request: &ProxyRequest,
        ctx: &RequestContext,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<PostCapture> {
        let route = self.routes.find(&as_get(request)?)?;
        // If a rule applies to the body but cannot inspect it, the response may be an error.
        let may_be_error = ctx.permit.as_ref().is_some_and(Permit::body_affects_outcome);
        if may_be_error && ctx.body_capture.is_none() && body_inspection::may_be_json(headers) {
            return None;
        }
        self.engine.capture_post(request, route, ctx.pass_through_start.as_ref()?, status, headers)
    }

    /// Completes the captures after the whole body has passed through.
    pub(super) async fn on_body_end(&self, ctx: &mut RequestContext) {
        ctx.inspect_body().await;
        if let Some(recording) = ctx.post_capture.take() {
            self.engine.store_captured(recording);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;
    use http::{HeaderMap, HeaderValue};

    use super::is_bidirectional;
    use crate::semantics::request::ProxyRequest;
    use crate::semantics::target::Target;

    #[test]
    fn grpc_and_connect_streams_may_pause_and_other_bodies_may_not() {
        for (media_type, expected) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc-web", true),
            ("application/connect+json", true),
            ("application/json", false),
            ("application/connector", false),
            ("", false),
        ] {
            let mut request = ProxyRequest::get(Target::absolute("http://h/").unwrap());
            let value = HeaderValue::from_static(media_type);
            request.headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
            assert_eq!(is_bidirectional(&request), expected, "{media_type}");
        }
    }
}
