//! The files of a certificate authority.
//!
//! Owns: that a key is read only where nobody else could read it, that both files are of one pair,
//! and that two larders that start at once end up with the same.
//! Never touches: what certificates and keys say.
//!
//! The key's file is opened without following a link and judged by what was opened. It must belong
//! to the user that larder runs as: whoever else owns it can read it, whatever its mode. That
//! leaves out root's files too, which larder as another user could read only if others may.

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
const LONGEST: u64 = 256 << 10;

/// The texts of both files.
pub(super) struct CertKeyPair {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// Both files; `None`: neither is there.
pub(super) fn read(files: &CaFiles) -> Result<Option<CertKeyPair>, CaError> {
    let (cert, key) = (read_cert(&files.cert)?, read_key(&files.key)?);
    let half = |there: &Path, missing: &Path| CaError::Half {
        there: there.to_owned(),
        missing: missing.to_owned(),
    };
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(CertKeyPair { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(half(&files.cert, &files.key)),
        (None, Some(_)) => Err(half(&files.key, &files.cert)),
    }
}

/// What is there, or what `make` makes, which is then there. One process makes at a time.
pub(super) fn read_or_make(
    files: &CaFiles,
    make: impl FnOnce() -> Result<CertKeyPair, CaError>,
) -> Result<CertKeyPair, CaError> {
    // Without it half a pair could be read while the other half is being made. Where it cannot be
    // had, nothing can be made either, but what is there can be read.
    let turn = turn(files);
    if let Some(pair) = read(files)? {
        return Ok(pair);
    }
    let _turn = turn?;
    let pair = make()?;
    write(files, &pair)?;
    Ok(pair)
}

/// Puts another pair in the place of the one that is there, which is kept under names that end in
/// `mark`.
pub(super) fn replace(files: &CaFiles, pair: &CertKeyPair, mark: &str) -> Result<(), CaError> {
    let _turn = turn(files)?;
    for path in [&files.cert, &files.key] {
        let kept = kept_as(path, mark);
        let linked = fs::hard_link(path, &kept);
        linked
            .or_else(unless(io::ErrorKind::NotFound))
            .map_err(|source| unwritten(&kept, source))?;
    }
    shut(&kept_as(&files.key, mark)).map_err(|source| unwritten(&files.key, source))?;
    write(files, pair)
}

/// Where a file is kept that was replaced.
pub(super) fn kept_as(path: &Path, mark: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{mark}"));
    path.with_file_name(name)
}

fn write(files: &CaFiles, pair: &CertKeyPair) -> Result<(), CaError> {
    // The key first: a certificate alone would be handed out.
    for (path, bytes) in [(&files.key, &pair.key), (&files.cert, &pair.cert)] {
        let written = private_file::beside(path, bytes)
            .and_then(|new| fs::rename(new, path))
            .and_then(|()| private_file::settle(&directory_of(path)));
        written.map_err(|source| unwritten(path, source))?;
    }
    Ok(())
}

/// This process's turn to make or replace the pair, until the value is dropped.
fn turn(files: &CaFiles) -> Result<File, CaError> {
    for path in [&files.cert, &files.key] {
        let directory = directory_of(path);
        private_file::directory(&directory).map_err(|source| unwritten(&directory, source))?;
    }
    let directory = directory_of(&files.key);
    let file = File::open(&directory).map_err(|source| unwritten(&directory, source))?;
    while let Err(error) = flock(&file, FlockOperation::LockExclusive) {
        // A signal handler ran: that says nothing about the lock.
        if error != Errno::INTR {
            return Err(unwritten(&directory, error.into()));
        }
    }
    Ok(file)
}

/// The certificate's file; `None`: it is not there.
pub(super) fn read_cert(path: &Path) -> Result<Option<Vec<u8>>, CaError> {
    match File::open(path) {
        Ok(file) => contents(file, path).map(Some),
        Err(error) if is_nowhere(&error) => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

fn read_key(path: &Path) -> Result<Option<Vec<u8>>, CaError> {
    // A pipe would keep larder waiting: it is no file, which is seen below.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP) => return Err(CaError::Link(path.to_owned())),
        Err(error) => return Err(at(path, error.into())),
    };
    let facts = file.metadata().map_err(|source| at(path, source))?;
    if !facts.is_file() {
        return Err(CaError::Key(path.to_owned()));
    }
    if facts.uid() != geteuid().as_raw() {
        return Err(CaError::Foreign(path.to_owned()));
    }
    if facts.mode() & 0o077 != 0 {
        return Err(CaError::Open(path.to_owned()));
    }
    contents(file, path).map(Some)
}

fn contents(file: File, path: &Path) -> Result<Vec<u8>, CaError> {
    let mut bytes = Vec::new();
    let read = file.take(LONGEST).read_to_end(&mut bytes);
    read.map_err(|source| at(path, source)).map(|_| bytes)
}

/// A key that others could read is replaced for that very reason; the old one need not stay open.
fn shut(key: &Path) -> io::Result<()> {
    match key.symlink_metadata() {
        Ok(facts) if facts.is_file() => fs::set_permissions(key, Permissions::from_mode(0o600)),
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

fn is_nowhere(error: &io::Error) -> bool {
    [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind())
}

fn unwritten(path: &Path, source: io::Error) -> CaError {
    CaError::Unwritten { path: path.to_owned(), source }
}

fn at(path: &Path, source: io::Error) -> CaError {
    CaError::Io { path: path.to_owned(), source }
}
