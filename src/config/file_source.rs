//! Access to the configuration file and the files that it names; no other module reads them.
//!
//! Owns: reading a file up to a size limit, and checking its permissions.
//! Never touches: the content of a file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The source of files: the disk, or fixed contents in a test.
pub trait FileSource {
    /// Reads the file at `path`; a file of more than `longest` bytes is an error.
    fn read(&self, path: &Path, longest: usize) -> io::Result<Contents>;
}

/// The contents of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether all users of the machine can read or write the file.
    pub open_to_all: bool,
}

/// Prints only the length.
impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Contents({} bytes)", self.bytes.len())
    }
}

/// The files on disk.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl FileSource for Disk {
    fn read(&self, path: &Path, longest: usize) -> io::Result<Contents> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut bytes = Vec::new();
        // One extra byte distinguishes a file that is too long from one of exactly the limit.
        let bound = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
        file.take(bound).read_to_end(&mut bytes)?;
        if bytes.len() > longest {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Contents { bytes, open_to_all: metadata.permissions().mode() & 0o006 != 0 })
    }
}

/// No files: for configurations that name none.
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
    fn a_file_that_all_users_can_read_or_write_is_marked() {
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
    fn a_file_longer_than_the_limit_is_refused_not_truncated() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'x'; 10]).unwrap();
        assert!(Disk.read(file.path(), 10).is_ok());
        let error = Disk.read(file.path(), 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_directory_or_a_missing_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Disk.read(directory.path(), 10).is_err());
        assert!(Disk.read(&directory.path().join("none"), 10).is_err());
        assert!(NoFiles.read(directory.path(), 10).is_err());
    }
}
