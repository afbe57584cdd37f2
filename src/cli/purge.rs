//! `larder purge`: makes stored answers unusable, or only stale.
//!
//! Owns: its arguments and what it prints. Never touches: what is stored.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::admin_client::{self, TargetArgs, entry, harmless};
use crate::cli::{Context, ExitStatus};

/// The arguments of `larder purge`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE, group = clap::ArgGroup::new("what").required(true))]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// The URL: all its variants, of all users. It is no pattern. One below a mount of larder's is the
    /// one that it is sent on as.
    #[arg(group = "what")]
    url: Option<String>,
    /// The URL of an entry with this `key`, as `larder ls --json` shows it.
    #[arg(long, group = "what", value_name = "KEY")]
    key: Option<String>,
    /// Everything that is stored.
    #[arg(long, group = "what")]
    all: bool,
    /// Make it stale instead: it is revalidated, and stands in for errors meanwhile.
    #[arg(long)]
    soft: bool,
    /// Only count.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: TargetArgs,
}

const EXAMPLE: &str = "\
Examples:
  larder purge 'http://api.example/v1/coins?limit=10'
  larder purge --key 0f3c9a62d1b84e7795a1c2d3e4f50617
  larder purge --all --soft --dry-run";

/// Asks for the purge and prints how many answers it reached.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let what = match (&args.url, &args.key) {
        (Some(url), _) => entry::checked(url).map(|url| json!({ "url": url.to_string() })),
        (None, Some(key)) => entry::checked_key(key).map(|key| json!({ "key": key })),
        (None, None) => Ok(json!({ "all": true })),
    };
    let outcome = what.and_then(|mut body| {
        body["soft"] = args.soft.into();
        body["dry_run"] = args.dry_run.into();
        args.at.find(&world.env)?.post("/v1/purge", &body)
    });
    admin_client::print_result("purge", args.json, outcome, world, |answer, out| {
        told(args, answer, out)
    })
}

fn told(args: &Args, answer: &Value, out: &mut dyn Write) -> io::Result<ExitStatus> {
    let count = answer["count"].as_u64().unwrap_or_default();
    let done = match (args.soft, args.dry_run) {
        (false, false) => "purged",
        (true, false) => "made stale:",
        (false, true) => "would purge",
        (true, true) => "would make stale:",
    };
    let answers = if count == 1 { "answer" } else { "answers" };
    let of =
        args.url.as_deref().map(|url| format!(" of {}", entry::shown(url))).unwrap_or_default();
    let sent_as = answer["sent_as"].as_str().map(harmless);
    let sent_as = sent_as.map(|url| format!(", which is sent as {url}")).unwrap_or_default();
    writeln!(out, "{done} {count} stored {answers}{of}{sent_as}")?;
    Ok(ExitStatus::Ok)
}
