//! `larder cost`: the cost of calls to upstreams, and the avoided cost.
//!
//! Owns: its arguments and its output. Never touches: cost accounting.

use std::io::{self, Write};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::admin_client::{AdminArgs, list, table};
use crate::cli::{Context, ExitStatus};
use crate::config::duration;

/// The arguments of `larder cost`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
}

const EXAMPLE: &str = "\
Days and months are in UTC. AVOIDED counts calls that stored responses made
unnecessary or free of charge, each at the average cost of a call. Every
upstream with `upstreams.NAME.cost` is listed.

Examples:
  larder cost
  larder cost --json";

/// Prints two lines for each upstream with a cost, and the state of the budgets.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    args.admin.run("cost", context, |larder| larder.get("/v1/cost"), print)
}

#[derive(Debug, Deserialize)]
struct Spending {
    name: String,
    currency: String,
    today: Spent,
    month: Spent,
    budget: Option<Budget>,
}

#[derive(Debug, Deserialize)]
struct Spent {
    calls: u64,
    credits: f64,
    cost: f64,
    avoided: Avoided,
}

#[derive(Debug, Deserialize)]
struct Avoided {
    calls: u64,
    credits: f64,
    cost: f64,
}

#[derive(Debug, Deserialize)]
struct Budget {
    credits: f64,
    period: String,
    at_limit: String,
    used: f64,
    share: f64,
    warns: bool,
    spent: bool,
    ends_in: u64,
}

fn print(response: &Value, out: &mut dyn Write) -> io::Result<()> {
    let all: Vec<Spending> = list(response, "upstreams");
    if all.is_empty() {
        return writeln!(out, "nothing costs anything: no upstream has `cost` in proxy.yaml");
    }
    let rows = all.iter().flat_map(|one| [row(one, "today", &one.today), row(one, "this month", &one.month)]);
    table::print(HEADS, rows.collect(), out)?;
    let budgets = all.iter().filter_map(|one| Some(one.budget.as_ref()?.line(&one.name)));
    table::print_details(budgets, out)
}

const HEADS: [&str; 8] =
    ["UPSTREAM", "WHEN", "CALLS", "CREDITS", "COST", "AVOIDED CALLS", "AVOIDED CREDITS", "AVOIDED COST"];

fn row(spending: &Spending, when: &str, spent: &Spent) -> [String; 8] {
    let Avoided { calls, credits, cost } = &spent.avoided;
    let money = |amount: f64| format!("{} {}", money_text(amount), spending.currency);
    [
        spending.name.clone(),
        when.to_owned(),
        spent.calls.to_string(),
        amount_text(spent.credits),
        money(spent.cost),
        calls.to_string(),
        amount_text(*credits),
        money(*cost),
    ]
}

impl Budget {
    fn line(&self, name: &str) -> String {
        let (used, credits) = (amount_text(self.used), amount_text(self.credits));
        let share = (self.share * 100.0).floor();
        let state = match (self.spent, self.warns) {
            (true, _) => format!(", spent: {}", self.consequence()),
            (false, true) => format!(", nearly spent; then {}", self.consequence()),
            (false, false) => String::new(),
        };
        let left = left(self.ends_in);
        let period = &self.period;
        format!(
            "{name}: {used} of {credits} credits of this {period} ({share} %){state}; a new {period} in {left}"
        )
    }

    /// The effect of `at_limit`.
    fn consequence(&self) -> &str {
        match self.at_limit.as_str() {
            "stale-only" => "no calls, only stored responses, also stale ones",
            "refuse" => "no calls and no stale responses",
            "warn" => "calls continue",
            other => other,
        }
    }
}

/// A time span, rounded down to seconds, minutes or days.
fn left(seconds: u64) -> String {
    let whole = |unit: u64| duration::show(Duration::from_secs(seconds / unit * unit));
    match seconds {
        0..60 => whole(1),
        60..172_800 => whole(60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `12.34`, `0.0007`: two decimals, and below 1 as many as three significant digits need.
fn money_text(amount: f64) -> String {
    let digits = (2..=12).find(|digits| amount * 10f64.powi(*digits) >= 100.0);
    let digits = digits.filter(|_| amount < 1.0).unwrap_or(2);
    let text = format!("{amount:.0$}", usize::try_from(digits).unwrap_or(2));
    let cents = text.find('.').map_or(text.len(), |point| point + 3);
    let trimmed = text.trim_end_matches('0').len().max(cents);
    text.chars().take(trimmed).collect()
}

/// `12`, `12.5`: without trailing zeros.
fn amount_text(amount: f64) -> String {
    format!("{amount}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_enough_digits_to_differ_from_nothing() {
        for (amount, text) in [
            (0.0, "0.00"),
            (0.0007, "0.0007"),
            (0.000_000_15, "0.00000015"),
            (0.0123, "0.0123"),
            (0.5, "0.50"),
            (0.1256, "0.126"),
            (12.345_6, "12.35"),
            (1200.0, "1200.00"),
        ] {
            assert_eq!(money_text(amount), text);
        }
    }
}
