//! The real larder, for examples that run it as its users do.
//!
//! Owns: where it is. Never touches: what it is started with.

use std::path::{Path, PathBuf};

use crate::client::Failure;

/// The program that was built beside this example.
pub(crate) fn larder() -> Result<PathBuf, Failure> {
    let example = std::env::current_exe()?;
    let profile = example.parent().and_then(Path::parent).ok_or("not among cargo's examples")?;
    let program = profile.join("larder");
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("{} is not there: build it first (cargo build --release)", program.display())
        .into())
}
