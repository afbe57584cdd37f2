//! `larder reload`: makes a running larder read its configuration again.
//!
//! Owns: its arguments and its output. Never touches: the meaning of the configuration.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::admin_client::{AdminArgs, sanitize};
use crate::cli::{Context, ExitStatus};

/// The arguments of `larder reload`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
}

const EXAMPLE: &str = "\
The file is the argument of `larder run`. If it is invalid, its problems are
printed and the current configuration stays active. SIGHUP does the same.

Example:
  larder check proxy.yaml && larder reload";

/// Requests the reload, and prints the number of routes and the warnings.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    args.admin.run("reload", context, |larder| larder.post("/v1/config/reload", &json!({})), print)
}

fn print(response: &Value, out: &mut dyn Write) -> io::Result<()> {
    let routes = response["routes"].as_u64().unwrap_or_default();
    writeln!(out, "reloaded: {routes} route{}", if routes == 1 { "" } else { "s" })?;
    for warning in response["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(out, "  {}", sanitize(warning))?;
    }
    Ok(())
}
