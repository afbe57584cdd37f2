//! `larder upstreams`: prints the state of each upstream; `larder upstreams release` ends its spent quotas.
//!
//! Owns: its arguments and its output. Never touches: the rules for cooldowns and limits.

use std::io::{self, Write};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::admin_client::{AdminArgs, AdminClient, list, sanitize, table};
use crate::cli::{Context, ExitStatus};
use crate::config::duration;

/// The arguments of `larder upstreams`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// End the cooldowns of spent quotas of one upstream: its calls are made again.
    Release(ReleaseArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = RELEASE_EXAMPLE)]
struct ReleaseArgs {
    /// The name of the upstream, as `larder upstreams` shows it.
    name: String,
    #[command(flatten)]
    admin: AdminArgs,
}

const RELEASE_EXAMPLE: &str = "\
Use it once the reason is gone: the API was paid, its limit was raised. If the API
refuses the next call all the same, the cooldown begins again.

Example:
  larder upstreams release openai";

const EXAMPLE: &str = "\
IN FLIGHT  calls that wait for the head of their response
WAITING    calls in the queue
BREAKER    open: calls are blocked; half-open: one call probes the upstream
RETRIES    retries in the last ten seconds, and the retry budget
INVALID    responses counted by the ban guard, and the count at which it trips

Below the table: each cooldown with its reason and remaining time, and the calls
left of each limit. During a cooldown, calls are blocked and stale responses are
served, if a route allows them.

Examples:
  larder upstreams
  larder upstreams --json
  larder upstreams release openai     after a spent quota was paid or raised";

/// Prints a line for each upstream, then the cooldowns and the limits.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let Some(Action::Release(release)) = &args.action else {
        return args.admin.run("upstreams", context, |larder| larder.get("/v1/upstreams"), print);
    };
    let request =
        |larder: &AdminClient| larder.post("/v1/upstreams/release", &json!({ "upstream": release.name }));
    let print = |response: &Value, out: &mut dyn Write| print_release(&release.name, response, out);
    release.admin.run("upstreams release", context, request, print)
}

fn print_release(name: &str, response: &Value, out: &mut dyn Write) -> io::Result<()> {
    let count = response["count"].as_u64().unwrap_or_default();
    let name = sanitize(name);
    match count {
        0 => writeln!(out, "{name}: no quota was spent; nothing was blocked for one"),
        1 => writeln!(out, "{name}: ended 1 cooldown; its calls are made again"),
        _ => writeln!(out, "{name}: ended {count} cooldowns; their calls are made again"),
    }
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
    /// `None`: until the operator ends it.
    left: Option<f64>,
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

fn print(response: &Value, out: &mut dyn Write) -> io::Result<()> {
    let all: Vec<Upstream> = list(response, "upstreams");
    if all.is_empty() {
        return writeln!(out, "no upstream is configured, and no host was called yet");
    }
    table::print(HEADS, all.iter().map(row).collect(), out)?;
    table::print_details(all.iter().flat_map(details), out)
}

const HEADS: [&str; 6] = ["UPSTREAM", "IN FLIGHT", "WAITING", "BREAKER", "RETRIES", "INVALID"];

fn row(upstream: &Upstream) -> [String; 6] {
    let suffix = if upstream.configured { "" } else { " (no upstream)" };
    let nothing = || "-".to_owned();
    let invalid = upstream.ban_guard.as_ref();
    [
        format!("{}{suffix}", upstream.name),
        upstream.in_flight.to_string(),
        upstream.waiting.to_string(),
        upstream.breaker.clone().unwrap_or_else(nothing),
        format!("{}/{}", upstream.retries.count, upstream.retries.allowed),
        invalid.map_or_else(nothing, |one| format!("{}/{}", one.count, one.trips_at)),
    ]
}

fn details(upstream: &Upstream) -> Vec<String> {
    let name = &upstream.name;
    let cooldowns = upstream.holds.iter().map(|cooldown| format!("{name}: {}", cooldown.line()));
    let limits = upstream.limits.iter().map(|limit| format!("{name}: {}", limit.line()));
    cooldowns.chain(limits).collect()
}

impl CooldownRow {
    fn line(&self) -> String {
        let Self { reach, cause, count, .. } = self;
        let scope = if *count == 1 { reach.clone() } else { format!("{count} × {reach}") };
        let effect = if self.firm { "calls are blocked" } else { "stale responses are served" };
        let until = match (self.probing, self.left) {
            (true, _) => "until the probe call ends".to_owned(),
            (false, None) => "until `larder upstreams release`".to_owned(),
            (false, Some(left)) if left > 0.0 => format!("for {}", time_text(left)),
            (false, Some(_)) => "until the next call, which is the probe".to_owned(),
        };
        format!("{scope} cooldown ({cause}): {effect} {until}")
    }
}

impl LimitRow {
    fn line(&self) -> String {
        let Self { name, limit, left, .. } = self;
        let window = self.window.map(|window| format!(" in {}", time_text(window)));
        format!("limit {name}: {left} of {limit} calls left{}", window.unwrap_or_default())
    }
}

/// A time span, rounded down to seconds, or to milliseconds below ten seconds.
fn time_text(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let is_short = time < Duration::from_secs(10);
    let rounded = if is_short { time.as_millis() * 1_000_000 } else { u128::from(time.as_secs()) * SECOND };
    duration::show(Duration::from_nanos(u64::try_from(rounded).unwrap_or(u64::MAX)))
}

const SECOND: u128 = 1_000_000_000;
