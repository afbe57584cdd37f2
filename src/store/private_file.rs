//! Files and directories that are their owner's alone, from the first byte on.
//!
//! Owns: how one is made, whole or not at all. Never touches: what stands in it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Makes the directory, and those above it, unless it is there.
pub fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file of another name next to `path`, to be linked or renamed to it. It lasts.
pub fn beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:08x}", rand::random::<u32>()));
    let new = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(new)
}

/// Returns once the names in a directory last.
pub fn settle(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
