//! The cost of a call, from its response.
//!
//! Owns: where the response states the credits. Pure. Never touches: the usage records.

use http::HeaderMap;
use serde_json::Value;

use crate::policy::upstream::{Cost, CreditSource};

/// The credits that a response cost. `None`: it does not state them, or its body was not read. `ok`: whether
/// the response is usable. At a fixed price per call, errors cost nothing.
pub fn credits(cost: &Cost, ok: bool, headers: &HeaderMap, json: Option<&Value>) -> Option<f64> {
    let credits = match &cost.credits {
        CreditSource::PerCall(each) => ok.then_some(*each),
        CreditSource::Header(name) => {
            headers.get(name).and_then(|value| value.to_str().ok()?.trim().parse().ok())
        }
        CreditSource::Body(path) => json.and_then(|body| number(path.first(body)?)),
    };
    credits.filter(|credits| credits.is_finite() && *credits > 0.0)
}

/// Some APIs write numbers as strings.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use serde_json::json;

    use super::*;
    use crate::semantics::json_path::JsonPath;

    fn cost(credits: CreditSource) -> Cost {
        let currency = "USD".to_owned();
        Cost { currency, credits, per_credit: 0.00167, not_modified: false, budget: None }
    }

    fn credits_of(cost: &Cost, ok: bool, field: Option<&'static str>, body: &Value) -> Option<f64> {
        let mut headers = HeaderMap::new();
        if let Some(value) = field {
            headers.insert("x-credits", value.parse().unwrap());
        }
        credits(cost, ok, &headers, Some(body))
    }

    #[test]
    fn credits_are_read_from_the_configured_place_if_they_are_a_number() {
        let body = cost(CreditSource::Body(JsonPath::parse("$.status.credit_count").unwrap()));
        let table = [
            (json!({ "status": { "credit_count": 3 } }), Some(3.0)),
            (json!({ "status": { "credit_count": "2" } }), Some(2.0)),
            (json!({ "status": { "credit_count": 0 } }), None),
            (json!({ "status": { "credit_count": -5 } }), None),
            (json!({ "status": { "credit_count": "many" } }), None),
            (json!({ "status": {} }), None),
        ];
        for (answer, expected) in table {
            assert_eq!(credits_of(&body, true, None, &answer), expected, "{answer}");
        }
        let field = cost(CreditSource::Header(HeaderName::from_static("x-credits")));
        for (value, expected) in
            [(Some("4"), Some(4.0)), (Some("1.5"), Some(1.5)), (Some("NaN"), None), (None, None)]
        {
            assert_eq!(credits_of(&field, false, value, &Value::Null), expected, "{value:?}");
        }
    }

    #[test]
    fn an_error_costs_nothing_at_a_fixed_price_per_call() {
        let each = cost(CreditSource::PerCall(1.0));
        assert_eq!(credits_of(&each, true, None, &Value::Null), Some(1.0));
        assert_eq!(credits_of(&each, false, None, &Value::Null), None);
    }
}
