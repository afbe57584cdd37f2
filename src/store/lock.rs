//! The lock of a store's directory: only one larder at a time writes there.
//!
//! Owns: `LOCK`, and the description of its holder in it. Never touches: other files in the directory.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::process::umask;

/// Exclusive use of a directory for as long as the value lives. The system releases the lock when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Reason why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds the lock.
    #[error("{} is in use{}{}", dir.display(), by(*pid), start(since.as_deref()))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The holder's process id, if the file contains it.
        pid: Option<u32>,
        /// When the holder took the lock (RFC 3339), if the file contains it.
        since: Option<String>,
    },
    /// The directory or the file cannot be used.
    #[error("cannot lock {}: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// Makes every file that this process creates from now on private to its user.
pub fn keep_files_private() {
    umask(Mode::from_raw_mode(0o077));
}

impl Lock {
    /// Locks the directory, which is created if it is missing, unless another process has locked it.
    pub fn try_take(dir: &Path, now: SystemTime) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { dir: dir.to_owned(), source };
        let mut file = open(dir).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Self::write_holder(file, now).map_err(failed),
            Err(Errno::WOULDBLOCK) => {
                let (pid, since) = holder(&mut file);
                Err(LockError::InUse { dir: dir.to_owned(), pid, since })
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Locks the directory as soon as no other process holds the lock. Blocks until then.
    pub fn wait(dir: &Path, now: impl Fn() -> SystemTime) -> io::Result<Self> {
        let file = open(dir)?;
        while let Err(error) = flock(&file, FlockOperation::LockExclusive) {
            // A signal handler ran: that does not affect the lock.
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        Self::write_holder(file, now())
    }

    fn write_holder(mut file: File, now: SystemTime) -> io::Result<Self> {
        let since = humantime::format_rfc3339_seconds(now);
        file.set_len(0)?;
        writeln!(file, "pid {}\nsince {since}", std::process::id())?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The lock is released with the file; the text left behind would only mislead.
        let _truncated = self.file.set_len(0);
    }
}

fn open(dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join("LOCK"))
}

/// Reads the holder's text; it may be empty while the holder writes it.
fn holder(file: &mut File) -> (Option<u32>, Option<String>) {
    let mut text = String::new();
    if file.take(MAX_LENGTH).read_to_string(&mut text).is_err() {
        return (None, None);
    }
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let pid = field("pid ").and_then(|pid| pid.parse().ok());
    // Only a text that looks like a time: it goes to a log.
    let since = field("since ").filter(|since| humantime::parse_rfc3339(since).is_ok());
    (pid, since.map(str::to_owned))
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

fn start(since: Option<&str>) -> String {
    since.map_or_else(String::new, |since| format!(" since {since}"))
}

const MAX_LENGTH: u64 = 256;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const NOON: Duration = Duration::from_secs(12 * 60 * 60);

    fn start_time() -> SystemTime {
        SystemTime::UNIX_EPOCH + NOON
    }

    #[test]
    fn the_lock_is_exclusive_and_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::try_take(dir.path(), start_time()).unwrap();
        let refused = Lock::try_take(dir.path(), start_time()).unwrap_err();
        let message = refused.to_string();
        let LockError::InUse { pid, since, .. } = refused else { panic!("{refused}") };
        assert_eq!(pid, Some(std::process::id()));
        assert_eq!(since.as_deref(), Some("1970-01-01T12:00:00Z"));
        assert!(message.contains(&dir.path().display().to_string()), "{message}");
        assert!(message.contains(&format!("by process {}", std::process::id())), "{message}");
        assert!(message.contains("since 1970-01-01T12:00:00Z"), "{message}");
        drop(lock);
        Lock::try_take(dir.path(), start_time()).unwrap();
    }

    #[test]
    fn a_waiter_gets_the_lock_when_its_holder_releases_it() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::try_take(dir.path(), start_time()).unwrap();
        let (locked, notified) = mpsc::channel();
        let path = dir.path().to_owned();
        let waiting = thread::spawn(move || {
            let lock = Lock::wait(&path, start_time).unwrap();
            locked.send(()).unwrap();
            drop(lock);
        });
        assert!(notified.try_recv().is_err(), "it is still held");
        drop(lock);
        notified.recv_timeout(Duration::from_secs(20)).unwrap();
        waiting.join().unwrap();
    }

    #[test]
    fn a_damaged_lock_file_causes_no_error_and_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        std::fs::write(&path, b"pid 99999999999\nsince \x1b[31m\xff").unwrap();
        let lock = Lock::try_take(dir.path(), start_time()).unwrap();
        std::fs::write(&path, b"pid -1\nsince \x1b[31mnever").unwrap();
        let refused = Lock::try_take(dir.path(), start_time()).unwrap_err();
        let LockError::InUse { pid: None, since: None, .. } = refused else { panic!("{refused}") };
        drop(lock);
    }

    #[test]
    fn sto_09_directory_and_file_are_private_to_their_owner() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("made/for/it");
        let _lock = Lock::try_take(&dir, start_time()).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("LOCK")), 0o600);
    }

    #[test]
    fn the_error_names_a_directory_that_cannot_be_created() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let refused = Lock::try_take(&file.join("below"), start_time()).unwrap_err();
        assert!(refused.to_string().contains("file/below"), "{refused}");
    }
}
