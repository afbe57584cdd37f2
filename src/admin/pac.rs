//! What browsers are told about larder.
//!
//! Owns: the form of `/proxy.pac`. Never touches: what it says.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};

use crate::admin::AppState;

/// For the setting "automatic proxy configuration".
pub(super) async fn show(State(desk): State<AppState>, fields: HeaderMap) -> Response {
    let asked = fields.get(HOST).and_then(|host| host.to_str().ok());
    let fields = [(CONTENT_TYPE, "application/x-ns-proxy-autoconfig"), (CACHE_CONTROL, "no-store")];
    (fields, desk.controls.pac(asked)).into_response()
}
