//! The files of a certificate authority.
//!
//! Owns: a key is read only if no other user can read it; both files form one pair; two larders that
//! start at once get the same pair. Never touches: the content of certificates and keys.
//!
//! The key file is opened without following a link, and the checks apply to the opened file. It must
//! belong to the user that larder runs as: any other owner can read it, whatever its mode. This also
//! excludes root's files, which larder as another user could read only if others may.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::config::CaFiles;
use crate::frontend::ca::CaError;
use crate::store::private_file;

/// No certificate chain and no key is longer.
const MAX_LENGTH: u64 = 256 << 10;

/// The contents of both files.
pub(super) struct CertKeyPair {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// Reads both files; `None`: neither exists.
pub(super) fn read(files: &CaFiles) -> Result<Option<CertKeyPair>, CaError> {
    let (cert, key) = (read_cert(&files.cert)?, read_key(&files.key)?);
    let half =
        |there: &Path, missing: &Path| CaError::Half { there: there.to_owned(), missing: missing.to_owned() };
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(CertKeyPair { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(half(&files.cert, &files.key)),
        (None, Some(_)) => Err(half(&files.key, &files.cert)),
    }
}

/// Reads the pair, or creates it with `make`. One process creates at a time.
pub(super) fn read_or_create(
    files: &CaFiles,
    make: impl FnOnce() -> Result<CertKeyPair, CaError>,
) -> Result<CertKeyPair, CaError> {
    // Without the lock, half a pair could be read while the other half is being written. If the lock is
    // unavailable, no pair can be created, but an existing pair can be read.
    let lock = lock(files);
    if let Some(pair) = read(files)? {
        return Ok(pair);
    }
    let _lock = lock?;
    let pair = make()?;
    write(files, &pair)?;
    Ok(pair)
}

/// Replaces the pair. The old files are kept under names that end in `suffix`.
pub(super) fn replace(files: &CaFiles, pair: &CertKeyPair, suffix: &str) -> Result<(), CaError> {
    let _lock = lock(files)?;
    for path in [&files.cert, &files.key] {
        let kept = backup_path(path, suffix);
        let linked = fs::hard_link(path, &kept);
        linked.or_else(unless(io::ErrorKind::NotFound)).map_err(|source| unwritten(&kept, source))?;
    }
    make_private(&backup_path(&files.key, suffix)).map_err(|source| unwritten(&files.key, source))?;
    write(files, pair)
}

/// The path under which a replaced file is kept.
pub(super) fn backup_path(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

fn write(files: &CaFiles, pair: &CertKeyPair) -> Result<(), CaError> {
    // The key is written first: a certificate without a key would be given to clients.
    for (path, bytes) in [(&files.key, &pair.key), (&files.cert, &pair.cert)] {
        let written = private_file::write_temp(path, bytes)
            .and_then(|new| fs::rename(new, path))
            .and_then(|()| private_file::sync_dir(&directory_of(path)));
        written.map_err(|source| unwritten(path, source))?;
    }
    Ok(())
}

/// Locks the pair for creation or replacement, until the value is dropped.
fn lock(files: &CaFiles) -> Result<File, CaError> {
    for path in [&files.cert, &files.key] {
        let directory = directory_of(path);
        private_file::create_dir(&directory).map_err(|source| unwritten(&directory, source))?;
    }
    let directory = directory_of(&files.key);
    let file = File::open(&directory).map_err(|source| unwritten(&directory, source))?;
    while let Err(error) = flock(&file, FlockOperation::LockExclusive) {
        // A signal handler ran: this does not concern the lock.
        if error != Errno::INTR {
            return Err(unwritten(&directory, error.into()));
        }
    }
    Ok(file)
}

/// Reads the certificate file; `None`: it does not exist.
pub(super) fn read_cert(path: &Path) -> Result<Option<Vec<u8>>, CaError> {
    match File::open(path) {
        Ok(file) => contents(file, path).map(Some),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(io_error(path, error)),
    }
}

fn read_key(path: &Path) -> Result<Option<Vec<u8>>, CaError> {
    // The open of a pipe must not block: it is not a file, which is detected below.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP) => return Err(CaError::Link(path.to_owned())),
        Err(error) => return Err(io_error(path, error.into())),
    };
    let metadata = file.metadata().map_err(|source| io_error(path, source))?;
    if !metadata.is_file() {
        return Err(CaError::Key(path.to_owned()));
    }
    if metadata.uid() != geteuid().as_raw() {
        return Err(CaError::Foreign(path.to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(CaError::Open(path.to_owned()));
    }
    contents(file, path).map(Some)
}

fn contents(file: File, path: &Path) -> Result<Vec<u8>, CaError> {
    let mut bytes = Vec::new();
    let read = file.take(MAX_LENGTH).read_to_end(&mut bytes);
    read.map_err(|source| io_error(path, source)).map(|_| bytes)
}

/// Removes the permissions of other users from a replaced key: they may be the reason for the replacement.
fn make_private(key: &Path) -> io::Result<()> {
    match key.symlink_metadata() {
        Ok(metadata) if metadata.is_file() => fs::set_permissions(key, Permissions::from_mode(0o600)),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn directory_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

fn unless(kind: io::ErrorKind) -> impl FnOnce(io::Error) -> io::Result<()> {
    move |error| if error.kind() == kind { Ok(()) } else { Err(error) }
}

fn is_missing(error: &io::Error) -> bool {
    [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind())
}

fn unwritten(path: &Path, source: io::Error) -> CaError {
    CaError::Unwritten { path: path.to_owned(), source }
}

fn io_error(path: &Path, source: io::Error) -> CaError {
    CaError::Io { path: path.to_owned(), source }
}
