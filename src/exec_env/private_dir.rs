//! The private directory: files that runtimes read and nobody else may change.
//!
//! Owns: their modes, and which names of directories every runtime understands. Never touches: what
//! the files say.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// A directory whose name can stand in every variable and file that names it.
#[derive(Debug)]
pub(super) struct PrivateDir {
    directory: String,
}

impl PrivateDir {
    /// Files in `directory`, which exists.
    ///
    /// Lists of paths are separated by `:`, and no two runtimes agree on how to escape quotes: a
    /// directory with such a sign is refused rather than misread.
    pub(super) fn within(directory: &Path) -> io::Result<Self> {
        let absolute = std::path::absolute(directory)?;
        let name = absolute.to_str().filter(|name| !name.contains(unfit));
        let Some(name) = name else {
            let what = format!(
                "the directory {} cannot be told to every runtime: its name has a colon, a quote, a \
                 backslash, a dollar or a control character; set TMPDIR to another one",
                absolute.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        Ok(Self { directory: name.to_owned() })
    }

    /// Writes the file anew, for its owner alone; where it is. `name` may begin with a directory.
    pub(super) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> io::Result<String> {
        if let Some((directory, _)) = name.rsplit_once('/') {
            let place = format!("{}/{directory}", self.directory);
            DirBuilder::new().recursive(true).mode(0o700).create(place)?;
        }
        let path = format!("{}/{name}", self.directory);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&path)?.write_all(contents.as_ref())?;
        Ok(path)
    }
}

/// Whether an earlier larder has written its files to `directory`, for a command around this one or a
/// shell that asked `larder env`: what the variables say of them is replaced, not repeated.
pub(super) fn is_larders(directory: &str) -> bool {
    let directory = Path::new(directory);
    MARKS.iter().all(|mark| directory.join(mark).is_file())
}

/// Files that every such directory has, and hardly another one.
const MARKS: [&str; 3] = ["bundle.pem", "php/larder.ini", "python/larder.pem"];

fn unfit(sign: char) -> bool {
    matches!(sign, ':' | '"' | '\'' | '\\' | '$') || sign.is_control()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use crate::exec_env::private_dir::{MARKS, PrivateDir, is_larders};

    #[test]
    fn files_and_directories_are_their_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let files = PrivateDir::within(directory.path()).unwrap();
        let path = files.write("php/larder.ini", "x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(Path::new(&path)), 0o600);
        assert_eq!(mode(&directory.path().join("php")), 0o700);
        files.write("php/larder.ini", "").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"", "written anew");
    }

    #[test]
    fn a_directory_is_larders_when_it_has_all_of_its_marks() {
        let directory = tempfile::tempdir().unwrap();
        let files = PrivateDir::within(directory.path()).unwrap();
        for mark in MARKS {
            assert!(!is_larders(directory.path().to_str().unwrap()));
            files.write(mark, "x").unwrap();
        }
        assert!(is_larders(directory.path().to_str().unwrap()));
    }

    #[test]
    fn a_directory_that_some_runtime_would_misread_is_refused() {
        for name in ["/a:b", "/a\"b", "/a'b", "/a\\b", "/a$b", "/a\nb"] {
            let error = PrivateDir::within(Path::new(name)).unwrap_err();
            assert!(error.to_string().contains("TMPDIR"), "{error}");
        }
        assert!(PrivateDir::within(Path::new("/with a space/(ä)")).is_ok());
    }
}
