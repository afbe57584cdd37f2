//! The response to the client if a pass-through fails or must not be forwarded.
//!
//! Owns: larder's own response in place of the origin's. Never touches: retries.

use http::{HeaderMap, Method};

use crate::engine::response::{ClientResponse, ResponseBody};
use crate::frontend::session::{BodyLength, ClientError, ClientSession};
use crate::proxy::context::{ExchangeFailure, RequestContext};
use crate::proxy::{ExchangeEnd, ProxyHandler};
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus};
use crate::semantics::field_case::FieldCase;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::problem::Problem;
use crate::telemetry::{RejectEvent, ResultKind};
use crate::upstream::outcome::error::UpstreamError;

const BAD_BODY: Problem = Problem::new(
    http::StatusCode::BAD_REQUEST,
    "malformed_body",
    "the framing of the request body does not match its head",
    "http_request_error",
);

const SLOW_BODY: Problem = Problem::new(
    http::StatusCode::REQUEST_TIMEOUT,
    "request_body_timeout",
    "the request body did not arrive in time (limits.body_idle, limits.body_min_rate), or too slowly while \
     other calls waited for its slot within the limit of upstreams.*.ban_guard",
    "http_request_error",
);

/// RFC 9110 §11.7.1: a 407 requests credentials for the proxy that sends it, and an origin is not the
/// client's proxy. The client would attribute the 407 to larder and send larder's password, at best in vain.
const PROXY_AUTH: Problem = Problem::new(
    http::StatusCode::BAD_GATEWAY,
    "origin_407",
    "the origin requested proxy authentication (407), which only a proxy may do: larder requires none here, and forwards no Proxy-Authorization",
    "http_protocol_error; received-status=407",
);

const NO_TRACE: Problem = Problem::new(
    http::StatusCode::NOT_IMPLEMENTED,
    "trace_ended",
    "Max-Forwards ends this request here, and larder itself does not support TRACE",
    "http_request_error",
);

impl ProxyHandler {
    /// Responds to a request that must not be forwarded (`Max-Forwards: 0`, RFC 9110 §7.6.2).
    pub(super) async fn reply_as_last_hop(
        &self,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if request.method == Method::TRACE {
            let status = CacheStatus::forwarded(ctx.forward_reason.token());
            self.write_error(request, client, ctx, &NO_TRACE, &status).await?;
            return Ok(ExchangeEnd::Completed);
        }
        let mut headers = HeaderMap::new();
        client.skip_body();
        self.finish_head(request, client, ctx, &mut headers);
        let (status, length) = (http::StatusCode::OK, BodyLength::Known(0));
        client.write_head(status, headers, length, &FieldCase::default()).await?;
        client.end(None).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Responds with the error of a call that has finally failed.
    pub(super) async fn reply_error(
        &self,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        failure: UpstreamError,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if let UpstreamError::Denied(reason) = failure {
            self.telemetry.denied(reason.token());
        }
        let status = failure.cache_status(ctx.forward_reason);
        self.write_error(request, client, ctx, &failure.problem(), &status).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Responds with an error in place of an origin's 407.
    pub(super) async fn reply_origin_407(
        &self,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        let received = http::StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        let status = CacheStatus::forwarded(ctx.forward_reason.token()).status(received);
        self.write_error(request, client, ctx, &PROXY_AUTH, &status).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Responds to a failure of the client before the response, if possible.
    pub(super) async fn on_client_error(
        &self,
        request: &ProxyRequest,
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
            self.telemetry.refused(&RejectEvent { class: problem.class, client: request.client });
            let status = CacheStatus::forwarded(ctx.forward_reason.token());
            // The failure counts even if the client does not receive the response.
            let _written = self.write_error(request, client, ctx, &problem, &status).await;
        }
        ExchangeFailure::Client(error)
    }

    async fn write_error(
        &self,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        problem: &Problem,
        status: &CacheStatus,
    ) -> Result<(), ClientError> {
        let mut headers = HeaderMap::new();
        status.append_to(&mut headers);
        self.write_error_with(request, client, ctx, problem, headers).await
    }

    /// As [`Self::write_error`], with `more` header fields.
    pub(super) async fn write_error_with(
        &self,
        request: &ProxyRequest,
        client: &mut ClientSession,
        ctx: &mut RequestContext,
        problem: &Problem,
        more: HeaderMap,
    ) -> Result<(), ClientError> {
        ctx.result = ResultKind::Error;
        ctx.error = Some(problem.class);
        ctx.is_own_error = true;
        let (mut headers, body) = problem.response();
        headers.extend(more);
        client.skip_body();
        client.close_after();
        self.finish_head(request, client, ctx, &mut headers);
        let empty = request.method == Method::HEAD;
        let length = if empty { BodyLength::None } else { BodyLength::Known(body.len() as u64) };
        client.write_head(problem.status, headers, length, &FieldCase::default()).await?;
        if !empty {
            client.write_body(body).await?;
        }
        client.end(None).await
    }
}

/// `reply`, or the error response in place of an origin's 407.
pub(super) fn replace_origin_407(request: &ProxyRequest, reply: ClientResponse) -> ClientResponse {
    if reply.status != http::StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return reply;
    }
    let (mut headers, body) = PROXY_AUTH.response();
    for value in reply.headers.get_all(CACHE_STATUS) {
        headers.append(CACHE_STATUS, value.clone());
    }
    let empty = request.method == Method::HEAD;
    ClientResponse {
        status: PROXY_AUTH.status,
        headers,
        body: if empty { ResponseBody::Empty } else { ResponseBody::Whole(body) },
        result: ResultKind::Error,
        forward_reason: reply.forward_reason,
        error: Some(PROXY_AUTH.class),
    }
}
