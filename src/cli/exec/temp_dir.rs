//! A private directory for the time that a command runs.
//!
//! Owns: its permissions, and its removal: the directory of a killed larder is removed by the next one.
//! Never touches: the files in it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::{Pid, geteuid, test_kill_process};

use crate::config::env::Env;
use crate::store::lock::Lock;

/// A directory that is removed when the value is dropped.
pub(super) struct TempDir {
    path: PathBuf,
    /// Shows other larders that the owner of the directory still runs.
    _lock: Lock,
}

/// The names are `larder-exec-PID-RANDOM`.
const PREFIX: &str = "larder-exec-";

impl TempDir {
    /// Creates a directory in the first place that can be written and has room.
    pub(super) fn new(env: &Env, now: SystemTime) -> io::Result<Self> {
        let mut first = None;
        for base in bases(env) {
            match Self::within(&base, now) {
                Ok(created) => return Ok(created),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        Err(first.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn within(base: &Path, now: SystemTime) -> io::Result<Self> {
        let volume = rustix::fs::statvfs(base)?;
        if volume.f_bavail.saturating_mul(volume.f_frsize) < MIN_FREE {
            let message = format!("{}: the volume is full", base.display());
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        sweep(base, now);
        let name = format!("{PREFIX}{}-{:016x}", std::process::id(), rand::random::<u64>());
        let path = base.join(name);
        // Not recursive: an existing directory belongs to another process, so creation must fail.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {}", path.display(), error.kind())))?;
        let lock = Lock::try_take(&path, now).map_err(io::Error::other)?;
        Ok(Self { path, _lock: lock })
    }

    /// The path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, directory = %self.path.display(), "Temporary directory not removed");
        }
    }
}

/// The session's runtime directory, which is in memory and ends with the session, else the system's temporary
/// directory, else its memory.
fn bases(env: &Env) -> Vec<PathBuf> {
    let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let named = [absolute("XDG_RUNTIME_DIR"), absolute("TMPDIR")].into_iter().flatten();
    let usual = ["/tmp", "/dev/shm"].map(PathBuf::from);
    named.chain(usual).filter(|path| path.is_dir()).collect()
}

/// The bytes that must be free: each runtime gets a bundle of all certificates.
const MIN_FREE: u64 = 8 << 20;

/// Removes the directories of killed larders; one that cannot be removed stays.
fn sweep(base: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(pid_of) else { continue };
        let path = entry.path();
        let Ok(facts) = fs::symlink_metadata(&path) else { continue };
        let ours = facts.is_dir() && facts.uid() == geteuid().as_raw();
        if !ours || is_running(pid) {
            continue;
        }
        // The owner may run in another PID namespace, so its lock decides.
        if let Ok(_abandoned) = Lock::try_take(&path, now)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::debug!(%error, "Temporary directory of a killed larder not removed");
        }
    }
}

fn pid_of(name: &str) -> Option<Pid> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Pid::from_raw(pid.parse().ok()?)
}

fn is_running(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn env(base: &Path) -> Env {
        [("XDG_RUNTIME_DIR", base.to_str().unwrap())].into_iter().collect()
    }

    fn entry_count(base: &Path) -> usize {
        fs::read_dir(base).unwrap().count()
    }

    #[test]
    fn it_is_private_to_its_owner_and_removed_on_drop() {
        let base = tempfile::tempdir().unwrap();
        let temp_dir = TempDir::new(&env(base.path()), SystemTime::UNIX_EPOCH).unwrap();
        fs::write(temp_dir.path().join("file"), "text").unwrap();
        let mode = fs::metadata(temp_dir.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(temp_dir);
        assert_eq!(entry_count(base.path()), 0);
    }

    #[test]
    fn only_the_directory_of_a_killed_larder_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let ended = std::process::Command::new("true").spawn().unwrap();
        let pid = ended.id();
        assert!({ ended }.wait().unwrap().success());
        let abandoned = base.path().join(format!("{PREFIX}{pid}-00"));
        fs::create_dir(&abandoned).unwrap();
        fs::write(abandoned.join("bundle.pem"), "text").unwrap();
        let locked = base.path().join(format!("{PREFIX}{pid}-01"));
        let _lock = Lock::try_take(&locked, SystemTime::UNIX_EPOCH).unwrap();
        fs::create_dir(base.path().join("larder-exec-other")).unwrap();
        let running = TempDir::new(&env(base.path()), SystemTime::UNIX_EPOCH).unwrap();
        let next = TempDir::new(&env(base.path()), SystemTime::UNIX_EPOCH).unwrap();
        assert!(!abandoned.exists());
        assert!(locked.exists() && running.path().exists() && next.path().exists());
        assert_eq!(entry_count(base.path()), 4);
    }

    #[test]
    fn without_a_session_it_is_in_the_temporary_directory() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().to_str().unwrap();
        let first = |env: &[(&str, &str)]| bases(&env.iter().copied().collect()).first().cloned();
        assert_eq!(first(&[("TMPDIR", path)]).as_deref(), Some(base.path()));
        let odd = [("XDG_RUNTIME_DIR", "relative"), ("TMPDIR", "/no/such/directory")];
        assert_eq!(first(&odd).as_deref(), Some(Path::new("/tmp")));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_passed_over() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().to_str().unwrap();
        // No user can create a directory there.
        let env = [("XDG_RUNTIME_DIR", "/proc/self"), ("TMPDIR", path)].into_iter().collect();
        let temp_dir = TempDir::new(&env, SystemTime::UNIX_EPOCH).unwrap();
        assert!(temp_dir.path().starts_with(path));
    }
}
