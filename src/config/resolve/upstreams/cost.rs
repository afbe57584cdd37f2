//! `upstreams.*.cost`: the cost of a call, and the budget.
//!
//! Owns: the syntax of credits, prices and budgets. Never touches: cost accounting (`telemetry::cost`).

use crate::config::diagnostics::ValueError;
use crate::config::file::Value;
use crate::config::keyword::{boolean, keyword, nearest};
use crate::config::number::{between, decimal, positive_share};
use crate::config::reader::{Reader, Section, Spanned};
use crate::config::resolve::header_names;
use crate::config::resolve::upstreams::response_rules;
use crate::policy::upstream::{Cost, CostBudget, CreditSource, OverBudgetAction, Period};

/// The largest number of credits: no API sells more, and sums stay exact to a thousandth.
const MOST: f64 = 1e12;

/// `cost`; without the section no cost is counted.
pub(super) fn read(one: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Cost> {
    let mut section = one.section(reader, "cost")?;
    let currency = section.scalar(reader, "currency", currency);
    let credits = credits(&mut section, reader);
    let per_credit = section.scalar(reader, "per_credit", between(0.0, MOST));
    let not_modified = section.scalar_or(reader, "not_modified", boolean, false);
    let budget = budget(&mut section, reader);
    section.finish(reader);
    let (what, fix) = match (section.has("currency"), section.has("per_credit")) {
        (true, false) => ("needs the price of a credit", "add `per_credit: 0.002`"),
        (false, true) => ("needs a currency", "add `currency: USD`"),
        (true, true) | (false, false) => {
            // Without a price, the cost is reported in credits.
            return Some(Cost {
                currency: currency.map_or_else(|| CREDITS.to_owned(), |at| at.value),
                credits,
                per_credit: per_credit.map_or(1.0, |at| at.value),
                not_modified,
                budget,
            });
        }
    };
    reader.problem(section.place, &section.path, what, fix);
    None
}

/// The currency of an upstream without a price.
const CREDITS: &str = "credits";

fn currency(text: &str) -> Result<String, ValueError> {
    let wanted = "a currency such as `USD`";
    let plain = text.bytes().all(|byte| byte.is_ascii_alphabetic());
    if plain && (1..=16).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(ValueError::new(wanted, "is not a currency", "write up to 16 letters, such as `USD`"))
}

/// `"$.status.credit_count"`, `{ header: X-Credits }`, or a number for each call.
fn credits(section: &mut Section<'_>, reader: &mut Reader<'_>) -> CreditSource {
    let per_call = CreditSource::PerCall(1.0);
    let Some(node) = section.get("credits") else { return per_call };
    let path = section.key_path("credits");
    if matches!(node.value, Value::Map(_)) {
        let Some(mut inner) = reader.section(node, &path) else { return per_call };
        let fix = "write `{ header: X-Credits }`, a path, or a number";
        let field = |text: &str| header_names::field(text, "the name of a response field");
        let header = inner.required(reader, "header", field, fix);
        inner.finish(reader);
        return header.map_or(per_call, |at| CreditSource::Header(at.value));
    }
    reader.scalar(node, &path, credit_source).map_or(per_call, |at| at.value)
}

fn credit_source(text: &str) -> Result<CreditSource, ValueError> {
    let wanted = "a number, a JSON path such as `$.status.credit_count`, or `{ header: X-Credits }`";
    if text.starts_with('$') {
        let path = response_rules::path(text).map_err(|error| ValueError { wanted, ..error })?;
        return Ok(CreditSource::Body(path));
    }
    match decimal(text.trim()) {
        Some(number) if number > 0.0 && number <= MOST => Ok(CreditSource::PerCall(number)),
        Some(_) => {
            let fix = "write the credits of a call, above zero";
            Err(ValueError::new(wanted, "is zero or too large", fix))
        }
        None => Err(ValueError::is_not(wanted)),
    }
}

fn budget(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<CostBudget> {
    let mut inner = section.section(reader, "budget")?;
    let credits = inner.required(reader, "credits", in_period, "add `credits: 10000/month`, or `333/day`");
    let warn_at = inner.scalar_or(reader, "warn_at", positive_share, 0.8);
    let words = OverBudgetAction::ALL.map(|action| (action.token(), action));
    let wanted = "one of stale-only, refuse, warn";
    let at_limit = inner.scalar_or(reader, "at_limit", keyword(wanted, &words), OverBudgetAction::StaleOnly);
    inner.finish(reader);
    let Spanned { value: (credits, period), .. } = credits?;
    Some(CostBudget { credits, period, warn_at, at_limit })
}

/// Parses `10000/month`, `333/day`.
fn in_period(text: &str) -> Result<(f64, Period), ValueError> {
    let wanted = "credits in a calendar period, such as `10000/month` or `333/day`";
    let (credits, period) = text.trim().split_once('/').ok_or_else(|| ValueError::is_not(wanted))?;
    let credits = decimal(credits.trim_end()).ok_or_else(|| ValueError::is_not(wanted))?;
    let period = period.trim_start();
    let Some(period) = PERIODS.into_iter().find(|known| known.token() == period) else {
        let nearest_period = nearest(period, &PERIODS.map(Period::token)).unwrap_or("month");
        let fix = format!("did you mean `{credits}/{nearest_period}`?");
        return Err(ValueError::new(wanted, "names no calendar period", fix));
    };
    if credits > 0.0 && credits <= MOST {
        return Ok((credits, period));
    }
    let fix = "write the credits that may be spent, or remove `budget` for no limit";
    Err(ValueError::new(wanted, "is zero or too large", fix))
}

const PERIODS: [Period; 2] = [Period::Day, Period::Month];

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;
    use crate::semantics::json_path::JsonPath;

    #[test]
    fn a_budget_is_credits_per_calendar_period() {
        assert_eq!(in_period("10000/month"), Ok((10_000.0, Period::Month)));
        assert_eq!(in_period("333.5 / day"), Ok((333.5, Period::Day)));
        for text in ["10000", "/day", "10/m", "0/day", "-1/day", "1e3/day", "5/year"] {
            assert!(in_period(text).is_err(), "{text}");
        }
        assert_eq!(in_period("10/mont").unwrap_err().fix, "did you mean `10/month`?");
    }

    #[test]
    fn credits_come_from_the_body_or_a_field_or_are_fixed_per_call() {
        assert_eq!(credit_source("0.5"), Ok(CreditSource::PerCall(0.5)));
        let path = JsonPath::parse("$.status.credit_count").unwrap();
        assert_eq!(credit_source("$.status.credit_count"), Ok(CreditSource::Body(path)));
        for text in ["0", "-1", "status.credit_count", "$.", "x"] {
            assert!(credit_source(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_whole_number_of_credits_is_parsed_exactly(credits in 1_u32..) {
            let expected = Ok((f64::from(credits), Period::Day));
            prop_assert_eq!(in_period(&format!("{credits}/day")), expected);
        }

        #[test]
        fn no_input_causes_a_panic(text in any::<String>()) {
            prop_assert_eq!(in_period(&text), in_period(&text));
            prop_assert_eq!(credit_source(&text), credit_source(&text));
        }
    }
}
