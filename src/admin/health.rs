//! Whether it lives, whether it should get requests, and what it counts.
//!
//! Owns: `/healthz`, `/readyz`, `/metrics`. Never touches: what makes a larder ready; counting.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Map, Value, json};

use crate::admin::api::Readiness;
use crate::admin::{AppState, response};

/// For liveness probes: it answers, so it lives.
pub(super) async fn alive() -> Response {
    ([(CACHE_CONTROL, "no-store")], "ok\n").into_response()
}

/// For readiness probes: 503 while it is stopping; what is amiss without keeping it from answering
/// is only told.
pub(super) async fn ready(State(desk): State<AppState>) -> Response {
    let readiness = desk.controls.ready();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response::json(status, &shown(&readiness))
}

fn shown(readiness: &Readiness) -> Value {
    let mut details: Map<String, Value> = Map::new();
    for (part, is) in &readiness.details {
        let more = match details.get(*part).and_then(Value::as_str) {
            Some(said) => format!("{said}; {is}"),
            None => is.clone(),
        };
        details.insert((*part).to_owned(), more.into());
    }
    json!({ "ready": readiness.ready, "details": details })
}

/// In the text format of Prometheus.
pub(super) async fn metrics(State(desk): State<AppState>) -> Response {
    let fields = [(CONTENT_TYPE, EXPOSITION), (CACHE_CONTROL, "no-store")];
    (fields, desk.account.render()).into_response()
}

const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
