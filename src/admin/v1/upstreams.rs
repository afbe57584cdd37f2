//! `/v1/upstreams`: the status of each upstream, and the release of its spent quotas.
//!
//! Owns: its JSON; durations are numbers of seconds. Never touches: the cooldowns and limits themselves.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::{AppState, response, v1};
use crate::telemetry::problem::Problem;
use crate::upstream::admission::status::{CooldownStatus, LimitStatus, UpstreamStatus};

/// `GET /v1/upstreams`
pub(in crate::admin) async fn list(State(state): State<AppState>) -> Response {
    let upstreams: Vec<_> = state.api.upstreams().iter().map(upstream_json).collect();
    response::json(StatusCode::OK, &json!({ "upstreams": upstreams }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseRequest {
    upstream: String,
}

/// `POST /v1/upstreams/release`
pub(in crate::admin) async fn release(State(state): State<AppState>, body: Bytes) -> Response {
    try_release(&state, &body).await.unwrap_or_else(response::refuse)
}

async fn try_release(state: &AppState, body: &[u8]) -> Result<Response, &'static Problem> {
    let ReleaseRequest { upstream } = v1::parse(body, &BAD_REQUEST)?;
    let api = Arc::clone(&state.api);
    let ended = v1::run_to_completion(async move { api.release(&upstream).await }).await?;
    let ended = ended.ok_or(&UNKNOWN)?;
    Ok(response::json(StatusCode::OK, &json!({ "count": ended })))
}

const BAD_REQUEST: Problem =
    v1::bad_request("send `{\"upstream\": \"NAME\"}`, with a name of /v1/upstreams; nothing was released");

const UNKNOWN: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "unknown_upstream",
    "no upstream has this name; /v1/upstreams lists them; nothing was released",
    "http_request_error",
);

fn upstream_json(upstream: &UpstreamStatus) -> Value {
    let ban_guard = upstream.ban_guard;
    let (retries, allowed) = upstream.retries;
    json!({
        "name": &*upstream.name,
        "configured": upstream.configured,
        "in_flight": upstream.in_flight,
        "waiting": upstream.waiting,
        "holds": upstream.cooldowns.iter().map(cooldown_json).collect::<Vec<_>>(),
        "breaker": upstream.breaker,
        "limits": upstream.limits.iter().map(limit_json).collect::<Vec<_>>(),
        "ban_guard": ban_guard.map(|(count, trips_at)| {
            json!({ "count": count, "trips_at": trips_at })
        }),
        "retries": { "count": retries, "allowed": allowed },
    })
}

fn cooldown_json(cooldown: &CooldownStatus) -> Value {
    json!({
        "reach": cooldown.scope,
        "cause": cooldown.reason,
        "firm": cooldown.firm,
        "left": (!cooldown.until_released).then(|| seconds(cooldown.left)),
        "until_released": cooldown.until_released,
        "probing": cooldown.probing,
        "count": cooldown.count,
    })
}

fn limit_json(limit: &LimitStatus) -> Value {
    json!({
        "name": limit.name,
        "limit": limit.limit,
        "window": limit.window.map(seconds),
        "left": limit.left,
    })
}

/// Rounded to a millisecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}
