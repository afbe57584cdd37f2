//! The bodies that are too large for an entry: one file each, written once under a name that is never reused.
//!
//! Owns: their names and paths. A file is neither renamed nor synced: its entry, written later, records its
//! length and its hash. Never touches: entries.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::store::private_file::existing;

/// The directory of all body files.
#[derive(Debug)]
pub(super) struct Bodies {
    dir: PathBuf,
}

/// A body file's name: the key it belongs to and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BodyFileName {
    pub(super) id: u128,
    pub(super) number: u64,
}

impl BodyFileName {
    /// A new random name. It is not a counter, because a name must never be reused, even after lost data or a
    /// changed clock.
    pub(super) fn new(id: u128) -> Self {
        // Zero means "in the entry".
        Self { id, number: rand::random::<u64>().max(1) }
    }
}

/// Number of directories that the files are spread over.
pub(super) const SHARDS: u16 = 256;

impl Bodies {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Writes a body under a name that no file has.
    pub(super) fn write(&self, name: BodyFileName, body: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let mut file = match create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let shard = path.parent().unwrap_or(&self.dir);
                DirBuilder::new().recursive(true).mode(0o700).create(shard)?;
                create_new(&path)?
            }
            created => created?,
        };
        let result = file.write_all(body);
        if result.is_err() {
            // Half a body is of no use, and the disk may be full of it.
            let _gone = fs::remove_file(&path);
        }
        result
    }

    /// Reads a body of `length` bytes; `None` where there is no file, or one of another length.
    pub(super) fn read(&self, name: BodyFileName, length: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = existing(File::open(self.path(name)))? else { return Ok(None) };
        let Ok(capacity) = usize::try_from(length) else { return Ok(None) };
        if file.metadata()?.len() != length {
            return Ok(None);
        }
        let mut body = Vec::with_capacity(capacity);
        file.take(length).read_to_end(&mut body)?;
        Ok((body.len() == capacity).then_some(body))
    }

    /// Whether there is a file of this name and length.
    pub(super) fn has(&self, name: BodyFileName, length: u64) -> bool {
        fs::metadata(self.path(name)).is_ok_and(|file| file.is_file() && file.len() == length)
    }

    /// Removes a file. A reader that has it open can finish.
    pub(super) fn remove(&self, name: BodyFileName) -> io::Result<()> {
        existing(fs::remove_file(self.path(name))).map(drop)
    }

    /// The files of one of the [`SHARDS`]; other files in the directory are ignored.
    pub(super) fn list(&self, shard: u16) -> io::Result<Vec<BodyFileName>> {
        let dir = self.dir.join(format!("{shard:02x}"));
        let Some(files) = existing(fs::read_dir(&dir))? else { return Ok(Vec::new()) };
        let names = files.map(|file| Ok(self.parse(&file?.path())));
        names.filter_map(Result::transpose).collect()
    }

    fn path(&self, name: BodyFileName) -> PathBuf {
        let file = format!("{:032x}.{:016x}", name.id, name.number);
        self.dir.join(format!("{:02x}", name.id >> 120)).join(file)
    }

    fn parse(&self, path: &Path) -> Option<BodyFileName> {
        let (id, number) = path.file_name()?.to_str()?.split_once('.')?;
        let id = u128::from_str_radix(id, 16).ok()?;
        let name = BodyFileName { id, number: u64::from_str_radix(number, 16).ok()? };
        // Only a name that maps back to the same path: a file returned here may be removed.
        (self.path(name) == path).then_some(name)
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_body_is_read_only_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::new(dir.path().join("body"));
        let name = BodyFileName::new(7);
        bodies.write(name, b"a body").unwrap();
        bodies.write(name, b"other").unwrap_err();
        assert_eq!(bodies.read(name, 6).unwrap().unwrap(), b"a body");
        for length in [0, 5, 7, u64::MAX] {
            assert_eq!(bodies.read(name, length).unwrap(), None);
            assert!(!bodies.has(name, length));
        }
        assert!(bodies.has(name, 6));
        bodies.remove(name).unwrap();
        bodies.remove(name).unwrap();
        assert_eq!(bodies.read(name, 6).unwrap(), None);
    }

    #[test]
    fn no_two_bodies_of_one_key_share_a_name_and_all_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::new(dir.path().join("body"));
        let names: Vec<_> = (0..50).map(|_| BodyFileName::new(u128::MAX)).collect();
        for name in &names {
            bodies.write(*name, b"x").unwrap();
        }
        let mut written: Vec<_> = names.iter().map(|name| name.number).collect();
        fs::write(dir.path().join("body/ff/stray"), b"").unwrap();
        fs::write(dir.path().join("body/ff/1.2"), b"").unwrap();
        let listed = bodies.list(255).unwrap();
        let mut numbers: Vec<_> = listed.iter().map(|name| name.number).collect();
        written.sort_unstable();
        numbers.sort_unstable();
        assert_eq!(written, numbers);
        assert!(bodies.list(0).unwrap().is_empty());
    }

    #[test]
    fn sto_09_files_and_directories_are_private_to_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::new(dir.path().join("body"));
        bodies.write(BodyFileName::new(7), b"a body").unwrap();
        let path = bodies.path(bodies.list(0).unwrap()[0]);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&dir.path().join("body")), 0o700);
    }
}
