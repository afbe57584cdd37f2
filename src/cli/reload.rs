//! `larder reload`: has a running larder read its configuration again.
//!
//! Owns: its arguments and what it prints. Never touches: what a configuration means.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::admin_client::{self, TargetArgs, harmless};
use crate::cli::{Context, ExitStatus};

/// The arguments of `larder reload`.
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
The file is the one that `larder run` was given. What is wrong in it is told,
and the configuration that was in force stays in force. SIGHUP does the same.

Example:
  larder check proxy.yaml && larder reload";

/// Asks for it and prints what is in force then.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let found = args.at.find(&world.env);
    let outcome = found.and_then(|larder| larder.post("/v1/config/reload", &json!({})));
    admin_client::print_result("reload", args.json, outcome, world, told)
}

fn told(answer: &Value, out: &mut dyn Write) -> io::Result<ExitStatus> {
    let routes = answer["routes"].as_u64().unwrap_or_default();
    writeln!(out, "reloaded: {routes} route{}", if routes == 1 { "" } else { "s" })?;
    for note in answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(out, "  {}", harmless(note))?;
    }
    Ok(ExitStatus::Ok)
}
