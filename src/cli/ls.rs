//! `larder ls`: lists the stored responses.
//!
//! Owns: its arguments and its table. Never touches: the store.

use std::io::{self, Write};

use serde_json::Value;

use crate::cli::admin_client::entry::{self, Entry, EntryFilter};
use crate::cli::admin_client::{AdminArgs, AdminClient, table};
use crate::cli::{Context, ExitStatus};
use crate::semantics::redaction::HIDDEN;

/// The arguments of `larder ls`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// List only the responses of this URL. A URL below a mount selects the URL to which the mount
    /// rewrites it.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The largest number of listed responses.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    admin: AdminArgs,
}

const EXAMPLE: &str = "\
TTL is the remaining freshness of a response under the current configuration.

Examples:
  larder ls
  larder ls --url http://api.example/v1/coins --json";

/// Prints a line for each stored response.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let which = args.url.as_deref().map_or(EntryFilter::All, EntryFilter::Url);
    let request = |larder: &AdminClient| entry::fetch(larder, which, args.limit.max(1), false);
    args.admin.run("ls", context, request, |response, out| print(args, response, out))
}

fn print(args: &Args, response: &Value, out: &mut dyn Write) -> io::Result<()> {
    if let Some(line) = args.url.as_deref().and_then(|url| entry::sent_as(url, response)) {
        writeln!(out, "{line}")?;
    }
    let entries = Entry::parse_all(response);
    if entries.is_empty() {
        return writeln!(out, "nothing is stored");
    }
    table::print(HEADS, entries.iter().map(row).collect(), out)?;
    if entries.iter().any(|entry| entry.url.contains(HIDDEN)) {
        writeln!(out, "inspect and purge a URL with a masked secret by its key: larder ls --json")?;
    }
    if !response["next"].is_null() {
        writeln!(out, "… and more: larder ls --limit {}", entries.len().saturating_mul(10))?;
    }
    Ok(())
}

/// The column heads. The URL is last, since it can have any length.
const HEADS: [&str; 8] = ["STATUS", "SCOPE", "AGE", "TTL", "SIZE", "TIERS", "ROUTE", "URL"];

fn row(entry: &Entry) -> [String; 8] {
    let route = entry.route.clone().unwrap_or_else(|| "-".to_owned());
    let tiers = entry.tiers.join(",");
    let status = entry.status.to_string();
    let (scope, url) = (entry.scope.clone(), entry.url.clone());
    [status, scope, entry.age(), entry.ttl(), entry.size(), tiers, route, url]
}
