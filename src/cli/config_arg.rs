//! The configuration that a command is about: its argument, or `--config` as the commands take it that have
//! another argument.
//!
//! Owns: that both are understood. Never touches: the file.

use std::path::{Path, PathBuf};

/// Which file.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Named {
    /// The configuration.
    #[arg(default_value = "proxy.yaml", value_name = "FILE")]
    file: PathBuf,
    /// The same, as other commands take it.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

impl Named {
    /// Where it lies.
    pub(in crate::cli) fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(&self.file)
    }
}
