//! What an operator may ask: one file per path.
//!
//! Owns: how a body is read: whole and bounded before its request is handled, and strictly, so that nothing
//! is done by accident.
//! Never touches: who asks (`guard`); how it is done (`controls`).

pub(super) mod config;
pub(super) mod cost;
pub(super) mod entries;
pub(super) mod mode;
pub(super) mod purge;
pub(super) mod upstreams;

use std::future::Future;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;

use crate::telemetry::problem::Problem;

/// Why nothing was done.
type ApiError = &'static Problem;

/// The request with all of its body, which is waited for where a request may have one that is read.
pub(super) async fn gathered(request: Request) -> Result<Request, ApiError> {
    if [Method::GET, Method::HEAD].contains(request.method()) {
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    // What was announced need not be waited for.
    if body.size_hint().lower() > LONGEST as u64 {
        return Err(&TOO_LONG);
    }
    let body = to_bytes(body, LONGEST).await.map_err(|_| &TOO_LONG)?;
    Ok(Request::from_parts(head, Body::from(body)))
}

/// The body as `T`, where nothing need be said: no body is `{}`.
fn parse_if_any<T: DeserializeOwned>(body: &Bytes, wanted: ApiError) -> Result<T, ApiError> {
    parse(if body.is_empty() { b"{}" } else { body }, wanted)
}

/// The body as `T`; `wanted` teaches what it must look like.
fn parse<T: DeserializeOwned>(bytes: &[u8], wanted: ApiError) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|_| wanted)
}

/// Goes on to the end of what was begun, though the client may be gone by then.
async fn finish<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.map_err(|_| &FAILED)
}

/// The `key` of an entry: 32 hexadecimal digits.
fn key(text: &str) -> Option<u128> {
    let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| plain)
}

/// The whole of a body.
const LONGEST: usize = 64 << 10;

const TOO_LONG: Problem = Problem::new(
    StatusCode::PAYLOAD_TOO_LARGE,
    "body_too_long",
    "the body is longer than 64 KiB, or it broke off; nothing was done",
    "http_request_error",
);

const FAILED: Problem = Problem::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "failed",
    "larder failed at this; its log says more",
    "proxy_internal_error",
);
