//! `/v1/cost`: what each upstream that costs something has cost.
//!
//! Owns: its JSON; times are seconds, as numbers. Never touches: counting (`account::ledger`).

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::v1::entries::timestamp;
use crate::admin::{AppState, response};
use crate::policy::upstream::CostBudget;
use crate::telemetry::cost::{BudgetStatus, CostReport, PeriodUsage};

/// `GET /v1/cost`
pub(in crate::admin) async fn list(State(desk): State<AppState>) -> Response {
    let upstreams: Vec<_> = desk.controls.cost().iter().map(shown).collect();
    response::json(StatusCode::OK, &json!({ "upstreams": upstreams }))
}

fn shown(spending: &CostReport) -> Value {
    json!({
        "name": &*spending.upstream,
        "currency": spending.currency,
        "per_credit": spending.per_credit,
        "today": spent(&spending.today),
        "month": spent(&spending.month),
        "budget": spending.budget.as_ref().map(|(budget, standing)| stands(budget, standing)),
    })
}

fn spent(spent: &PeriodUsage) -> Value {
    json!({
        "since": timestamp(spent.since),
        "ends_in": spent.ends_in.as_secs(),
        "calls": spent.calls,
        "credits": amount(spent.credits),
        "cost": amount(spent.money),
        "avoided": {
            "calls": spent.avoided_calls,
            "credits": amount(spent.avoided_credits),
            "cost": amount(spent.avoided_money),
        },
    })
}

fn stands(budget: &CostBudget, standing: &BudgetStatus) -> Value {
    json!({
        "credits": amount(budget.credits),
        "period": budget.period.token(),
        "warn_at": budget.warn_at,
        "at_limit": budget.at_limit.token(),
        "used": amount(standing.used),
        "share": amount(standing.share),
        "warns": standing.warn,
        "spent": standing.spent,
        "ends_in": standing.ends_in.as_secs(),
    })
}

/// To a millionth: what is counted is no finer, and 0.1 + 0.2 is 0.3.
fn amount(amount: f64) -> f64 {
    (amount * 1e6).round() / 1e6
}
