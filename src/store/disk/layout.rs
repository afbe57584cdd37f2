//! Paths of the disk tier: `cache/v5/db` (the database), `cache/v5/body` (large bodies), and beside `cache`
//! at most one `quarantine-TIME` with an unreadable cache.
//!
//! Owns: creating, setting aside and removing whole directories. Outside `cache` only quarantines are
//! touched. Never touches: the content of files.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use crate::store::private_file::existing;

/// The version of everything below: keys, values, body files.
///
/// v1: bodies over HTTP/2 might be stored truncated. v2: secrets of paths, of many query parameters and of
/// response fields in clear. v3: secrets of 16 to 23 letters and digits in paths, and those within JSON in a
/// query.
const VERSION: &str = "v5";
/// Prefix of a directory that is being removed in the background.
const REMOVAL_PREFIX: &str = "doomed-";
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

    /// Creates missing directories and removes other versions and directories left from earlier removals.
    pub(super) fn prepare(&self) -> io::Result<()> {
        for dir in [self.database(), self.bodies()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        self.remove_old()
    }

    /// Whether a directory of another version, or one left from an earlier removal, is there. `Err`: it
    /// cannot be determined.
    pub(super) fn has_old(&self) -> io::Result<bool> {
        Ok(!self.old()?.is_empty())
    }

    /// Removes other versions and directories left from earlier removals.
    pub(super) fn remove_old(&self) -> io::Result<()> {
        for dir in self.old()? {
            let name = dir.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if name.starts_with(REMOVAL_PREFIX) {
                remove_later(dir);
                continue;
            }
            tracing::info!(version = name, "Removing the cache of another version of larder");
            self.move_and_remove(&dir)?;
            // Quarantines may be of that version, and hold secrets in the clear.
            self.remove_quarantines()?;
        }
        Ok(())
    }

    fn old(&self) -> io::Result<Vec<PathBuf>> {
        let Some(dirs) = existing(fs::read_dir(&self.cache))? else { return Ok(Vec::new()) };
        let mut old = Vec::new();
        for dir in dirs {
            let dir = dir?;
            let name = dir.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(REMOVAL_PREFIX) || (name != VERSION && is_version(name)) {
                old.push(dir.path());
            }
        }
        Ok(old)
    }

    /// Moves everything to a quarantine beside `cache`, in place of an earlier one.
    pub(super) fn quarantine(&self, now: SystemTime) -> io::Result<()> {
        if !self.current().try_exists()? {
            return Ok(());
        }
        self.remove_quarantines()?;
        let name = format!("{QUARANTINE}{}", humantime::format_rfc3339_seconds(now));
        let path = self.parent_dir().join(name);
        tracing::warn!(place = %path.display(), "Moving the cache on disk to a quarantine");
        fs::rename(self.current(), &path)?;
        // The database is enough for an inspection; the bodies would only take space.
        remove_later(path.join("body"));
        Ok(())
    }

    /// Removes everything, quarantines included.
    pub(super) fn wipe(&self) -> io::Result<()> {
        self.remove_quarantines()?;
        remove(&self.current())
    }

    /// Moves everything out of the way at once; it is removed in the background.
    pub(super) fn discard(&self) -> io::Result<()> {
        if self.current().try_exists()? { self.move_and_remove(&self.current()) } else { Ok(()) }
    }

    /// Makes the database's files accessible to their owner only, whichever process created them.
    pub(super) fn restrict_permissions(&self) -> io::Result<()> {
        for file in fs::read_dir(self.database())? {
            let file = file?;
            let mode = if file.file_type()?.is_dir() { 0o700 } else { 0o600 };
            // The database removes files of its own in the background.
            existing(fs::set_permissions(file.path(), Permissions::from_mode(mode)))?;
        }
        Ok(())
    }

    /// Removes the quarantines.
    pub(super) fn remove_quarantines(&self) -> io::Result<()> {
        for dir in fs::read_dir(self.parent_dir())? {
            let dir = dir?;
            if dir.file_name().to_str().is_some_and(|name| name.starts_with(QUARANTINE)) {
                remove(&dir.path())?;
            }
        }
        Ok(())
    }

    fn move_and_remove(&self, dir: &Path) -> io::Result<()> {
        let removed = self.cache.join(format!("{REMOVAL_PREFIX}{:016x}", rand::random::<u64>()));
        fs::rename(dir, &removed)?;
        remove_later(removed);
        Ok(())
    }

    fn parent_dir(&self) -> &Path {
        self.cache.parent().unwrap_or(&self.cache)
    }
}

/// Removes caches of other versions of larder below `dir`, where no disk tier is opened that would do it:
/// they may hold secrets in the clear. `lock` locks the directory; it is not called where there is nothing to
/// remove.
pub(in crate::store) fn remove_old<L, E>(
    dir: &Path,
    lock: impl FnOnce() -> Result<L, E>,
) -> Result<(), String>
where
    E: fmt::Display,
{
    let layout = Layout::new(dir.to_owned());
    match layout.has_old() {
        Ok(false) => return Ok(()),
        // A file, or a directory without read permission, is no cache of larder.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
        Ok(true) => {}
        Err(error) => return Err(error.to_string()),
    }
    let _lock = lock().map_err(|error| error.to_string())?;
    layout.remove_old().map_err(|error| error.to_string())
}

fn is_version(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|digits| digits.parse::<u32>().is_ok())
}

fn remove(dir: &Path) -> io::Result<()> {
    existing(fs::remove_dir_all(dir)).map(drop)
}

/// Removes on a separate thread: there may be a hundred thousand files.
fn remove_later(dir: PathBuf) {
    let removing = move || {
        if let Err(error) = remove(&dir) {
            tracing::warn!(place = %dir.display(), %error, "Cannot remove a directory");
        }
    };
    // If no thread can be started the directory stays, and is removed at the next start.
    let _removing = thread::Builder::new().name("larder-wipe".to_owned()).spawn(removing);
}
