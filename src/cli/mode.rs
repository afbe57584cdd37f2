//! `larder mode`: prints or sets the mode of a running larder.
//!
//! Owns: its arguments and its output. Never touches: the effect of a mode.

use std::io::{self, Write};

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use crate::cli::admin_client::{AdminArgs, AdminClient, sanitize};
use crate::cli::{Context, ExitStatus};
use crate::policy::Mode;

/// The arguments of `larder mode`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The new mode. Without it, the current mode is printed.
    #[arg(value_parser = PossibleValuesParser::new(Mode::ALL.map(Mode::token)))]
    mode: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

const EXAMPLE: &str = "  cache     as the routes specify
  bypass    every request passes through: the store is neither read nor written
  offline   only from the store, also stale responses: no API is called

The mode lasts until it is set again, until a restart, or until a reload with
another `defaults.mode`.

Example:
  larder mode bypass";

/// Sets the mode if one is given, and prints the mode.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let request = |larder: &AdminClient| match &args.mode {
        Some(mode) => larder.put("/v1/mode", &json!({ "mode": mode })),
        None => larder.get("/v1/mode"),
    };
    args.admin.run("mode", context, request, print)
}

fn print(response: &Value, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", sanitize(response["mode"].as_str().unwrap_or_default()))
}
