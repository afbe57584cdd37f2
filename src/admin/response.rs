//! The forms of a response: JSON, or an error in JSON. Caches must store neither.
//!
//! Owns: header fields and framing of admin responses. Never touches: their content.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value;

use crate::telemetry::problem::Problem;

/// A response with a JSON value.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    let fields = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, fields, format!("{value}\n")).into_response()
}

/// An error response.
pub(super) fn refuse(problem: &Problem) -> Response {
    let (fields, body) = problem.response();
    (problem.status, fields, Body::from(body)).into_response()
}

/// An error response with `text` as an additional member `name`, such as a report.
pub(super) fn refuse_with(problem: &Problem, name: &str, text: &str) -> Response {
    let mut value = problem.json();
    value["larder_error"][name] = text.into();
    let (mut fields, _) = problem.response();
    // The body has a different length.
    fields.remove(CONTENT_LENGTH);
    (problem.status, fields, Body::from(format!("{value}\n"))).into_response()
}
