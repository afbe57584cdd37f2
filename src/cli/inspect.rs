//! `larder inspect`: prints the stored responses of one URL or key, without their bodies.
//!
//! Owns: its arguments and its output. Never touches: the store; the masking of secrets, which the running
//! larder has done.

use std::io::{self, Write};

use serde_json::Value;

use crate::cli::admin_client::entry::{self, Entry, EntryFilter};
use crate::cli::admin_client::{AdminArgs, AdminClient, sanitize};
use crate::cli::{Context, ExitStatus};

/// The arguments of `larder inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE, group = clap::ArgGroup::new("what").required(true))]
pub struct Args {
    /// The URL. A URL below a mount selects the URL to which the mount rewrites it.
    #[arg(group = "what")]
    url: Option<String>,
    /// Select the URL of the entry with this `key`, as `larder ls --json` shows it. Use this for a URL
    /// with a masked secret.
    #[arg(long, group = "what", value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

const EXAMPLE: &str = "\
Each variant and each user's response is listed separately. The exit code is 1
if no response is stored.

Examples:
  larder inspect http://api.example/v1/coins
  larder inspect --key 0f3c9a62d1b84e7795a1c2d3e4f50617";

/// Prints a block for each stored response.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let which = match (&args.url, &args.key) {
        (Some(url), _) => EntryFilter::Url(url),
        (None, Some(key)) => EntryFilter::Key(key),
        (None, None) => EntryFilter::All,
    };
    let mut is_empty = false;
    let request = |larder: &AdminClient| {
        let response = entry::fetch(larder, which, MAX_ENTRIES, true)?;
        is_empty = response["entries"] == Value::Array(vec![]);
        Ok(response)
    };
    let print = |response: &Value, out: &mut dyn Write| print(args, response, out);
    let exit = args.admin.run("inspect", context, request, print);
    if is_empty { ExitStatus::Failed } else { exit }
}

fn print(args: &Args, response: &Value, out: &mut dyn Write) -> io::Result<()> {
    if let Some(line) = args.url.as_deref().and_then(|url| entry::sent_as(url, response)) {
        writeln!(out, "{line}\n")?;
    }
    let entries = Entry::parse_all(response);
    if entries.is_empty() {
        writeln!(out, "no response is stored for this URL")?;
    }
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        print_block(entry, out)?;
    }
    if !response["next"].is_null() {
        writeln!(out, "\n… and more")?;
    }
    Ok(())
}

fn print_block(entry: &Entry, out: &mut dyn Write) -> io::Result<()> {
    let route = entry.route.clone().unwrap_or_else(|| "none: it is no longer served".to_owned());
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
    writeln!(out, "{}", sanitize(&entry.url))?;
    for (name, value) in lines {
        writeln!(out, "  {name:<8}{}", sanitize(&value))?;
    }
    for (name, values) in &entry.headers {
        for value in values {
            writeln!(out, "    {}: {}", sanitize(name), sanitize(value))?;
        }
    }
    Ok(())
}

/// The largest number of printed responses.
const MAX_ENTRIES: usize = 10_000;
