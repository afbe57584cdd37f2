//! The changes to a message that passes through (RFC 9110 §7.6), and its effects on stored entries.
//!
//! Owns: the fields that are added and removed, in both directions. Never touches: the transfer of bodies
//! (`relay`).

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use crate::frontend::session::BodyLength;
use crate::proxy::context::RequestContext;
use crate::proxy::exchange::Exchange;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::max_forwards;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::problem::{PROXY_STATUS, received_error};
use crate::upstream::BodyFraming;
use crate::upstream::admission::Permit;
use crate::upstream::connect::session::OutgoingRequest;
use crate::upstream::outcome::body_inspection;
use crate::upstream::retry::RetryState;

/// The request to send to the origin.
pub(super) fn outgoing_request(exchange: &Exchange) -> OutgoingRequest {
    let (request, upstream) = (&exchange.routed.request, exchange.routed.upstream());
    let mut headers = request.headers.clone();
    upstream.add_intermediary(&exchange.handler.via, &mut headers);
    for name in exchange.handler.router.routes.scope_headers(&request.target) {
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
        spelling: exchange.client.spelling(),
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
    let bodiless =
        request.method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match framing {
        _ if bodiless => BodyLength::None,
        // An HTTP/2 head may end the stream. gRPC distinguishes this (trailers only) from an empty body.
        BodyFraming::Length(0)
            if ended && request.version == Version::HTTP_2 && !headers.contains_key(CONTENT_LENGTH) =>
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
    let media_type = request.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let has_prefix = |prefix: &[u8]| {
        media_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    request.upgrade.is_some() || BIDIRECTIONAL_TYPES.iter().any(|prefix| has_prefix(prefix))
}

impl Exchange {
    /// Applies the head of a response to the stored entries (invalidation, freshening).
    pub(super) async fn on_head(&mut self, status: StatusCode, headers: &HeaderMap, framing: BodyFraming) {
        let (engine, ctx) = (&self.handler.engine, &self.ctx);
        let start = ctx.pass_through_start.as_ref().filter(|_| !ctx.signed_in);
        let is_limit = ctx.permit.as_ref().is_some_and(Permit::is_rate_limited);
        // Checked before its own invalidation: only those of other requests make the response outdated.
        let is_current = start.is_some_and(|start| engine.pass_through.is_current(start));
        let is_recordable = is_current && framing != BodyFraming::Close;
        let record = || {
            start.filter(|_| is_recordable).and_then(|start| {
                // If a rule applies to the body but cannot inspect it, the response may be an error.
                let may_be_error =
                    ctx.permit.as_ref().is_some_and(|permit| permit.body_affects_outcome(status))
                        && ctx.body_capture.is_none()
                        && body_inspection::may_be_json(headers);
                (!may_be_error).then(|| engine.pass_through.capture_post(start, status, headers))?
            })
        };
        let request = &self.routed.request;
        let recording = engine.purger.invalidate(request, status, headers, record).await;
        if let Some(start) = start {
            let response = (status, is_limit);
            engine.pass_through.on_read_response(&self.routed, start, response, headers).await;
        }
        self.ctx.post_capture = recording;
    }

    /// Completes the captures after the whole body has passed through.
    pub(super) async fn on_body_end(&mut self) {
        self.ctx.inspect_body().await;
        if let Some(refusal) = self.ctx.refusal.take() {
            refusal.finish();
        }
        if let Some(recording) = self.ctx.post_capture.take() {
            self.handler.engine.pass_through.store_captured(recording);
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
