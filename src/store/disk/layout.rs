//! Where the disk tier's files lie: `cache/v5/db` (the database), `cache/v5/body` (large bodies), and
//! beside `cache` at most one `quarantine-TIME` with what could not be read.
//!
//! Owns: making, setting aside and removing whole directories. Nothing outside `cache` is touched but
//! quarantines. Never touches: what is in the files.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

/// The version of everything below: keys, values, body files.
///
/// v1: bodies over HTTP/2 might be stored cut. v2: secrets of paths, of many query parameters and of
/// response fields in clear. v3: secrets of 16 to 23 letters and digits in paths, and those within JSON in a query.
const VERSION: &str = "v5";
/// What is put aside to be removed is named so until it is gone.
const DOOMED: &str = "doomed-";
const QUARANTINE: &str = "quarantine-";

/// The directories.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    cache: PathBuf,
}

impl Layout {
    pub(super) fn new(cache: PathBuf) -> Self {
        Self { cache }
    }

    /// The database's directory.
    pub(super) fn database(&self) -> PathBuf {
        self.current().join("db")
    }

    /// The directory of bodies.
    pub(super) fn bodies(&self) -> PathBuf {
        self.current().join("body")
    }

    fn current(&self) -> PathBuf {
        self.cache.join(VERSION)
    }

    /// Makes what is missing and removes other versions and what was doomed earlier.
    pub(super) fn prepare(&self) -> io::Result<()> {
        for dir in [self.database(), self.bodies()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        self.remove_old()
    }

    /// Whether another version, or what was doomed earlier, is there. `Err`: nobody can say.
    pub(super) fn has_old(&self) -> io::Result<bool> {
        Ok(!self.old()?.is_empty())
    }

    /// Removes other versions and what was doomed earlier.
    pub(super) fn remove_old(&self) -> io::Result<()> {
        for dir in self.old()? {
            let name = dir.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if name.starts_with(DOOMED) {
                remove_later(dir);
                continue;
            }
            tracing::info!(version = name, "Removing what another version of larder cached");
            self.doom(&dir)?;
            // They may be of that version, and hold secrets in the clear.
            self.remove_quarantines()?;
        }
        Ok(())
    }

    fn old(&self) -> io::Result<Vec<PathBuf>> {
        let dirs = match fs::read_dir(&self.cache) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            dirs => dirs?,
        };
        let mut old = Vec::new();
        for dir in dirs {
            let dir = dir?;
            let name = dir.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(DOOMED) || (name != VERSION && is_version(name)) {
                old.push(dir.path());
            }
        }
        Ok(old)
    }

    /// Puts everything aside beside `cache`, in place of what was put aside before.
    pub(super) fn quarantine(&self, now: SystemTime) -> io::Result<()> {
        if !self.current().try_exists()? {
            return Ok(());
        }
        self.remove_quarantines()?;
        let name = format!("{QUARANTINE}{}", humantime::format_rfc3339_seconds(now));
        let place = self.beside().join(name);
        tracing::warn!(place = %place.display(), "Putting the cache on disk aside");
        fs::rename(self.current(), &place)?;
        // Whoever takes a look learns from the database; the bodies would only take room.
        remove_later(place.join("body"));
        Ok(())
    }

    /// Removes everything, and what was put aside.
    pub(super) fn wipe(&self) -> io::Result<()> {
        self.remove_quarantines()?;
        remove(&self.current())
    }

    /// Puts everything out of the way at once; it is removed in the background.
    pub(super) fn discard(&self) -> io::Result<()> {
        if self.current().try_exists()? { self.doom(&self.current()) } else { Ok(()) }
    }

    /// Lets nobody but the owner read the database's files, whoever made them.
    pub(super) fn close_to_others(&self) -> io::Result<()> {
        for file in fs::read_dir(self.database())? {
            let file = file?;
            let mode = if file.file_type()?.is_dir() { 0o700 } else { 0o600 };
            match fs::set_permissions(file.path(), Permissions::from_mode(mode)) {
                // The database removes files of its own in the background.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Removes what was put aside.
    pub(super) fn remove_quarantines(&self) -> io::Result<()> {
        for dir in fs::read_dir(self.beside())? {
            let dir = dir?;
            if dir.file_name().to_str().is_some_and(|name| name.starts_with(QUARANTINE)) {
                remove(&dir.path())?;
            }
        }
        Ok(())
    }

    fn doom(&self, dir: &Path) -> io::Result<()> {
        let doomed = self.cache.join(format!("{DOOMED}{:016x}", rand::random::<u64>()));
        fs::rename(dir, &doomed)?;
        remove_later(doomed);
        Ok(())
    }

    fn beside(&self) -> &Path {
        self.cache.parent().unwrap_or(&self.cache)
    }
}

/// Removes what other versions of larder cached below `dir`, where no disk tier is opened that would do it:
/// it may hold secrets in the clear. `hold` takes hold of the directory, and is not asked where there is
/// nothing to remove.
pub(in crate::store) fn remove_old<H, E>(
    dir: &Path,
    hold: impl FnOnce() -> Result<H, E>,
) -> Result<(), String>
where
    E: fmt::Display,
{
    let layout = Layout::new(dir.to_owned());
    match layout.has_old() {
        Ok(false) => return Ok(()),
        // A file, or what this user may not look into, is none of larder's caches.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
        Ok(true) => {}
        Err(error) => return Err(error.to_string()),
    }
    let _held = hold().map_err(|error| error.to_string())?;
    layout.remove_old().map_err(|error| error.to_string())
}

fn is_version(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|digits| digits.parse::<u32>().is_ok())
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// On a thread of its own: there may be a hundred thousand files.
fn remove_later(dir: PathBuf) {
    let removing = move || {
        if let Err(error) = remove(&dir) {
            tracing::warn!(place = %dir.display(), %error, "Cannot remove a directory");
        }
    };
    // Where no thread is to be had it stays, and goes at the next start.
    let _removing = thread::Builder::new().name("larder-wipe".to_owned()).spawn(removing);
}
