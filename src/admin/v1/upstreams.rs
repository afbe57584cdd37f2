//! `/v1/upstreams`: the status of each upstream.
//!
//! Owns: its JSON; durations are numbers of seconds. Never touches: the cooldowns and limits themselves.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::{AppState, response};
use crate::upstream::admission::status::{CooldownStatus, LimitStatus, UpstreamStatus};

/// `GET /v1/upstreams`
pub(in crate::admin) async fn list(State(state): State<AppState>) -> Response {
    let upstreams: Vec<_> = state.api.upstreams().iter().map(upstream_json).collect();
    response::json(StatusCode::OK, &json!({ "upstreams": upstreams }))
}

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
        "left": seconds(cooldown.left),
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
