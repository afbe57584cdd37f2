//! `/v1/config`: what is in force, and reading the file again.
//!
//! Owns: the form of both answers. Never touches: what a configuration means.

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
pub(in crate::admin) async fn show(State(desk): State<AppState>) -> Response {
    response::json(StatusCode::OK, &desk.controls.config())
}

/// A reload has nothing to say yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadRequest {}

/// `POST /v1/config/reload`
pub(in crate::admin) async fn reload(State(desk): State<AppState>, body: Bytes) -> Response {
    reloaded(&desk, body).await.unwrap_or_else(response::refuse)
}

async fn reloaded(desk: &AppState, body: Bytes) -> Result<Response, &'static Problem> {
    let ReloadRequest {} = v1::parse_if_any(&body, &WANTED)?;
    let controls = Arc::clone(&desk.controls);
    let outcome = v1::finish(async move { controls.reload().await }).await?;
    Ok(match outcome {
        Ok(ReloadResult { routes, notes }) => {
            response::json(StatusCode::OK, &json!({ "routes": routes, "notes": notes }))
        }
        Err(ReloadError { report }) => response::refuse_with(&NOT_RELOADED, "report", &report),
    })
}

const WANTED: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "bad_request",
    "a reload takes no body, or `{}`; nothing was done",
    "http_request_error",
);

const NOT_RELOADED: Problem = Problem::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "not_reloaded",
    "the new configuration was refused; the one in force stays in force",
    "http_request_error",
);
