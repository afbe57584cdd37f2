//! `/v1/purge`: making stored answers unusable.
//!
//! Owns: what may be asked to be purged. A URL is a URL: no pattern, no prefix (ADM-08).
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
pub(in crate::admin) async fn purge(State(desk): State<AppState>, body: Bytes) -> Response {
    purged(&desk, body).await.unwrap_or_else(response::refuse)
}

async fn purged(desk: &AppState, body: Bytes) -> Result<Response, &'static Problem> {
    let asked: PurgeRequest = v1::parse(&body, &WANTED)?;
    let what = match (asked.url.as_deref(), asked.key.as_deref(), asked.all) {
        (Some(url), None, false) => PurgeTarget::Url(Target::absolute(url).map_err(|_| &NO_URL)?),
        (None, Some(key), false) => PurgeTarget::Key(v1::key(key).ok_or(&WANTED)?),
        (None, None, true) => PurgeTarget::All,
        _ => return Err(&WANTED),
    };
    let purge = Purge { what, soft: asked.soft, dry_run: asked.dry_run };
    let controls = Arc::clone(&desk.controls);
    let outcome = v1::finish(async move { controls.purge(&purge).await }).await?;
    Ok(match outcome {
        Ok(PurgeResult { count, sent_as }) => {
            let mut told = json!({ "count": count });
            if let Some(sent_as) = sent_as {
                told["sent_as"] = sent_as.into();
            }
            response::json(StatusCode::OK, &told)
        }
        Err(PurgeError { why }) => response::refuse_with(&NOT_DURABLE, "why", &why),
    })
}

const WANTED: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "bad_request",
    "send `{\"url\": \"http://api.example/path\"}`, `{\"key\": \"…\"}` (of /v1/entries) or \
     `{\"all\": true}`, and \"soft\": true or \"dry_run\": true if you like; nothing was purged",
    "http_request_error",
);

const NO_URL: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "bad_url",
    "`url` is one whole URL, such as http://api.example/path?q=1, no pattern; nothing was purged",
    "http_request_error",
);

const NOT_DURABLE: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "not_durable",
    "purged from memory, but this may not outlast a restart: purge again when /readyz names no fault",
    "proxy_internal_error",
);
