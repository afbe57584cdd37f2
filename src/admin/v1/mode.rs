//! `/v1/mode`: the master switch.
//!
//! Owns: its JSON. Never touches: what a mode does.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::admin::{AppState, response, v1};
use crate::policy::Mode;
use crate::telemetry::problem::Problem;

/// `GET /v1/mode`
pub(in crate::admin) async fn show(State(desk): State<AppState>) -> Response {
    shown(desk.controls.mode())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeRequest {
    mode: String,
}

/// `PUT /v1/mode`
pub(in crate::admin) async fn turn(State(desk): State<AppState>, body: Bytes) -> Response {
    let asked: ModeRequest = match v1::parse(&body, &WANTED) {
        Ok(asked) => asked,
        Err(problem) => return response::refuse(problem),
    };
    let Some(mode) = Mode::parse(&asked.mode) else { return response::refuse(&WANTED) };
    desk.controls.set_mode(mode);
    shown(mode)
}

fn shown(mode: Mode) -> Response {
    response::json(StatusCode::OK, &json!({ "mode": mode.token() }))
}

const WANTED: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "bad_request",
    "send `{\"mode\": \"cache\"}`, \"bypass\" or \"offline\"; nothing was done",
    "http_request_error",
);
