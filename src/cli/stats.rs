//! `larder stats`: the requests since larder started, by route.
//!
//! Owns: its arguments and its output. Never touches: counting.

use std::io::{self, Write};

use serde::Deserialize;
use serde_json::Value;

use crate::cli::admin_client::{AdminArgs, list, table};
use crate::cli::exec::summary::{bytes, percent};
use crate::cli::{Context, ExitStatus};

/// The arguments of `larder stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
}

const EXAMPLE: &str = "\
HITS       answered without a call of their own, fresh or stale
TO API     calls to the API, background refreshes included, retries not
FAILED     errors that larder generated
REASONS    why requests were forwarded: the most frequent reasons, as the tokens
           of `fwd` in Cache-Status

All counts are since larder started. It logs those of each minute with requests
at level info.

Examples:
  larder stats
  larder stats --json";

/// Prints a line for each route, then the sums.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    args.admin.run("stats", context, |larder| larder.get("/v1/stats"), print)
}

#[derive(Debug, Deserialize)]
struct Counts {
    #[serde(default)]
    name: String,
    calls: u64,
    hits: u64,
    to_api: u64,
    refreshes: u64,
    failed: u64,
    tunnels: u64,
    misses: Vec<Miss>,
}

#[derive(Debug, Deserialize)]
struct Miss {
    reason: String,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct TransferSize {
    #[serde(rename = "client_bytes")]
    clients: u64,
    #[serde(rename = "error_bytes")]
    errors: u64,
    #[serde(rename = "saved_bytes")]
    saved: u64,
}

fn print(response: &Value, out: &mut dyn Write) -> io::Result<()> {
    let (Ok(total), Ok(size)) = (Counts::deserialize(response), TransferSize::deserialize(response)) else {
        return writeln!(out, "the larder that runs has no such counts: it is of another version");
    };
    let mut all: Vec<Counts> = list(response, "routes");
    // Requests without a route have a line only if there are any.
    all.retain(|route| route.name != "none" || route.calls > 0);
    all.sort_by_key(|route| std::cmp::Reverse(route.calls));
    let total = Counts { name: "total".to_owned(), ..total };
    all.push(total);
    table::print(HEADS, all.iter().map(row).collect(), out)?;
    table::print_details(all.last().into_iter().flat_map(|total| details(total, &size)), out)
}

const HEADS: [&str; 7] = ["ROUTE", "CALLS", "HITS", "SHARE", "TO API", "FAILED", "REASONS"];

fn row(route: &Counts) -> [String; 7] {
    let share = if route.calls > 0 { format!("{} %", percent(route.hits, route.calls)) } else { "-".into() };
    let reasons = route.misses.iter().take(3).map(|miss| format!("{} {}", miss.reason, miss.count));
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    [
        route.name.clone(),
        route.calls.to_string(),
        route.hits.to_string(),
        share,
        route.to_api.to_string(),
        route.failed.to_string(),
        if reasons.is_empty() { "-".to_owned() } else { reasons },
    ]
}

fn details(total: &Counts, size: &TransferSize) -> Vec<String> {
    let responses = size.clients.saturating_sub(size.errors);
    let mut lines = vec![format!("saved {} of {}", bytes(size.saved), bytes(responses))];
    if total.refreshes > 0 {
        lines.push(format!("{} of the calls to the API refreshed stale responses", total.refreshes));
    }
    if total.tunnels > 0 {
        lines.push(format!("{} connections were tunnelled unread", total.tunnels));
    }
    lines
}
