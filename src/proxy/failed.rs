//! A pass-through that failed: what the client is told.
//!
//! Owns: whose fault pingora's error is, and the answer to it. Never touches: retrying.

use http::{Method, StatusCode};
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, Session};

use crate::account::problem::Problem;
use crate::account::{Account, Refusal, ResultKind};
use crate::front::io::ClientIo;
use crate::proxy::exchange::Ctx;
use crate::semantics::cache_status::CacheStatus;
use crate::upstream::failure::Failure;
use crate::upstream::tls::TlsFault;

const BAD_BODY: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "malformed_body",
    "the request body is not framed as its head says",
    "http_request_error",
);

/// Tells the client, if it can still be told, and closes.
pub(super) async fn answer(
    session: &mut Session,
    error: &Error,
    ctx: &mut Ctx,
    account: &Account,
) -> FailToProxy {
    let problem = problem(error, ctx);
    if let Some(Failure::Denied(why)) = ctx.failure {
        account.denied(why.token());
    }
    ctx.result = ResultKind::Error;
    ctx.error = Some(match (problem, error.etype()) {
        (Some(problem), _) => problem.class,
        (None, ErrorType::Custom(cut)) => cut,
        (None, _) => "client_gone",
    });
    let mut code = 0;
    if let Some(problem) = problem.filter(|_| is_unanswered(session)) {
        code = problem.status.as_u16();
        if problem.status == StatusCode::BAD_REQUEST {
            let client = ctx.asked.as_ref().and_then(|asked| asked.client);
            account.refused(&Refusal { class: problem.class, client });
        }
        if write(session, &problem, ctx).await.is_err() {
            code = 0;
        }
    }
    FailToProxy { error_code: code, can_reuse_downstream: false }
}

/// Whether no final answer has begun: an interim one leaves room for it.
fn is_unanswered(session: &Session) -> bool {
    session.as_downstream().response_written().is_none_or(|head| {
        head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS
    })
}

async fn write(session: &mut Session, problem: &Problem, ctx: &Ctx) -> Result<(), Box<Error>> {
    let (mut headers, body) = problem.response();
    let why = ctx.why.token();
    let status = ctx.failure.map_or(CacheStatus::forwarded(why), |failure| failure.told(why));
    status.append_to(&mut headers);
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = problem.status;
    parts.headers = headers;
    session.set_keepalive(None);
    let downstream = session.as_downstream_mut();
    downstream.write_response_header(Box::new(ResponseHeader::from(parts))).await?;
    if ctx.asked.as_ref().is_none_or(|asked| asked.method != Method::HEAD) {
        downstream.write_response_body(body, true).await?;
    }
    downstream.finish_body().await?;
    if let Some(io) = downstream.stream().and_then(|io| io.as_any().downcast_ref::<ClientIo>()) {
        io.answered();
    }
    Ok(())
}

/// `None`: the client is gone, there is nobody to tell.
fn problem(error: &Error, ctx: &mut Ctx) -> Option<Problem> {
    let failure = match (ctx.failure, error.esource()) {
        (Some(failure), _) => failure,
        (None, ErrorSource::Downstream) => return client_problem(error),
        (None, ErrorSource::Upstream) => origin_failure(error),
        (None, ErrorSource::Internal | ErrorSource::Unset) => {
            // The engine's body was cut under way.
            if matches!(error.etype(), ErrorType::Custom(_)) {
                return None;
            }
            Failure::Internal
        }
    };
    if let Some(pass) = &mut ctx.pass {
        pass.failed(failure);
    }
    Some(failure.problem())
}

fn client_problem(error: &Error) -> Option<Problem> {
    use ErrorType::{ConnectionClosed, ReadError, ReadTimedout, WriteError, WriteTimedout};
    let gone = matches!(
        error.etype(),
        ConnectionClosed | ReadError | WriteError | ReadTimedout | WriteTimedout
    );
    (!gone).then_some(BAD_BODY)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "pingora adds error types; all others are one")]
pub(super) fn origin_failure(error: &Error) -> Failure {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, H2Error, HandshakeError, InvalidHTTPHeader, ReadError,
        ReadTimedout, TLSHandshakeTimedout, WriteError, WriteTimedout,
    };
    if let Some(fault) = TlsFault::of(error) {
        return Failure::Tls(fault);
    }
    match error.etype() {
        ConnectTimedout | TLSHandshakeTimedout => Failure::ConnectTimeout,
        ReadTimedout | WriteTimedout => Failure::FirstByteTimeout,
        ConnectionClosed | ReadError | WriteError => Failure::Closed,
        InvalidHTTPHeader | HandshakeError | H2Error => Failure::Protocol,
        _ => Failure::Refused,
    }
}
