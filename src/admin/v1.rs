//! The operators' API, with one file per path.
//!
//! Owns: reading request bodies: completely and with a limit before the request is handled, and with
//! strict parsing, so that no operation happens by accident.
//! Never touches: access control (`auth`); the operations (`api`).

pub(super) mod config;
pub(super) mod cost;
pub(super) mod entries;
pub(super) mod mode;
pub(super) mod purge;
pub(super) mod stats;
pub(super) mod upstreams;

use std::future::Future;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;

use crate::telemetry::problem::Problem;

/// The error of a request that had no effect.
type ApiError = &'static Problem;

/// The request with its complete body. The bodies of `GET` and `HEAD` are not read.
pub(super) async fn read_body(request: Request) -> Result<Request, ApiError> {
    if [Method::GET, Method::HEAD].contains(request.method()) {
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    // A body with a larger announced length is refused without reading it.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(&TOO_LONG);
    }
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| &TOO_LONG)?;
    Ok(Request::from_parts(head, Body::from(body)))
}

/// Parses a body; `error` explains the expected form.
fn parse<T: DeserializeOwned>(bytes: &[u8], error: ApiError) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|_| error)
}

/// Completes `work` even if the client disconnects meanwhile.
async fn run_to_completion<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.map_err(|_| &FAILED)
}

/// Parses the `key` of an entry: 32 hexadecimal digits.
fn parse_key(text: &str) -> Option<u128> {
    let is_valid = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| is_valid)
}

/// The error of a request whose form `reason` explains.
const fn bad_request(reason: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", reason, "http_request_error")
}

/// Maximum length of a body.
const MAX_BODY: usize = 64 << 10;

const TOO_LONG: Problem = Problem::new(
    StatusCode::PAYLOAD_TOO_LARGE,
    "body_too_long",
    "the body is longer than 64 KiB, or it is incomplete; nothing was done",
    "http_request_error",
);

const FAILED: Problem = Problem::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "failed",
    "the operation failed; the log of larder contains the reason",
    "proxy_internal_error",
);
