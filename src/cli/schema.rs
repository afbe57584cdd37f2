//! `larder schema`: prints the JSON Schema of proxy.yaml, for editors and for checks without larder.
//!
//! Owns: printing it. Never touches: its content; a test compares it with the configuration reader.

use crate::cli::{Context, ExitStatus};

/// The arguments of `larder schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Accepted for consistency: the output is always JSON.
    #[arg(long, hide = true)]
    json: bool,
}

const EXAMPLE: &str = "\
An editor with the YAML language server checks and completes a file that begins with
  # yaml-language-server: $schema=proxy.schema.json

Example:
  larder schema > proxy.schema.json";

/// The JSON Schema (2020-12) of proxy.yaml.
pub const SCHEMA: &str = include_str!("../../docs/schema/proxy.schema.json");

/// Prints the schema.
pub fn run(_: &Args, context: &mut Context<'_>) -> ExitStatus {
    // If the output is closed, only the exit code reports the failure.
    context.out.write_all(SCHEMA.as_bytes()).map_or(ExitStatus::Failed, |()| ExitStatus::Ok)
}
