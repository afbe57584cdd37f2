//! `/v1/stats`: the requests since the start, by route.
//!
//! Owns: its JSON. Never touches: counting (`telemetry`).

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::{AppState, response};
use crate::telemetry::traffic::{RouteTraffic, Traffic};

/// `GET /v1/stats`
pub(in crate::admin) async fn show(State(state): State<AppState>) -> Response {
    response::json(StatusCode::OK, &to_json(&state.telemetry.traffic()))
}

fn to_json(traffic: &Traffic) -> Value {
    let mut value = route_json(&traffic.total());
    value["client_bytes"] = traffic.client_bytes.into();
    value["error_bytes"] = traffic.error_bytes.into();
    value["upstream_bytes"] = traffic.upstream_bytes.into();
    value["saved_bytes"] = traffic.saved_bytes().into();
    let route = |(name, route): (&String, &RouteTraffic)| {
        let mut value = route_json(route);
        value["name"] = name.as_str().into();
        value
    };
    value["routes"] = traffic.routes.iter().map(route).collect();
    value
}

fn route_json(route: &RouteTraffic) -> Value {
    let misses = route.top_misses();
    let misses = misses.iter().map(|(reason, count)| json!({ "reason": reason, "count": count }));
    json!({
        "calls": route.calls(),
        "hits": route.hits(),
        "to_api": route.to_api(),
        "refreshes": route.refreshes,
        "failed": route.failed(),
        "tunnels": route.tunnels(),
        "results": route.results,
        "misses": misses.collect::<Vec<_>>(),
    })
}
