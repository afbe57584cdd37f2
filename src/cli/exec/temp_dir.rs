//! A private directory for as long as a command runs.
//!
//! Owns: that nobody else can read it, and that it is gone afterwards, whatever happened: what a
//! killed larder left behind is removed by the next one. Never touches: what is written there.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::{Pid, geteuid, test_kill_process};

use crate::config::env::Env;
use crate::store::lock::Lock;

/// A directory that is removed with the value.
pub(super) struct TempDir {
    path: PathBuf,
    /// Tells the next one that its owner lives.
    _lock: Lock,
}

/// `larder-exec-PID-RANDOM`
const PREFIX: &str = "larder-exec-";

impl TempDir {
    /// A new directory where such things belong.
    pub(super) fn new(env: &Env, now: SystemTime) -> io::Result<Self> {
        let base = base(env);
        sweep(&base, now);
        let name = format!("{PREFIX}{}-{:016x}", std::process::id(), rand::random::<u64>());
        let path = base.join(name);
        // Not recursive: one that is there already is somebody else's.
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {}", path.display(), error.kind()))
        })?;
        let lock = Lock::try_take(&path, now).map_err(io::Error::other)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, directory = %self.path.display(), "Left behind");
        }
    }
}

/// A path in memory that ends with the session, or the system's directory for what is temporary.
fn base(env: &Env) -> PathBuf {
    let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let usable = |path: &PathBuf| path.is_dir();
    let of_session = absolute("XDG_RUNTIME_DIR").filter(usable);
    of_session.or_else(|| absolute("TMPDIR").filter(usable)).unwrap_or_else(|| "/tmp".into())
}

/// Removes what killed ones left behind; what cannot be removed stays.
fn sweep(base: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(pid_of) else { continue };
        let path = entry.path();
        let Ok(facts) = fs::symlink_metadata(&path) else { continue };
        let ours = facts.is_dir() && facts.uid() == geteuid().as_raw();
        if !ours || lives(pid) {
            continue;
        }
        // Another larder's process numbers may be counted elsewhere: its lock is what counts.
        if let Ok(_abandoned) = Lock::try_take(&path, now)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::debug!(%error, "What a killed larder left behind stays");
        }
    }
}

fn pid_of(name: &str) -> Option<Pid> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Pid::from_raw(pid.parse().ok()?)
}

fn lives(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn env(base: &Path) -> Env {
        [("XDG_RUNTIME_DIR", base.to_str().unwrap())].into_iter().collect()
    }

    fn left(base: &Path) -> usize {
        fs::read_dir(base).unwrap().count()
    }

    #[test]
    fn it_is_its_owners_alone_and_gone_afterwards() {
        let base = tempfile::tempdir().unwrap();
        let scratch = TempDir::new(&env(base.path()), SystemTime::UNIX_EPOCH).unwrap();
        fs::write(scratch.path().join("file"), "text").unwrap();
        let mode = fs::metadata(scratch.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(scratch);
        assert_eq!(left(base.path()), 0);
    }

    #[test]
    fn what_a_killed_one_left_is_removed_and_nothing_else() {
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
        let living = TempDir::new(&env(base.path()), SystemTime::UNIX_EPOCH).unwrap();
        let next = TempDir::new(&env(base.path()), SystemTime::UNIX_EPOCH).unwrap();
        assert!(!abandoned.exists());
        assert!(locked.exists() && living.path().exists() && next.path().exists());
        assert_eq!(left(base.path()), 4);
    }

    #[test]
    fn without_a_session_it_is_where_temporary_things_are() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().to_str().unwrap();
        assert_eq!(super::base(&[("TMPDIR", path)].into_iter().collect()), base.path());
        let odd = [("XDG_RUNTIME_DIR", "relative"), ("TMPDIR", "/no/such/directory")];
        assert_eq!(super::base(&odd.into_iter().collect()), Path::new("/tmp"));
    }
}
