//! `/v1/upstreams`: how each upstream stands.
//!
//! Owns: its JSON; times are seconds, as numbers. Never touches: why it stands so.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::{AppState, response};
use crate::upstream::status::{CooldownStatus, LimitStatus, UpstreamStatus};

/// `GET /v1/upstreams`
pub(in crate::admin) async fn list(State(desk): State<AppState>) -> Response {
    let upstreams: Vec<_> = desk.controls.upstreams().iter().map(shown).collect();
    response::json(StatusCode::OK, &json!({ "upstreams": upstreams }))
}

fn shown(report: &UpstreamStatus) -> Value {
    let invalid = report.ban_guard;
    let (retries, allowed) = report.retries;
    json!({
        "name": &*report.name,
        "configured": report.configured,
        "in_flight": report.in_flight,
        "waiting": report.waiting,
        "holds": report.holds.iter().map(held).collect::<Vec<_>>(),
        "breaker": report.breaker,
        "limits": report.limits.iter().map(limited).collect::<Vec<_>>(),
        "ban_guard": invalid.map(|(count, trips_at)| {
            json!({ "count": count, "trips_at": trips_at })
        }),
        "retries": { "count": retries, "allowed": allowed },
    })
}

fn held(held: &CooldownStatus) -> Value {
    json!({
        "reach": held.reach,
        "cause": held.cause,
        "firm": held.firm,
        "left": seconds(held.left),
        "probing": held.probing,
        "count": held.count,
    })
}

fn limited(limited: &LimitStatus) -> Value {
    json!({
        "name": limited.name,
        "limit": limited.limit,
        "window": limited.window.map(seconds),
        "left": limited.left,
    })
}

/// To the millisecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}
