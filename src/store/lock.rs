//! The lock of a store's directory: one larder at a time writes there.
//!
//! Owns: `LOCK`, and what it says about its holder. Never touches: what else lies in the directory.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::process::umask;

/// A directory that is this process's alone for as long as the value lives. The system lets go of it
/// when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why a directory is not this process's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use{}{}", dir.display(), by(*pid), start(since.as_deref()))]
    Held {
        /// Which directory.
        dir: PathBuf,
        /// The holder's process id, where it says so.
        pid: Option<u32>,
        /// When the holder took it (RFC 3339), where it says so.
        since: Option<String>,
    },
    /// The directory or the file cannot be used.
    #[error("cannot lock {}: {source}", dir.display())]
    Io {
        /// Which directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes every file that this process creates from now on its user's alone.
pub fn keep_files_private() {
    umask(Mode::from_raw_mode(0o077));
}

impl Lock {
    /// Takes the directory, which is made if it is missing, unless another process has it.
    pub fn try_take(dir: &Path, now: SystemTime) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { dir: dir.to_owned(), source };
        let mut file = open(dir).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Self::sign(file, now).map_err(failed),
            Err(Errno::WOULDBLOCK) => {
                let (pid, since) = holder(&mut file);
                Err(LockError::Held { dir: dir.to_owned(), pid, since })
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Takes the directory as soon as no other process has it. Blocks until then.
    pub fn wait(dir: &Path, now: impl Fn() -> SystemTime) -> io::Result<Self> {
        let file = open(dir)?;
        while let Err(error) = flock(&file, FlockOperation::LockExclusive) {
            // A signal handler ran: that says nothing about the lock.
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        Self::sign(file, now())
    }

    fn sign(mut file: File, now: SystemTime) -> io::Result<Self> {
        let since = humantime::format_rfc3339_seconds(now);
        file.set_len(0)?;
        writeln!(file, "pid {}\nsince {since}", std::process::id())?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The lock goes with the file; a name left behind would only mislead.
        let _left = self.file.set_len(0);
    }
}

fn open(dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join("LOCK"))
}

/// What the holder wrote; nothing where it is just writing it.
fn holder(file: &mut File) -> (Option<u32>, Option<String>) {
    let mut text = String::new();
    if file.take(LONGEST).read_to_string(&mut text).is_err() {
        return (None, None);
    }
    let said = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let pid = said("pid ").and_then(|pid| pid.parse().ok());
    // Only what looks like a time: the text goes to a log.
    let since = said("since ").filter(|since| humantime::parse_rfc3339(since).is_ok());
    (pid, since.map(str::to_owned))
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

fn start(since: Option<&str>) -> String {
    since.map_or_else(String::new, |since| format!(" since {since}"))
}

const LONGEST: u64 = 256;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const NOON: Duration = Duration::from_secs(12 * 60 * 60);

    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + NOON
    }

    #[test]
    fn the_lock_is_exclusive_and_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::try_take(dir.path(), noon()).unwrap();
        let refused = Lock::try_take(dir.path(), noon()).unwrap_err();
        let said = refused.to_string();
        let LockError::Held { pid, since, .. } = refused else { panic!("{refused}") };
        assert_eq!(pid, Some(std::process::id()));
        assert_eq!(since.as_deref(), Some("1970-01-01T12:00:00Z"));
        assert!(said.contains(&dir.path().display().to_string()), "{said}");
        assert!(said.contains(&format!("by process {}", std::process::id())), "{said}");
        assert!(said.contains("since 1970-01-01T12:00:00Z"), "{said}");
        drop(lock);
        Lock::try_take(dir.path(), noon()).unwrap();
    }

    #[test]
    fn who_waits_gets_it_when_the_holder_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::try_take(dir.path(), noon()).unwrap();
        let (got, gets) = mpsc::channel();
        let path = dir.path().to_owned();
        let waiting = thread::spawn(move || {
            let lock = Lock::wait(&path, noon).unwrap();
            got.send(()).unwrap();
            drop(lock);
        });
        assert!(gets.try_recv().is_err(), "it is still held");
        drop(lock);
        gets.recv_timeout(Duration::from_secs(20)).unwrap();
        waiting.join().unwrap();
    }

    #[test]
    fn what_a_lock_file_says_is_no_reason_to_fail_or_to_be_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        std::fs::write(&path, b"pid 99999999999\nsince \x1b[31m\xff").unwrap();
        let lock = Lock::try_take(dir.path(), noon()).unwrap();
        std::fs::write(&path, b"pid -1\nsince \x1b[31mnever").unwrap();
        let refused = Lock::try_take(dir.path(), noon()).unwrap_err();
        let LockError::Held { pid: None, since: None, .. } = refused else { panic!("{refused}") };
        drop(lock);
    }

    #[test]
    fn sto_09_directory_and_file_are_their_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("made/for/it");
        let _lock = Lock::try_take(&dir, noon()).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("LOCK")), 0o600);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let refused = Lock::try_take(&file.join("below"), noon()).unwrap_err();
        assert!(refused.to_string().contains("file/below"), "{refused}");
    }
}
