//! The forms of an answer: JSON, or a problem in JSON. None may be stored by anybody.
//!
//! Owns: fields and framing of what the admin listener says. Never touches: what is said.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value;

use crate::telemetry::problem::Problem;

/// A value.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    let fields = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, fields, format!("{value}\n")).into_response()
}

/// A problem.
pub(super) fn refuse(problem: &Problem) -> Response {
    let (fields, body) = problem.response();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = problem.status;
    *response.headers_mut() = fields;
    response
}

/// A problem, and `text` beside its reason under `name`: what larder itself has found out.
pub(super) fn refuse_with(problem: &Problem, name: &str, text: &str) -> Response {
    let mut value = problem.json();
    value["larder_error"][name] = text.into();
    let (mut fields, _) = problem.response();
    // Its length is another one.
    fields.remove(CONTENT_LENGTH);
    let mut response = Response::new(Body::from(format!("{value}\n")));
    *response.status_mut() = problem.status;
    *response.headers_mut() = fields;
    response
}
