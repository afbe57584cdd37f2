//! The directory in which the private larders of a user are reached: one directory for each.
//!
//! Owns: its place, the names in it, and the removal of what ended larders left. Never touches: which larder
//! a configuration has (`identity`), the sockets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::cli::exec::{data_dir, owned_dir};
use crate::clock::Clock;
use crate::config::env::Env;
use crate::frontend::socket_owner;
use crate::store::lock::{Lock, LockError};
use crate::store::state_db::Secret;

/// The variable with the directory of the private larder that a command uses.
pub(in crate::cli) const VARIABLE: &str = "LARDER_EXEC";

/// The socket of a larder's admin API, and that of its commands.
pub(in crate::cli) const ADMIN_SOCKET: &str = "admin.sock";
pub(super) const LEASE_SOCKET: &str = "exec.sock";

/// The directory of all private larders of a user.
#[derive(Debug)]
pub(in crate::cli) struct RunDir {
    path: PathBuf,
    /// Hides the secrets from which the names of larders are derived.
    pub(super) secret: Secret,
}

impl RunDir {
    /// Opens the first usable directory, which is created if it is missing.
    pub(super) fn open(env: &Env) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for candidate in candidates(env)? {
            match Self::at(&candidate) {
                Ok(run_dir) => return Ok(run_dir),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Opens the directory if a larder has created it.
    pub(in crate::cli) fn existing(env: &Env) -> Option<Self> {
        let candidates = candidates(env).ok()?;
        candidates.into_iter().filter(|path| path.is_dir()).find_map(|path| Self::at(&path).ok())
    }

    /// Opens the directory at `path`.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let path = owned_dir::create(path)?;
        if path.as_os_str().len() > MAX_PATH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for sockets"));
        }
        let secret = Secret::load_or_create(&path).map_err(io::Error::other)?;
        Ok(Self { path, secret })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one larder.
    pub(in crate::cli) fn of(&self, id: &str) -> PathBuf {
        self.path.join(id)
    }

    /// Makes this process the larder with this name; `None` if another process is. Directories of killed
    /// larders are removed.
    pub(super) fn enter(&self, id: &str) -> Result<Option<Lock>, LockError> {
        let clock = Clock::system();
        let failed = |source| LockError::Io { dir: self.path.clone(), source };
        // All directories are locked and removed under one lock, so no lock is on a removed directory.
        let _all = Lock::wait(&self.path, || clock.now()).map_err(failed)?;
        let lock = match Lock::try_take(&self.of(id), clock.now()) {
            Ok(lock) => lock,
            Err(LockError::InUse { .. }) => return Ok(None),
            Err(error @ LockError::Io { .. }) => return Err(error),
        };
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let is_larder = entry.file_name().len() == ID_LENGTH && entry.path().is_dir();
            if is_larder
                && entry.file_name() != id
                && let Ok(_abandoned) = Lock::try_take(&entry.path(), clock.now())
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::debug!(%error, "Directory of a killed larder not removed");
            }
        }
        Ok(Some(lock))
    }

    /// Removes the directory of the larder that holds `lock`, and releases the lock.
    pub(super) fn leave(&self, id: &str, lock: Lock) {
        let clock = Clock::system();
        let all = Lock::wait(&self.path, || clock.now());
        if let Err(error) = fs::remove_dir_all(self.of(id)) {
            tracing::debug!(%error, "Own directory not removed");
        }
        drop(lock);
        drop(all);
    }
}

/// The places in the order of preference. In a user namespace in which users cannot be distinguished there is
/// none, since the owner of a directory proves nothing.
fn candidates(env: &Env) -> io::Result<Vec<PathBuf>> {
    let user = geteuid().as_raw();
    if socket_owner::is_overflow_id(user) {
        return Err(io::Error::other("users cannot be distinguished here"));
    }
    let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let session = absolute("XDG_RUNTIME_DIR").filter(|path| path.is_dir()).map(|path| path.join("larder"));
    let cache = data_dir::cache_dir(env).ok().map(|path| path.join("run"));
    let named = |directory: PathBuf| directory.join(format!("larder-{user}"));
    let temporary = [absolute("TMPDIR"), Some("/tmp".into())].into_iter().flatten().map(named);
    Ok(session.into_iter().chain(cache).chain(temporary).collect())
}

/// The length of the name of a larder.
pub(super) const ID_LENGTH: usize = 16;

/// `sockaddr_un` allows 104 bytes or more; `/ID/admin.sock` follows.
const MAX_PATH: usize = 100 - ID_LENGTH - "//admin.sock".len();

#[cfg(test)]
mod tests {
    use super::*;

    fn env(base: &Path) -> Env {
        [("XDG_RUNTIME_DIR", base.to_str().unwrap())].into_iter().collect()
    }

    const ONE: &str = "0000000000000001";
    const TWO: &str = "0000000000000002";

    #[test]
    fn one_process_is_the_larder_of_a_name_until_it_leaves() {
        let base = tempfile::tempdir().unwrap();
        let run_dir = RunDir::open(&env(base.path())).unwrap();
        let lock = run_dir.enter(ONE).unwrap().unwrap();
        let other = RunDir::existing(&env(base.path())).unwrap();
        assert!(other.enter(ONE).unwrap().is_none());
        let two = other.enter(TWO).unwrap().unwrap();
        run_dir.leave(ONE, lock);
        assert!(!run_dir.of(ONE).exists() && run_dir.of(TWO).exists());
        drop(other.enter(ONE).unwrap().unwrap());
        drop(two);
    }

    #[test]
    fn directories_of_killed_larders_are_removed_by_the_next() {
        let base = tempfile::tempdir().unwrap();
        let run_dir = RunDir::open(&env(base.path())).unwrap();
        // The system releases the lock of a killed process.
        drop(run_dir.enter(ONE).unwrap().unwrap());
        let _two = run_dir.enter(TWO).unwrap().unwrap();
        assert!(!run_dir.of(ONE).exists() && run_dir.of(TWO).exists());
    }

    #[test]
    fn a_directory_that_another_user_prepared_is_not_used() {
        use std::os::unix::fs::PermissionsExt;

        let (session, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let prepared = session.path().join("larder");
        fs::create_dir(&prepared).unwrap();
        fs::set_permissions(&prepared, fs::Permissions::from_mode(0o777)).unwrap();
        let variables = [
            ("XDG_RUNTIME_DIR", session.path().to_str().unwrap()),
            ("TMPDIR", temporary.path().to_str().unwrap()),
        ];
        let run_dir = RunDir::open(&variables.into_iter().collect()).unwrap();
        assert!(run_dir.path().starts_with(fs::canonicalize(temporary.path()).unwrap()));
    }
}
