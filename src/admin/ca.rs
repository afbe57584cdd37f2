//! The certificate that clients must trust where TLS is intercepted.
//!
//! Owns: `/ca.pem`. Never touches: the authority's key.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

use crate::admin::{AppState, response};
use crate::telemetry::problem::Problem;

/// In PEM, for whoever may connect: a certificate is no secret.
pub(super) async fn certificate(State(desk): State<AppState>) -> Response {
    let Some(pem) = desk.controls.ca() else { return response::refuse(&NOTHING_INTERCEPTED) };
    // Not the type of a DER certificate, which browsers offer to install.
    let fields = [(CONTENT_TYPE, "application/x-pem-file"), (CACHE_CONTROL, "no-store")];
    (fields, pem).into_response()
}

const NOTHING_INTERCEPTED: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "nothing_intercepted",
    "this larder intercepts no TLS, so there is no certificate to trust: a route or tls.intercept \
     names the hosts to intercept",
    "http_request_error",
);
