//! The proxy auto-configuration file for browsers.
//!
//! Owns: the `/proxy.pac` response. Never touches: the content of the file.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};

use crate::admin::AppState;

/// `GET /proxy.pac`, for the browser setting "automatic proxy configuration".
pub(super) async fn show(State(state): State<AppState>, fields: HeaderMap) -> Response {
    let host = fields.get(HOST).and_then(|value| value.to_str().ok());
    let fields = [(CONTENT_TYPE, "application/x-ns-proxy-autoconfig"), (CACHE_CONTROL, "no-store")];
    (fields, state.api.pac(host)).into_response()
}
