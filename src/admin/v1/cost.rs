//! `/v1/cost`: the usage and cost of each upstream with costs.
//!
//! Owns: its JSON; durations are numbers of seconds. Never touches: counting (`telemetry::cost`).

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::v1::entries::timestamp;
use crate::admin::{AppState, response};
use crate::policy::upstream::CostBudget;
use crate::telemetry::cost::{BudgetStatus, CostReport, PeriodUsage};

/// `GET /v1/cost`
pub(in crate::admin) async fn list(State(state): State<AppState>) -> Response {
    let upstreams: Vec<_> = state.api.cost().iter().map(report_json).collect();
    response::json(StatusCode::OK, &json!({ "upstreams": upstreams }))
}

fn report_json(report: &CostReport) -> Value {
    json!({
        "name": &*report.upstream,
        "currency": report.currency,
        "per_credit": report.per_credit,
        "today": usage_json(&report.today),
        "month": usage_json(&report.month),
        "budget": report.budget.as_ref().map(|(budget, status)| budget_json(budget, status)),
    })
}

fn usage_json(usage: &PeriodUsage) -> Value {
    json!({
        "since": timestamp(usage.since),
        "ends_in": usage.ends_in.as_secs(),
        "calls": usage.calls,
        "credits": amount(usage.credits),
        "cost": money(usage.money),
        "avoided": {
            "calls": usage.avoided_calls,
            "credits": amount(usage.avoided_credits),
            "cost": money(usage.avoided_money),
        },
    })
}

fn budget_json(budget: &CostBudget, status: &BudgetStatus) -> Value {
    json!({
        "credits": amount(budget.credits),
        "period": budget.period.token(),
        "warn_at": budget.warn_at,
        "at_limit": budget.at_limit.token(),
        "used": amount(status.used),
        "share": amount(status.share),
        "warns": status.warn,
        "spent": status.spent,
        "ends_in": status.ends_in.as_secs(),
    })
}

/// Rounded to a billionth: a credit can cost a small fraction of a cent.
fn money(amount: f64) -> f64 {
    (amount * 1e9).round() / 1e9
}

/// Rounded to a millionth, which is the precision of counting; so 0.1 + 0.2 is 0.3.
fn amount(amount: f64) -> f64 {
    (amount * 1e6).round() / 1e6
}
