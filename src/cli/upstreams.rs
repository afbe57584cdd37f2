//! `larder upstreams`: how each upstream stands.
//!
//! Owns: its arguments and what it prints. Never touches: why an upstream is held.

use std::io::{self, Write};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::admin_client::{self, TargetArgs, harmless, table};
use crate::cli::{Context, ExitStatus};
use crate::config::duration;

/// The arguments of `larder upstreams`.
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
IN FLIGHT  calls that wait for the head of their answer
WAITING    calls that wait for their turn
BREAKER    open: nobody is let through; half-open: one call tries
RETRIES    in the last ten seconds, and how many there may be
INVALID    answers that the ban guard has counted, and at how many it trips

Below it: what is held, why and for how long, and what is left of each limit.
An upstream that is held is not asked: stale answers are served meanwhile,
where a route allows them.

Examples:
  larder upstreams
  larder upstreams --json";

/// Prints a line for each upstream, then what is held and what is limited.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let found = args.at.find(&world.env);
    let outcome = found.and_then(|larder| larder.get("/v1/upstreams"));
    admin_client::print_result("upstreams", args.json, outcome, world, told)
}

#[derive(Debug, Deserialize)]
struct Upstream {
    name: String,
    configured: bool,
    in_flight: u64,
    waiting: u64,
    holds: Vec<CooldownRow>,
    breaker: Option<String>,
    limits: Vec<LimitRow>,
    ban_guard: Option<BanGuardRow>,
    retries: Retries,
}

#[derive(Debug, Deserialize)]
struct CooldownRow {
    reach: String,
    cause: String,
    firm: bool,
    left: f64,
    probing: bool,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct LimitRow {
    name: String,
    limit: u64,
    window: Option<f64>,
    left: u64,
}

#[derive(Debug, Deserialize)]
struct BanGuardRow {
    count: u64,
    trips_at: u64,
}

#[derive(Debug, Deserialize)]
struct Retries {
    count: u64,
    allowed: u64,
}

fn told(answer: &Value, out: &mut dyn Write) -> io::Result<ExitStatus> {
    let all = answer["upstreams"].as_array().into_iter().flatten();
    let all: Vec<_> = all.filter_map(|one| Upstream::deserialize(one).ok()).collect();
    if all.is_empty() {
        writeln!(out, "no upstream is configured, and no host was asked yet")?;
        return Ok(ExitStatus::Ok);
    }
    table::print(HEADS, all.iter().map(row).collect(), out)?;
    let mut lines = all.iter().flat_map(details).peekable();
    if lines.peek().is_some() {
        writeln!(out)?;
    }
    for line in lines {
        writeln!(out, "{}", harmless(&line).replace('\n', " "))?;
    }
    Ok(ExitStatus::Ok)
}

const HEADS: [&str; 6] = ["UPSTREAM", "IN FLIGHT", "WAITING", "BREAKER", "RETRIES", "INVALID"];

fn row(upstream: &Upstream) -> [String; 6] {
    let unnamed = if upstream.configured { "" } else { " (no upstream)" };
    let nothing = || "-".to_owned();
    let invalid = upstream.ban_guard.as_ref();
    [
        format!("{}{unnamed}", upstream.name),
        upstream.in_flight.to_string(),
        upstream.waiting.to_string(),
        upstream.breaker.clone().unwrap_or_else(nothing),
        format!("{}/{}", upstream.retries.count, upstream.retries.allowed),
        invalid.map_or_else(nothing, |one| format!("{}/{}", one.count, one.trips_at)),
    ]
}

fn details(upstream: &Upstream) -> Vec<String> {
    let name = &upstream.name;
    let holds = upstream.holds.iter().map(|held| format!("{name}: {}", held.line()));
    let limits = upstream.limits.iter().map(|limited| format!("{name}: {}", limited.line()));
    holds.chain(limits).collect()
}

impl CooldownRow {
    fn line(&self) -> String {
        let Self { reach, cause, count, .. } = self;
        let what = if *count == 1 { reach.clone() } else { format!("{count} × {reach}") };
        let whom = if self.firm { "nobody is let through" } else { "stale answers are served" };
        let when = match (self.probing, self.left > 0.0) {
            (true, _) => "until the call that tries is answered".to_owned(),
            (false, true) => format!("for {}", shown(self.left)),
            (false, false) => "until the next call, which tries".to_owned(),
        };
        format!("{what} held ({cause}): {whom} {when}")
    }
}

impl LimitRow {
    fn line(&self) -> String {
        let Self { name, limit, left, .. } = self;
        let window = self.window.map(|window| format!(" in {}", shown(window)));
        format!("limit {name}: {left} of {limit} calls left{}", window.unwrap_or_default())
    }
}

/// To the second, and finer below ten of them.
fn shown(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let fine = time < Duration::from_secs(10);
    let rounded =
        if fine { time.as_millis() * 1_000_000 } else { u128::from(time.as_secs()) * SECOND };
    duration::show(Duration::from_nanos(u64::try_from(rounded).unwrap_or(u64::MAX)))
}

const SECOND: u128 = 1_000_000_000;
