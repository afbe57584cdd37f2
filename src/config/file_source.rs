//! The files that a configuration names, and the configuration itself: read here and nowhere else.
//!
//! Owns: reading a bounded file and seeing who else may read it.
//! Never touches: what stands in a file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where files come from: the disk, or what a test says.
pub trait FileSource {
    /// The file at `path`, at most `longest` bytes of it.
    fn read(&self, path: &Path, longest: usize) -> io::Result<Contents>;
}

/// What was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether everybody on the machine may read or change it.
    pub open_to_all: bool,
}

/// Prints no byte of it.
impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Contents({} bytes)", self.bytes.len())
    }
}

/// The real files.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl FileSource for Disk {
    fn read(&self, path: &Path, longest: usize) -> io::Result<Contents> {
        let file = File::open(path)?;
        let facts = file.metadata()?;
        if facts.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut bytes = Vec::new();
        // One byte more than allowed tells a file that is too long from one that just fits.
        let bound = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
        file.take(bound).read_to_end(&mut bytes)?;
        if bytes.len() > longest {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Contents { bytes, open_to_all: facts.permissions().mode() & 0o006 != 0 })
    }
}

/// No file at all: for texts that name none.
#[derive(Debug, Clone, Copy)]
pub struct NoFiles;

impl FileSource for NoFiles {
    fn read(&self, _: &Path, _: usize) -> io::Result<Contents> {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::io::{ErrorKind, Write};
    use std::os::unix::fs::PermissionsExt;

    use crate::config::file_source::{Disk, FileSource, NoFiles};

    #[test]
    fn a_file_says_whether_everybody_may_read_or_change_it() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"ann:s3cret").unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let contents = Disk.read(file.path(), 100).unwrap();
            assert_eq!(contents.open_to_all, open, "{mode:o}");
            assert_eq!(contents.bytes, b"ann:s3cret");
            assert!(!format!("{contents:?}").contains("s3cret"));
        }
    }

    #[test]
    fn a_file_longer_than_its_bound_is_refused_rather_than_cut() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'x'; 10]).unwrap();
        assert!(Disk.read(file.path(), 10).is_ok());
        let error = Disk.read(file.path(), 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_no_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Disk.read(directory.path(), 10).is_err());
        assert!(Disk.read(&directory.path().join("none"), 10).is_err());
        assert!(NoFiles.read(directory.path(), 10).is_err());
    }
}
