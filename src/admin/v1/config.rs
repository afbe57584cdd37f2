//! `/v1/config`: the current configuration, and reloading it.
//!
//! Owns: the form of both responses. Never touches: the meaning of a configuration.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::admin::api::{ReloadError, ReloadResult};
use crate::admin::{AppState, response, v1};
use crate::telemetry::problem::Problem;

/// `GET /v1/config`
pub(in crate::admin) async fn show(State(state): State<AppState>) -> Response {
    response::json(StatusCode::OK, &state.api.config())
}

/// The body of a reload request, which has no members yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadRequest {}

/// `POST /v1/config/reload`
pub(in crate::admin) async fn reload(State(state): State<AppState>, body: Bytes) -> Response {
    try_reload(&state, body).await.unwrap_or_else(response::refuse)
}

async fn try_reload(state: &AppState, body: Bytes) -> Result<Response, &'static Problem> {
    // No body counts as `{}`.
    let ReloadRequest {} = v1::parse(if body.is_empty() { b"{}" } else { &body }, &BAD_REQUEST)?;
    let api = Arc::clone(&state.api);
    let outcome = v1::run_to_completion(async move { api.reload().await }).await?;
    Ok(match outcome {
        Ok(ReloadResult { routes, warnings: notes }) => {
            response::json(StatusCode::OK, &json!({ "routes": routes, "notes": notes }))
        }
        Err(ReloadError { report }) => response::refuse_with(&NOT_RELOADED, "report", &report),
    })
}

const BAD_REQUEST: Problem = v1::bad_request("a reload takes no body, or `{}`; nothing was done");

const NOT_RELOADED: Problem = Problem::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "not_reloaded",
    "the new configuration was refused; the current one stays active",
    "http_request_error",
);
