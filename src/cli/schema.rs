//! `larder schema`: the JSON Schema of proxy.yaml, for editors and for checks without larder.
//!
//! Owns: printing it. Never touches: what it says; a test keeps it in step with the reader.

use crate::cli::{Context, ExitStatus};

/// The arguments of `larder schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// It is JSON anyway.
    #[arg(long, hide = true)]
    json: bool,
}

const EXAMPLE: &str = "\
An editor that speaks the YAML language server checks and completes a file that begins with
  # yaml-language-server: $schema=proxy.schema.json

Example:
  larder schema > proxy.schema.json";

/// JSON Schema 2020-12.
pub const SCHEMA: &str = include_str!("../../docs/schema/proxy.schema.json");

/// Prints it.
pub fn run(_: &Args, world: &mut Context<'_>) -> ExitStatus {
    // Whoever reads the output has gone: there is nobody left to tell.
    world.out.write_all(SCHEMA.as_bytes()).map_or(ExitStatus::Failed, |()| ExitStatus::Ok)
}
