//! `/v1/mode`: the mode of the proxy.
//!
//! Owns: its JSON. Never touches: the effect of a mode.

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
pub(in crate::admin) async fn show(State(state): State<AppState>) -> Response {
    mode_json(state.api.mode())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeRequest {
    mode: String,
}

/// `PUT /v1/mode`
pub(in crate::admin) async fn set(State(state): State<AppState>, body: Bytes) -> Response {
    let request: ModeRequest = match v1::parse(&body, &BAD_REQUEST) {
        Ok(request) => request,
        Err(problem) => return response::refuse(problem),
    };
    let Some(mode) = Mode::parse(&request.mode) else { return response::refuse(&BAD_REQUEST) };
    state.api.set_mode(mode);
    mode_json(mode)
}

fn mode_json(mode: Mode) -> Response {
    response::json(StatusCode::OK, &json!({ "mode": mode.token() }))
}

const BAD_REQUEST: Problem =
    v1::bad_request("send `{\"mode\": \"cache\"}`, \"bypass\" or \"offline\"; nothing was done");
