//! The path of the larder program, for examples that run it as users do.
//!
//! Owns: finding it. Never touches: its arguments.

use std::path::{Path, PathBuf};

use crate::client::Failure;

/// The program, built into the same directory tree as this example.
pub(crate) fn larder() -> Result<PathBuf, Failure> {
    let example = std::env::current_exe()?;
    let profile =
        example.parent().and_then(Path::parent).ok_or("this program is not in cargo's examples directory")?;
    let program = profile.join("larder");
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("{} does not exist: build it first (cargo build --release)", program.display()).into())
}
