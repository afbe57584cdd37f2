//! The private directory: files that runtimes read and that only their owner can change.
//!
//! Owns: the file modes, and the check that every runtime supports the directory's name. Never touches: the
//! contents of the files.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// A directory whose name is valid in every variable and file that contains it.
#[derive(Debug)]
pub(super) struct PrivateDir {
    directory: String,
}

impl PrivateDir {
    /// Accepts an existing `directory` for the files.
    ///
    /// Path lists use `:` as their separator, and runtimes differ in how they escape quotes, so a directory
    /// whose name contains such a character is refused.
    pub(super) fn within(directory: &Path) -> io::Result<Self> {
        let absolute = std::path::absolute(directory)?;
        let name = absolute.to_str().filter(|name| !name.contains(is_unsupported));
        let Some(name) = name else {
            let message = format!(
                "the directory {} does not work with every runtime: its name contains a colon, a quote, a \
                 backslash, a dollar sign or a control character; set TMPDIR to another directory",
                absolute.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        Ok(Self { directory: name.to_owned() })
    }

    /// Writes or overwrites a file that only its owner can read, and returns its path. `name` may contain a
    /// directory.
    pub(super) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> io::Result<String> {
        if let Some((directory, _)) = name.rsplit_once('/') {
            let parent = format!("{}/{directory}", self.directory);
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let path = format!("{}/{name}", self.directory);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&path)?.write_all(contents.as_ref())?;
        Ok(path)
    }
}

/// Whether an earlier larder wrote its files to `directory`, for an enclosing command or for a shell that ran
/// `larder env`. Its settings in the variables are replaced and not repeated.
pub(super) fn is_larder_dir(directory: &str) -> bool {
    let directory = Path::new(directory);
    MARKER_FILES.iter().all(|marker| directory.join(marker).is_file())
}

/// The directories of a path list, without those that an earlier larder added under this name.
pub(super) fn others<'l>(list: Option<&'l str>, name: &'static str) -> impl Iterator<Item = &'l str> {
    let places = list.into_iter().flat_map(|list| list.split(':'));
    places.filter(move |place| !place.strip_suffix(name).is_some_and(is_larder_dir))
}

/// Files that identify a directory of larder: each has them all, and hardly any other directory does.
const MARKER_FILES: [&str; 3] = ["bundle.pem", "php/larder.ini", "python/larder.pem"];

fn is_unsupported(character: char) -> bool {
    matches!(character, ':' | '"' | '\'' | '\\' | '$') || character.is_control()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use crate::exec_env::private_dir::{MARKER_FILES, PrivateDir, is_larder_dir};

    #[test]
    fn only_the_owner_can_access_files_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        let files = PrivateDir::within(directory.path()).unwrap();
        let path = files.write("php/larder.ini", "x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(Path::new(&path)), 0o600);
        assert_eq!(mode(&directory.path().join("php")), 0o700);
        files.write("php/larder.ini", "").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"", "overwritten");
    }

    #[test]
    fn a_directory_with_all_marker_files_belongs_to_larder() {
        let directory = tempfile::tempdir().unwrap();
        let files = PrivateDir::within(directory.path()).unwrap();
        for marker in MARKER_FILES {
            assert!(!is_larder_dir(directory.path().to_str().unwrap()));
            files.write(marker, "x").unwrap();
        }
        assert!(is_larder_dir(directory.path().to_str().unwrap()));
    }

    #[test]
    fn a_directory_name_that_a_runtime_would_misread_is_refused() {
        for name in ["/a:b", "/a\"b", "/a'b", "/a\\b", "/a$b", "/a\nb"] {
            let error = PrivateDir::within(Path::new(name)).unwrap_err();
            assert!(error.to_string().contains("TMPDIR"), "{error}");
        }
        assert!(PrivateDir::within(Path::new("/with a space/(ä)")).is_ok());
    }
}
