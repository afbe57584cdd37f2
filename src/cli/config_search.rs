//! The configuration that a verb uses if none is named: `proxy.yaml` here or in a directory above, as git
//! finds its directory.
//!
//! Owns: which files are trusted: the author of a configuration decides which connections are intercepted.
//! Never touches: the content of the file; a file that the user names.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// The name that is searched for.
pub(super) const NAME: &str = "proxy.yaml";

/// The error if the search finds no file that can be used.
pub(super) const NONE_FOUND: &str = "proxy.yaml: there is none here or in a directory above: `larder init \
                                     github` writes one (discord, coinmarketcap …: `larder presets`; \
                                     `version: 1` is enough), or name one with --config";

/// The result of a search.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    /// The file, relative to the start: `proxy.yaml`, `../proxy.yaml`.
    pub(super) file: Option<PathBuf>,
    /// The files that were found and are not trusted.
    pub(super) skipped: Vec<Skipped>,
}

/// A file that was found and is not trusted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    file: PathBuf,
    reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, reason } = self;
        write!(f, "{} is not used: {reason}; name it with --config to use it", file.display())
    }
}

/// Searches the working directory and the directories above it.
pub(super) fn search() -> Search {
    std::env::current_dir().map(|start| search_from(&start, geteuid().as_raw())).unwrap_or_default()
}

/// Searches `start`, an absolute path, and the directories above it, up to the root of its file system.
fn search_from(start: &Path, user: u32) -> Search {
    let mut found = Search::default();
    let Ok(first) = fs::metadata(start) else { return found };
    let mut relative = PathBuf::new();
    for directory in start.ancestors() {
        let Ok(facts) = fs::metadata(directory) else { break };
        if facts.dev() != first.dev() {
            break;
        }
        let candidate = directory.join(NAME);
        match fs::metadata(&candidate) {
            Ok(file) => {
                let shown = relative.join(NAME);
                match distrust(&candidate, &facts, &file, user) {
                    None => {
                        found.file = Some(shown);
                        break;
                    }
                    Some(reason) => found.skipped.push(Skipped { file: shown, reason }),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let reason = format!("it cannot be read ({})", error.kind());
                found.skipped.push(Skipped { file: relative.join(NAME), reason });
            }
        }
        relative.push("..");
    }
    found
}

/// Why another user may have written the file, if so: its owner, its permissions, and those of the directory
/// in which it could be replaced. For a symbolic link, the link and its target count.
fn distrust(path: &Path, directory: &Metadata, file: &Metadata, user: u32) -> Option<String> {
    let is_foreign = |facts: &Metadata| facts.uid() != user && facts.uid() != ROOT;
    let is_open = |facts: &Metadata| facts.mode() & OTHERS_WRITE != 0;
    let link_owner = fs::symlink_metadata(path).map_or(file.uid(), |link| link.uid());
    if is_foreign(file) || (link_owner != user && link_owner != ROOT) {
        return Some("it belongs to another user".to_owned());
    }
    if is_foreign(directory) {
        return Some("its directory belongs to another user".to_owned());
    }
    if is_open(directory) {
        return Some("other users may write to its directory".to_owned());
    }
    is_open(file).then(|| "other users may write to it (`chmod go-w` it)".to_owned())
}

const ROOT: u32 = 0;

/// The permission bits `g+w` and `o+w`.
const OTHERS_WRITE: u32 = 0o022;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A project with a subdirectory, and its owner.
    fn project() -> (tempfile::TempDir, PathBuf, u32) {
        let project = tempfile::tempdir().unwrap();
        let below = project.path().join("src/deep");
        fs::create_dir_all(&below).unwrap();
        fs::write(project.path().join(NAME), "version: 1\n").unwrap();
        set_mode(&project.path().join(NAME), 0o644);
        let user = geteuid().as_raw();
        (project, below, user)
    }

    #[test]
    fn the_nearest_file_here_or_above_is_found() {
        let (project, below, user) = project();
        let found = |start: &Path| search_from(start, user).file;
        assert_eq!(found(project.path()), Some(NAME.into()));
        assert_eq!(found(&below), Some("../../proxy.yaml".into()));
        fs::write(below.join(NAME), "version: 1\n").unwrap();
        set_mode(&below.join(NAME), 0o600);
        assert_eq!(found(&below), Some(NAME.into()));
    }

    #[test]
    fn a_file_that_others_may_write_or_replace_is_skipped() {
        let (project, below, user) = project();
        let file = project.path().join(NAME);
        for mode in [0o666, 0o664, 0o622] {
            set_mode(&file, mode);
            let Search { file: None, skipped } = search_from(&below, user) else { panic!("{mode:o}") };
            let line = skipped[0].to_string();
            assert!(line.starts_with("../../proxy.yaml is not used: other users may write to it"), "{line}");
        }
        set_mode(&file, 0o644);
        for mode in [0o1777, 0o777, 0o775] {
            set_mode(project.path(), mode);
            let Search { file: None, skipped } = search_from(&below, user) else { panic!("{mode:o}") };
            assert!(skipped[0].reason.contains("its directory"), "{}", skipped[0]);
        }
    }

    #[test]
    fn a_file_or_a_directory_of_another_user_is_skipped() {
        let (_project, below, user) = project();
        // Seen by a user who owns neither; files of root are trusted.
        let found = search_from(&below, user + 12_345);
        assert_eq!(found.file.is_some(), user == ROOT);
        assert_eq!(found.skipped.is_empty(), user == ROOT);
    }

    #[test]
    fn a_symbolic_link_is_judged_by_its_target_too() {
        let (project, below, user) = project();
        let target = project.path().join("src/shared.yaml");
        fs::write(&target, "version: 1\n").unwrap();
        symlink(&target, below.join(NAME)).unwrap();
        set_mode(&target, 0o666);
        let found = search_from(&below, user);
        assert_eq!(found.skipped.len(), 1, "{found:?}");
        assert_eq!(found.file, Some("../../proxy.yaml".into()), "the next one above is used");
        set_mode(&target, 0o600);
        assert_eq!(search_from(&below, user).file, Some(NAME.into()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_search_ends_at_the_root_of_the_file_system() {
        let found = search_from(Path::new("/proc/self"), geteuid().as_raw());
        assert_eq!(found, Search::default(), "/proc is a file system of its own");
    }
}
