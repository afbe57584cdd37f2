//! What is changed in a message that passes through (RFC 9110 §7.6), and what larder learns from it.
//!
//! Owns: fields added and taken away, in both directions. Never touches: bodies on their way (`relay`).

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use crate::engine::head_update::{self, PassThroughStart};
use crate::engine::store_post::PostCapture;
use crate::frontend::session::{BodyLength, ClientSession};
use crate::proxy::context::RequestContext;
use crate::proxy::handler::PingoraHandler;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::hop_by_hop;
use crate::semantics::max_forwards;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::problem::{PROXY_STATUS, received_error};
use crate::upstream::BodyFraming;
use crate::upstream::admission::Permit;
use crate::upstream::body_inspection;
use crate::upstream::routing::UpstreamTarget;
use crate::upstream::session::OutgoingRequest;

/// The request as it goes out.
pub(super) fn outgoing(
    handler: &PingoraHandler,
    asked: &ProxyRequest,
    client: &ClientSession,
    place: &UpstreamTarget,
) -> OutgoingRequest {
    let mut headers = asked.headers.clone();
    headers.append(http::header::VIA, handler.via.clone());
    for name in handler.routes.scope_headers(&asked.target) {
        headers.remove(name);
    }
    max_forwards::count_down(&asked.method, &mut headers);
    place.apply_upstream_headers(&asked.method, &mut headers);
    OutgoingRequest {
        method: asked.method.clone(),
        scheme: place.scheme.as_str(),
        authority: place.authority(),
        path: asked.target.path_and_query().to_owned(),
        headers,
        spelling: client.spelling(),
        body: asked.body,
        upgrade: asked.upgrade.clone(),
        trailers: asked.trailers,
    }
}

/// Takes the origin's connection out of its answer.
pub(super) fn strip(headers: &mut HeaderMap) {
    hop_by_hop::strip_response(headers);
}

/// What the client is told of how its answer came about.
pub(super) fn incoming(ctx: &RequestContext, status: StatusCode, headers: &mut HeaderMap) {
    let mut said = CacheStatus::forwarded(ctx.why.token()).status(status);
    if let Some((act, cause)) = ctx.tries.detail() {
        said = said.detail(act, cause);
    }
    said.append_to(headers);
    if let Some(received) = received_error(status) {
        headers.append(PROXY_STATUS, received);
    }
}

/// How long the body is that the client gets.
pub(super) fn length(
    asked: &ProxyRequest,
    status: StatusCode,
    headers: &HeaderMap,
    framing: BodyFraming,
    ended: bool,
) -> BodyLength {
    let bodiless = asked.method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match framing {
        _ if bodiless => BodyLength::None,
        // In HTTP/2 a head may be the end, which tells more than an empty body (gRPC's trailers).
        BodyFraming::Length(0)
            if ended
                && asked.version == Version::HTTP_2
                && !headers.contains_key(CONTENT_LENGTH) =>
        {
            BodyLength::None
        }
        BodyFraming::Length(length) => BodyLength::Known(length),
        BodyFraming::Marked | BodyFraming::Close => BodyLength::Unknown,
    }
}

/// Whether silence is no sign that something is wrong.
pub(super) fn streams(asked: &ProxyRequest) -> bool {
    asked.upgrade.is_some()
        || asked.headers.get_all(ACCEPT).iter().any(|accept| {
            accept.to_str().is_ok_and(|a| a.to_ascii_lowercase().contains("text/event-stream"))
        })
}

/// How the media types of gRPC and Connect streams begin.
const CONVERSATIONS: [&[u8]; 2] = [b"application/grpc", b"application/connect+"];

/// Whether both sides talk at once, each as it likes: how the client sends is no sign of anything.
pub(super) fn converses(asked: &ProxyRequest) -> bool {
    let kind = asked.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let begins =
        |with: &[u8]| kind.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    asked.upgrade.is_some() || CONVERSATIONS.iter().any(|with| begins(with))
}

/// A piece of an answer's body passes.
pub(super) fn copied(piece: &Bytes, ctx: &mut RequestContext) {
    // First: what the body says may be that it is not to be kept.
    ctx.read(piece);
    if let Some(mut recording) = ctx.recording.take()
        && recording.push(piece)
    {
        ctx.recording = Some(recording);
    }
}

/// The `GET` that the answer to this `POST` may be one to as well.
pub(super) fn as_a_get(asked: &ProxyRequest) -> Option<ProxyRequest> {
    (asked.method == Method::POST).then(|| head_update::as_a_get(asked))
}

impl PingoraHandler {
    /// The head of an answer that is passed on: what it says about what is stored.
    pub(super) async fn heard(
        &self,
        asked: &ProxyRequest,
        ctx: &mut RequestContext,
        status: StatusCode,
        headers: &HeaderMap,
        framing: BodyFraming,
    ) {
        let sent = ctx.sent.as_ref().filter(|_| !ctx.signed_in);
        let is_limit = ctx.pass.as_ref().is_some_and(Permit::is_limited);
        // Before its own invalidation: those of others make it old.
        let is_current = sent.is_some_and(|sent| self.engine.is_current(sent));
        let recorded = is_current && framing != BodyFraming::Close;
        let record = || recorded.then(|| self.recording(asked, ctx, status, headers)).flatten();
        let recording = self.engine.invalidate(asked, status, headers, record).await;
        self.heard_of_reads(asked, (ctx.route, sent), (status, is_limit), headers).await;
        ctx.recording = recording;
    }

    /// The same of a call that nobody waits for any more.
    pub(super) async fn heard_alone(
        &self,
        asked: &ProxyRequest,
        read: (usize, Option<&PassThroughStart>),
        (status, is_limit): (StatusCode, bool),
        headers: &HeaderMap,
    ) {
        self.engine.invalidate(asked, status, headers, || ()).await;
        self.heard_of_reads(asked, read, (status, is_limit), headers).await;
    }

    /// The head of an answer to a request that went to `route`: what it says about what is stored of it. `sent`:
    /// when, unless its user had signed in on the connection.
    async fn heard_of_reads(
        &self,
        asked: &ProxyRequest,
        (route, sent): (usize, Option<&PassThroughStart>),
        (status, is_limit): (StatusCode, bool),
        headers: &HeaderMap,
    ) {
        if let (Some(sent), Some(route)) = (sent, self.routes.routes().get(route)) {
            self.engine.read_answered(asked, route, sent, (status, is_limit), headers).await;
            self.engine.head_answered(asked, route, sent, status, headers).await;
        }
    }

    /// A `POST` answer that may serve later `GET`s is copied while it passes.
    fn recording(
        &self,
        asked: &ProxyRequest,
        ctx: &RequestContext,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<PostCapture> {
        let route = self.routes.find(&as_a_get(asked)?)?;
        // What a rule should look into and cannot may be an error.
        let judged = ctx.pass.as_ref().is_some_and(Permit::judges_bodies);
        if judged && ctx.copy.is_none() && body_inspection::may_be_json(headers) {
            return None;
        }
        self.engine.record(asked, route, ctx.sent.as_ref()?, status, headers)
    }

    /// The whole body has passed.
    pub(super) async fn ended(&self, ctx: &mut RequestContext) {
        ctx.read_all().await;
        if let Some(recording) = ctx.recording.take() {
            self.engine.recorded(recording);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;
    use http::{HeaderMap, HeaderValue};

    use super::converses;
    use crate::semantics::request::ProxyRequest;
    use crate::semantics::target::Target;

    #[test]
    fn streams_of_calls_may_pause_and_other_bodies_may_not() {
        for (kind, is) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc-web", true),
            ("application/connect+json", true),
            ("application/json", false),
            ("application/connector", false),
            ("", false),
        ] {
            let mut asked = ProxyRequest::get(Target::absolute("http://h/").unwrap());
            let value = HeaderValue::from_static(kind);
            asked.headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
            assert_eq!(converses(&asked), is, "{kind}");
        }
    }
}
