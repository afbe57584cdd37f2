//! Placeholder until the disk tier arrives: nobody else has the directory.

use std::io;
use std::path::Path;
use std::time::SystemTime;

/// The directory is held.
#[derive(Debug)]
pub struct Lock;

/// Why it is not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotTaken {
    /// By another.
    #[error("held by {pid:?} since {since:?}")]
    Held {
        /// Who.
        pid: Option<u32>,
        /// Since when.
        since: Option<String>,
    },
    /// It cannot be.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Lock {
    /// Takes it.
    pub fn try_take(_dir: &Path, _now: SystemTime) -> Result<Self, NotTaken> {
        Err(NotTaken::Io(io::ErrorKind::Unsupported.into()))
    }

    /// Waits for it.
    pub fn wait(_dir: &Path, _now: impl Fn() -> SystemTime) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
