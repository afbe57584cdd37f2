//! `larder mode`: the master switch of a running larder.
//!
//! Owns: its arguments and what it prints. Never touches: what a mode does.

use std::io::{self, Write};

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use crate::cli::admin_client::{self, TargetArgs, harmless};
use crate::cli::{Context, ExitStatus};
use crate::policy::Mode;

/// The arguments of `larder mode`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The mode to turn to; none: tell the one in force.
    #[arg(value_parser = PossibleValuesParser::new(Mode::ALL.map(Mode::token)))]
    mode: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: TargetArgs,
}

const EXAMPLE: &str = "\
  cache     as the routes say
  bypass    every request passes through: nothing is read from the store or put into it
  offline   only from the store, stale answers too: no API is asked

It lasts until the next turn or restart, or until a reload brings another
`defaults.mode`.

Example:
  larder mode bypass";

/// Turns the switch, or tells how it stands.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let found = args.at.find(&world.env);
    let outcome = found.and_then(|larder| match &args.mode {
        Some(mode) => larder.put("/v1/mode", &json!({ "mode": mode })),
        None => larder.get("/v1/mode"),
    });
    admin_client::print_result("mode", args.json, outcome, world, told)
}

fn told(answer: &Value, out: &mut dyn Write) -> io::Result<ExitStatus> {
    writeln!(out, "{}", harmless(answer["mode"].as_str().unwrap_or_default()))?;
    Ok(ExitStatus::Ok)
}
