//! `/v1/purge`: making stored responses unusable.
//!
//! Owns: the form of a purge request. A URL is one exact URL: no pattern, no prefix (ADM-08).
//! Never touches: the store.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::admin::api::{Purge, PurgeError, PurgeResult, PurgeTarget};
use crate::admin::{AppState, response, v1};
use crate::semantics::target::Target;
use crate::telemetry::problem::Problem;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeRequest {
    url: Option<String>,
    key: Option<String>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    soft: bool,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /v1/purge`
pub(in crate::admin) async fn purge(State(state): State<AppState>, body: Bytes) -> Response {
    try_purge(&state, body).await.unwrap_or_else(response::refuse)
}

async fn try_purge(state: &AppState, body: Bytes) -> Result<Response, &'static Problem> {
    let request: PurgeRequest = v1::parse(&body, &BAD_REQUEST)?;
    let target = match (request.url.as_deref(), request.key.as_deref(), request.all) {
        (Some(url), None, false) => PurgeTarget::Url(Target::absolute(url).map_err(|_| &BAD_URL)?),
        (None, Some(key), false) => PurgeTarget::Key(v1::parse_key(key).ok_or(&BAD_REQUEST)?),
        (None, None, true) => PurgeTarget::All,
        _ => return Err(&BAD_REQUEST),
    };
    let purge = Purge { target, soft: request.soft, dry_run: request.dry_run };
    let api = Arc::clone(&state.api);
    let outcome = v1::run_to_completion(async move { api.purge(&purge).await }).await?;
    Ok(match outcome {
        Ok(PurgeResult { count, sent_as }) => {
            let mut body = json!({ "count": count });
            if let Some(sent_as) = sent_as {
                body["sent_as"] = sent_as.into();
            }
            response::json(StatusCode::OK, &body)
        }
        Err(PurgeError { reason }) => response::refuse_with(&NOT_DURABLE, "why", &reason),
    })
}

const BAD_REQUEST: Problem = v1::bad_request(
    "send `{\"url\": \"http://api.example/path\"}`, `{\"key\": \"…\"}` (of /v1/entries) or \
     `{\"all\": true}`, optionally with \"soft\": true or \"dry_run\": true; nothing was purged",
);

const BAD_URL: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "bad_url",
    "`url` must be one whole URL, such as http://api.example/path?q=1, not a pattern; nothing was purged",
    "http_request_error",
);

const NOT_DURABLE: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "not_durable",
    "purged from memory, but the purge may not outlast a restart: purge again when /readyz lists no fault",
    "proxy_internal_error",
);
