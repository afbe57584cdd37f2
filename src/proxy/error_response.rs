//! A pass-through that failed, or may go no further: what the client is told.
//!
//! Owns: larder's own answer in the place of one that did not come. Never touches: retrying.

use http::{HeaderMap, Method};

use crate::engine::response::{ClientResponse, ResponseBody};
use crate::frontend::session::{BodyLength, ClientError, ClientSession};
use crate::proxy::context::{ExchangeFailure, RequestContext};
use crate::proxy::handler::{ExchangeEnd, PingoraHandler};
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus};
use crate::semantics::field_case::FieldCase;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::problem::Problem;
use crate::telemetry::{RejectEvent, ResultKind};
use crate::upstream::error::UpstreamError;

const BAD_BODY: Problem = Problem::new(
    http::StatusCode::BAD_REQUEST,
    "malformed_body",
    "the request body is not framed as its head says",
    "http_request_error",
);

const SLOW_BODY: Problem = Problem::new(
    http::StatusCode::REQUEST_TIMEOUT,
    "request_body_timeout",
    "the request body did not arrive in time (limits.body_idle, limits.body_min_rate), or too slowly while \
     other calls waited for its place among those that upstreams.*.ban_guard bears",
    "http_request_error",
);

/// RFC 9110 §11.7.1: what a 407 asks for is for the proxy that said it, and an origin is none of the client's. The
/// client would take it for larder's, and show larder's password for it, in vain at best.
const PROXY_AUTH: Problem = Problem::new(
    http::StatusCode::BAD_GATEWAY,
    "origin_407",
    "the origin asked for a sign-in at a proxy (407), which only a proxy may do: larder asks for none here, and passes no Proxy-Authorization on",
    "http_protocol_error; received-status=407",
);

const NO_TRACE: Problem = Problem::new(
    http::StatusCode::NOT_IMPLEMENTED,
    "trace_ended",
    "Max-Forwards ends this request here, and larder itself answers no TRACE",
    "http_request_error",
);

impl PingoraHandler {
    /// The request asks to go no further than here (RFC 9110 §7.6.2).
    pub(super) async fn last_hop(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if asked.method == Method::TRACE {
            let status = CacheStatus::forwarded(ctx.why.token());
            self.tell(asked, client, ctx, &NO_TRACE, &status).await?;
            return Ok(ExchangeEnd::Answered);
        }
        let mut headers = HeaderMap::new();
        client.skip_body();
        self.finish_head(asked, client, ctx, &mut headers);
        let (status, length) = (http::StatusCode::OK, BodyLength::Known(0));
        client.write_head(status, headers, length, &FieldCase::default()).await?;
        client.end(None).await?;
        Ok(ExchangeEnd::Answered)
    }

    /// There is no answer, and there will be none.
    pub(super) async fn failed(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        failure: UpstreamError,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if let UpstreamError::Denied(why) = failure {
            self.account.denied(why.token());
        }
        let status = failure.told(ctx.why.token());
        self.tell(asked, client, ctx, &failure.problem(), &status).await?;
        Ok(ExchangeEnd::Answered)
    }

    /// The origin spoke as only a proxy may.
    pub(super) async fn not_a_proxy(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let received = http::StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        let status = CacheStatus::forwarded(ctx.why.token()).status(received);
        self.tell(asked, client, ctx, &PROXY_AUTH, &status).await?;
        Ok(ExchangeEnd::Answered)
    }

    /// The client's own side broke before there was an answer: told, if it still can be.
    pub(super) async fn broken_by_client(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        error: ClientError,
    ) -> ExchangeFailure {
        let problem = match error {
            ClientError::Malformed => Some(BAD_BODY),
            ClientError::Stalled => Some(SLOW_BODY),
            ClientError::Gone => None,
        };
        if let Some(problem) = problem.filter(|_| client.status().is_none()) {
            self.account.refused(&RejectEvent { class: problem.class, client: asked.client });
            let status = CacheStatus::forwarded(ctx.why.token());
            // Who does not take it has made its mistake all the same.
            let _told = self.tell(asked, client, ctx, &problem, &status).await;
        }
        ExchangeFailure::Client(error)
    }

    async fn tell(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        problem: &Problem,
        status: &CacheStatus,
    ) -> Result<(), ClientError> {
        let mut headers = HeaderMap::new();
        status.append_to(&mut headers);
        self.tell_with(asked, client, ctx, problem, headers).await
    }

    /// The same with `more` fields.
    pub(super) async fn tell_with(
        &self,
        asked: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        problem: &Problem,
        more: HeaderMap,
    ) -> Result<(), ClientError> {
        ctx.result = ResultKind::Error;
        ctx.error = Some(problem.class);
        ctx.is_larders = true;
        let (mut headers, body) = problem.response();
        headers.extend(more);
        client.skip_body();
        client.close_after();
        self.finish_head(asked, client, ctx, &mut headers);
        let empty = asked.method == Method::HEAD;
        let length = if empty { BodyLength::None } else { BodyLength::Known(body.len() as u64) };
        client.write_head(problem.status, headers, length, &FieldCase::default()).await?;
        if !empty {
            client.write_body(body).await?;
        }
        client.end(None).await
    }
}

/// `reply`, or what is told in its place where an origin spoke as only a proxy may.
pub(super) fn unless_as_a_proxy(asked: &ProxyRequest, reply: ClientResponse) -> ClientResponse {
    if reply.status != http::StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return reply;
    }
    let (mut headers, body) = PROXY_AUTH.response();
    for said in reply.headers.get_all(CACHE_STATUS) {
        headers.append(CACHE_STATUS, said.clone());
    }
    let empty = asked.method == Method::HEAD;
    ClientResponse {
        status: PROXY_AUTH.status,
        headers,
        body: if empty { ResponseBody::Empty } else { ResponseBody::Whole(body) },
        result: ResultKind::Error,
        why: reply.why,
        error: Some(PROXY_AUTH.class),
    }
}
