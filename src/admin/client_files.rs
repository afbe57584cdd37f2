//! The files that clients fetch to use larder: the certificate to trust, and the proxy auto-configuration.
//!
//! Owns: `/ca.pem` and `/proxy.pac`. Never touches: the authority's key; the content of the files.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderMap, StatusCode};

use crate::admin::{AppState, response};
use crate::telemetry::problem::Problem;

/// `GET /ca.pem`. Every admitted client may read it: a certificate is no secret.
pub(super) async fn certificate(State(state): State<AppState>) -> Response {
    let Some(pem) = state.api.ca() else { return response::refuse(&NO_INTERCEPTION) };
    // Not the media type of a DER certificate, which browsers offer to install.
    let fields = [(CONTENT_TYPE, "application/x-pem-file"), (CACHE_CONTROL, "no-store")];
    (fields, pem).into_response()
}

/// `GET /proxy.pac`, for the browser setting "automatic proxy configuration".
pub(super) async fn pac(State(state): State<AppState>, fields: HeaderMap) -> Response {
    let host = fields.get(HOST).and_then(|value| value.to_str().ok());
    let fields = [(CONTENT_TYPE, "application/x-ns-proxy-autoconfig"), (CACHE_CONTROL, "no-store")];
    (fields, state.api.pac(host)).into_response()
}

const NO_INTERCEPTION: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "nothing_intercepted",
    "this larder intercepts no TLS, so it has no certificate to trust: to intercept hosts, list them in a \
     route or in tls.intercept",
    "http_request_error",
);
