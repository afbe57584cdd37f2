//! `larder inspect`: everything about the stored answers of one URL or key, but their bodies.
//!
//! Owns: its arguments and what it prints. Never touches: what is stored; what is secret was masked
//! by the larder that tells it.

use std::io::{self, Write};

use serde_json::Value;

use crate::cli::admin_client::entry::{self, Entry, Which};
use crate::cli::admin_client::{self, TargetArgs, harmless};
use crate::cli::{Context, ExitStatus};

/// The arguments of `larder inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE, group = clap::ArgGroup::new("what").required(true))]
pub struct Args {
    /// The URL. One below a mount of larder's is the one that it is sent on as.
    #[arg(group = "what")]
    url: Option<String>,
    /// The URL of an entry with this `key`, as `larder ls --json` shows it: for a URL that is not
    /// shown whole.
    #[arg(long, group = "what", value_name = "KEY")]
    key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: TargetArgs,
}

const EXAMPLE: &str = "\
Each variant and each user's own answer stands for itself. Exits 1 where
nothing is stored.

Examples:
  larder inspect http://api.example/v1/coins
  larder inspect --key 0f3c9a62d1b84e7795a1c2d3e4f50617";

/// Prints a block for each stored answer.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let found = args.at.find(&world.env);
    let which = match (&args.url, &args.key) {
        (Some(url), _) => Which::Url(url),
        (None, Some(key)) => Which::Key(key),
        (None, None) => Which::All,
    };
    let outcome = found.and_then(|larder| entry::fetch(&larder, which, MOST, true));
    let nothing = outcome.as_ref().is_ok_and(|answer| answer["entries"] == Value::Array(vec![]));
    let told = |answer: &Value, out: &mut dyn Write| told(args, answer, out);
    let exit = admin_client::print_result("inspect", args.json, outcome, world, told);
    if nothing { ExitStatus::Failed } else { exit }
}

fn told(args: &Args, answer: &Value, out: &mut dyn Write) -> io::Result<ExitStatus> {
    if let Some(line) = args.url.as_deref().and_then(|url| entry::sent_as(url, answer)) {
        writeln!(out, "{line}\n")?;
    }
    let entries = Entry::all(answer);
    if entries.is_empty() {
        writeln!(out, "nothing is stored of it")?;
    }
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        block(entry, out)?;
    }
    if !answer["next"].is_null() {
        writeln!(out, "\n… and more")?;
    }
    Ok(ExitStatus::Ok)
}

fn block(entry: &Entry, out: &mut dyn Write) -> io::Result<()> {
    let route = entry.route.clone().unwrap_or_else(|| "none: it is not served any more".to_owned());
    let vary = if entry.vary.is_empty() { "-".to_owned() } else { entry.vary.join(", ") };
    let lines = [
        ("status", entry.status.to_string()),
        ("scope", entry.scope.clone()),
        ("key", entry.key.clone()),
        ("route", route),
        ("stored", entry.stored.clone()),
        ("age", entry.age()),
        ("ttl", entry.ttl()),
        ("body", format!("{} in {}", entry.size(), entry.tiers.join(" and "))),
        ("vary", vary),
    ];
    writeln!(out, "{}", harmless(&entry.url))?;
    for (name, value) in lines {
        writeln!(out, "  {name:<8}{}", harmless(&value))?;
    }
    for (name, values) in &entry.headers {
        for value in values {
            writeln!(out, "    {}: {}", harmless(name), harmless(value))?;
        }
    }
    Ok(())
}

/// How many answers are printed.
const MOST: usize = 10_000;
