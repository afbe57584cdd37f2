//! The configuration file of a command: its positional argument, or `--config` as for commands that have
//! another positional argument.
//!
//! Owns: accepting both forms. Never touches: the file.

use std::path::{Path, PathBuf};

/// The argument that specifies the configuration file.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ConfigArg {
    /// The configuration.
    #[arg(default_value = "proxy.yaml", value_name = "FILE")]
    file: PathBuf,
    /// The same, in the form of other commands.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

impl ConfigArg {
    /// The path of the file.
    pub(in crate::cli) fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(&self.file)
    }
}
