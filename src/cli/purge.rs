//! `larder purge`: makes stored responses unusable, or stale.
//!
//! Owns: its arguments and its output. Never touches: the store.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::admin_client::{AdminArgs, AdminClient, entry, sanitize};
use crate::cli::{Context, ExitStatus};

/// The arguments of `larder purge`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE, group = clap::ArgGroup::new("what").required(true))]
pub struct Args {
    /// Purge this URL: all its variants, of all users. It is not a pattern. A URL below a mount selects
    /// the URL to which the mount rewrites it.
    #[arg(group = "what")]
    url: Option<String>,
    /// Purge the URL of the entry with this `key`, as `larder ls --json` shows it.
    #[arg(long, group = "what", value_name = "KEY")]
    key: Option<String>,
    /// Purge all stored responses.
    #[arg(long, group = "what")]
    all: bool,
    /// Make the responses stale instead: they are revalidated, and can be served on errors until then.
    #[arg(long)]
    soft: bool,
    /// Only count the responses.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

const EXAMPLE: &str = "\
Examples:
  larder purge 'http://api.example/v1/coins?limit=10'
  larder purge --key 0f3c9a62d1b84e7795a1c2d3e4f50617
  larder purge --all --soft --dry-run";

/// Requests the purge and prints the number of purged responses.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let target = match (&args.url, &args.key) {
        (Some(url), _) => entry::parse_url(url).map(|url| json!({ "url": url.to_string() })),
        (None, Some(key)) => entry::validate_key(key).map(|key| json!({ "key": key })),
        (None, None) => Ok(json!({ "all": true })),
    };
    let request = |larder: &AdminClient| {
        let mut body = target?;
        body["soft"] = args.soft.into();
        body["dry_run"] = args.dry_run.into();
        larder.post("/v1/purge", &body)
    };
    args.admin.run("purge", context, request, |response, out| print(args, response, out))
}

fn print(args: &Args, response: &Value, out: &mut dyn Write) -> io::Result<()> {
    let count = response["count"].as_u64().unwrap_or_default();
    let done = match (args.soft, args.dry_run) {
        (false, false) => "purged",
        (true, false) => "made stale:",
        (false, true) => "would purge",
        (true, true) => "would make stale:",
    };
    let noun = if count == 1 { "response" } else { "responses" };
    let of_url =
        args.url.as_deref().map(|url| format!(" of {}", entry::redacted_url(url))).unwrap_or_default();
    let sent_as = response["sent_as"].as_str().map(sanitize);
    let sent_as = sent_as.map(|url| format!(", which is sent as {url}")).unwrap_or_default();
    let is_pattern = args.url.as_deref().is_some_and(|url| url.contains('*'));
    let hint =
        if count == 0 && is_pattern { ": a URL is taken literally; there are no patterns" } else { "" };
    writeln!(out, "{done} {count} stored {noun}{of_url}{sent_as}{hint}")
}
