//! `larder inspect`: everything about the stored answers of one URL, but their bodies.
//!
//! Owns: its arguments and what it prints. Never touches: what is stored; what is secret was masked
//! by the larder that tells it.

use std::io::{self, Write};

use serde_json::Value;

use crate::cli::remote::entry::{self, Entry};
use crate::cli::remote::{self, Where, harmless};
use crate::cli::{Exit, World};

/// The arguments of `larder inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The URL.
    url: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

const EXAMPLE: &str = "\
Each variant and each user's own answer stands for itself. Exits 1 where
nothing is stored.

Example:
  larder inspect http://api.example/v1/coins";

/// Prints a block for each stored answer.
pub fn run(args: &Args, world: &mut World<'_>) -> Exit {
    let found = args.at.find(&world.env);
    let outcome = found.and_then(|larder| entry::fetch(&larder, Some(&args.url), MOST, true));
    let nothing = outcome.as_ref().is_ok_and(|answer| answer["entries"] == Value::Array(vec![]));
    let exit = remote::conclude("inspect", args.json, outcome, world, told);
    if nothing { Exit::Failed } else { exit }
}

fn told(answer: &Value, out: &mut dyn Write) -> io::Result<Exit> {
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
    Ok(Exit::Ok)
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

/// Answers of one URL that are printed.
const MOST: usize = 10_000;
