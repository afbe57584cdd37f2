//! larder's own responses in place of an origin's: to a preflight, to a request that must not be forwarded, and
//! to one whose pass-through fails.
//!
//! Owns: their heads and bodies. Never touches: retries.

use http::{HeaderMap, Method, StatusCode};

use crate::engine::response::{ClientResponse, ResponseBody};
use crate::frontend::session::{BodyLength, ClientError};
use crate::proxy::context::ExchangeFailure;
use crate::proxy::exchange::Exchange;
use crate::proxy::{ExchangeEnd, cors};
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus};
use crate::semantics::field_case::FieldCase;
use crate::semantics::request::ProxyRequest;
use crate::telemetry::problem::Problem;
use crate::telemetry::{RejectEvent, ResultKind};
use crate::upstream::outcome::error::UpstreamError;

const BAD_BODY: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "malformed_body",
    "the framing of the request body does not match its head",
    "http_request_error",
);

const SLOW_BODY: Problem = Problem::new(
    StatusCode::REQUEST_TIMEOUT,
    "request_body_timeout",
    "the request body did not arrive in time (limits.body_idle, limits.body_min_rate), or too slowly while \
     other calls waited for its slot within the limit of upstreams.*.ban_guard",
    "http_request_error",
);

/// RFC 9110 §11.7.1: a 407 requests credentials for the proxy that sends it, and an origin is not the
/// client's proxy. The client would attribute the 407 to larder and send larder's password, at best in vain.
const PROXY_AUTH: Problem = Problem::new(
    StatusCode::BAD_GATEWAY,
    "origin_407",
    "the origin requested proxy authentication (407), which only a proxy may do: larder requires none here, and forwards no Proxy-Authorization",
    "http_protocol_error; received-status=407",
);

const NO_TRACE: Problem = Problem::new(
    StatusCode::NOT_IMPLEMENTED,
    "trace_ended",
    "Max-Forwards ends this request here, and larder itself does not support TRACE",
    "http_request_error",
);

impl Exchange {
    /// Responds to a preflight.
    pub(super) async fn reply_preflight(&mut self) -> Result<ExchangeEnd, ExchangeFailure> {
        let headers = cors::preflight_fields(self.request());
        self.write_own_head(StatusCode::NO_CONTENT, headers, BodyLength::None).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Responds to a request that must not be forwarded (`Max-Forwards: 0`, RFC 9110 §7.6.2).
    pub(super) async fn reply_as_last_hop(&mut self) -> Result<ExchangeEnd, ExchangeFailure> {
        if self.request().method == Method::TRACE {
            let status = CacheStatus::forwarded(self.ctx.forward_reason.token());
            self.write_error(&NO_TRACE, &status).await?;
            return Ok(ExchangeEnd::Completed);
        }
        self.write_own_head(StatusCode::OK, HeaderMap::new(), BodyLength::Known(0)).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Writes a response of larder without a body.
    async fn write_own_head(
        &mut self,
        status: StatusCode,
        mut headers: HeaderMap,
        length: BodyLength,
    ) -> Result<(), ClientError> {
        self.client.skip_body();
        self.finish_head(&mut headers);
        self.client.write_head(status, headers, length, &FieldCase::default()).await?;
        self.client.end(None).await
    }

    /// Responds with the error of a call that has finally failed.
    pub(super) async fn reply_error(
        &mut self,
        failure: UpstreamError,
    ) -> Result<ExchangeEnd, ExchangeFailure> {
        if let UpstreamError::Denied(reason) = failure {
            self.handler.telemetry.denied(reason.token());
        }
        if let UpstreamError::Rejected(rejection) = failure
            && !self.ctx.signed_in
            && let Some(refusal) = self.handler.engine.replay_refusal(&self.routed, rejection)
        {
            self.client.close_after();
            return self.reply(refusal).await;
        }
        let status = failure.cache_status(self.ctx.forward_reason);
        self.write_error(&failure.problem(), &status).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Responds with an error in place of an origin's 407.
    pub(super) async fn reply_origin_407(&mut self) -> Result<ExchangeEnd, ExchangeFailure> {
        let received = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        let status = CacheStatus::forwarded(self.ctx.forward_reason.token()).status(received);
        self.write_error(&PROXY_AUTH, &status).await?;
        Ok(ExchangeEnd::Completed)
    }

    /// Responds to a failure of the client before the response, if possible.
    pub(super) async fn on_client_error(&mut self, error: ClientError) -> ExchangeFailure {
        let problem = match error {
            ClientError::Malformed => Some(BAD_BODY),
            ClientError::Stalled => Some(SLOW_BODY),
            ClientError::Gone => None,
        };
        if let Some(problem) = problem.filter(|_| self.client.status().is_none()) {
            let client = self.request().client;
            self.handler.telemetry.refused(&RejectEvent { class: problem.class, client });
            let status = CacheStatus::forwarded(self.ctx.forward_reason.token());
            // The failure counts even if the client does not receive the response.
            let _written = self.write_error(&problem, &status).await;
        }
        ExchangeFailure::Client(error)
    }

    async fn write_error(&mut self, problem: &Problem, status: &CacheStatus) -> Result<(), ClientError> {
        let mut headers = HeaderMap::new();
        status.append_to(&mut headers);
        self.write_error_with(problem, headers).await
    }

    /// As [`Self::write_error`], with `more` header fields.
    pub(super) async fn write_error_with(
        &mut self,
        problem: &Problem,
        more: HeaderMap,
    ) -> Result<(), ClientError> {
        self.ctx.result = ResultKind::Error;
        self.ctx.error = Some(problem.class);
        self.ctx.is_own_error = true;
        let (mut headers, body) = problem.response();
        headers.extend(more);
        self.client.skip_body();
        self.client.close_after();
        self.finish_head(&mut headers);
        let empty = self.request().method == Method::HEAD;
        let length = if empty { BodyLength::None } else { BodyLength::Known(body.len() as u64) };
        let client = &mut self.client;
        client.write_head(problem.status, headers, length, &FieldCase::default()).await?;
        if !empty {
            client.write_body(body).await?;
        }
        client.end(None).await
    }
}

/// `reply`, or the error response in place of an origin's 407.
pub(super) fn replace_origin_407(request: &ProxyRequest, reply: ClientResponse) -> ClientResponse {
    if reply.status != StatusCode::PROXY_AUTHENTICATION_REQUIRED {
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
