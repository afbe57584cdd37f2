//! Liveness, readiness and metrics.
//!
//! Owns: `/healthz`, `/readyz`, `/metrics`. Never touches: the conditions of readiness; counting.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Map, Value, json};

use crate::admin::api::Readiness;
use crate::admin::{AppState, response};

/// `GET /healthz`, for liveness probes: any response shows that the process is alive.
pub(super) async fn alive() -> Response {
    ([(CACHE_CONTROL, "no-store")], "ok\n").into_response()
}

/// `GET /readyz`, for readiness probes: 503 while larder is stopping. Faults that do not prevent
/// responses are only listed in the details.
pub(super) async fn ready(State(state): State<AppState>) -> Response {
    let readiness = state.api.ready();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response::json(status, &to_json(&readiness))
}

fn to_json(readiness: &Readiness) -> Value {
    let mut details: Map<String, Value> = Map::new();
    for (part, fault) in &readiness.details {
        let text = match details.get(*part).and_then(Value::as_str) {
            Some(previous) => format!("{previous}; {fault}"),
            None => fault.clone(),
        };
        details.insert((*part).to_owned(), text.into());
    }
    json!({ "ready": readiness.ready, "details": details })
}

/// `GET /metrics`, in the text format of Prometheus.
pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    let fields = [(CONTENT_TYPE, PROMETHEUS_TEXT), (CACHE_CONTROL, "no-store")];
    (fields, state.telemetry.render()).into_response()
}

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
