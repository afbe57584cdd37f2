//! `larder cost`: what upstreams have cost, and what was not spent.
//!
//! Owns: its arguments and what it prints. Never touches: counting.

use std::io::{self, Write};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::admin_client::{self, TargetArgs, harmless, table};
use crate::cli::{Context, ExitStatus};
use crate::config::duration;

/// The arguments of `larder cost`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: TargetArgs,
}

const EXAMPLE: &str = "\
Days and months are those of UTC. AVOIDED is what calls would have cost that
were not made, or that cost nothing, because of what is stored: each at what a
call has cost on average. Whatever has `upstreams.NAME.cost` is listed.

Examples:
  larder cost
  larder cost --json";

/// Prints two lines for each upstream that costs something, and how the budgets stand.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let found = args.at.find(&world.env);
    let outcome = found.and_then(|larder| larder.get("/v1/cost"));
    admin_client::print_result("cost", args.json, outcome, world, told)
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

fn told(answer: &Value, out: &mut dyn Write) -> io::Result<ExitStatus> {
    let all = answer["upstreams"].as_array().into_iter().flatten();
    let all: Vec<_> = all.filter_map(|one| Spending::deserialize(one).ok()).collect();
    if all.is_empty() {
        writeln!(out, "nothing costs anything: no upstream has `cost` in proxy.yaml")?;
        return Ok(ExitStatus::Ok);
    }
    let rows = all
        .iter()
        .flat_map(|one| [row(one, "today", &one.today), row(one, "this month", &one.month)]);
    table::print(HEADS, rows.collect(), out)?;
    let budgets: Vec<_> =
        all.iter().filter_map(|one| Some(one.budget.as_ref()?.line(&one.name))).collect();
    if !budgets.is_empty() {
        writeln!(out)?;
    }
    for line in budgets {
        writeln!(out, "{}", harmless(&line).replace('\n', " "))?;
    }
    Ok(ExitStatus::Ok)
}

const HEADS: [&str; 8] = [
    "UPSTREAM",
    "WHEN",
    "CALLS",
    "CREDITS",
    "COST",
    "AVOIDED CALLS",
    "AVOIDED CREDITS",
    "AVOIDED COST",
];

fn row(spending: &Spending, when: &str, spent: &Spent) -> [String; 8] {
    let Avoided { calls, credits, cost } = &spent.avoided;
    let money = |amount: f64| format!("{amount:.2} {}", spending.currency);
    [
        spending.name.clone(),
        when.to_owned(),
        spent.calls.to_string(),
        plain(spent.credits),
        money(spent.cost),
        calls.to_string(),
        plain(*credits),
        money(*cost),
    ]
}

impl Budget {
    fn line(&self, name: &str) -> String {
        let (used, credits) = (plain(self.used), plain(self.credits));
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

    /// What `at_limit` means.
    fn consequence(&self) -> &str {
        match self.at_limit.as_str() {
            "stale-only" => "no calls, only what is stored, stale too",
            "refuse" => "no calls, and nothing stale in their place",
            "warn" => "calls go on",
            other => other,
        }
    }
}

/// No finer than anybody plans.
fn left(seconds: u64) -> String {
    let whole = |unit: u64| duration::show(Duration::from_secs(seconds / unit * unit));
    match seconds {
        0..60 => whole(1),
        60..172_800 => whole(60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `12`, `12.5`: no more digits than it has.
fn plain(amount: f64) -> String {
    format!("{amount}")
}
