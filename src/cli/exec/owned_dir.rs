//! A directory below one that other users may write to, such as `/tmp`.
//!
//! Owns: the checks that no other user has made the directory or can replace it.
//! Never touches: the files in it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::process::geteuid;

use crate::store::private_file;

/// Creates the directory, unless it exists, and returns its path without symbolic links. Fails if it belongs
/// to another user, if others may enter it, or if another user could put another one in its place.
pub(super) fn create(path: &Path) -> io::Result<PathBuf> {
    let refused = |reason: &str| {
        let message = format!("{}: {reason}", path.display());
        io::Error::new(io::ErrorKind::PermissionDenied, message)
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refused("no directory"));
    };
    private_file::create_dir(parent)?;
    let parent = fs::canonicalize(parent)?;
    let user = geteuid().as_raw();
    let is_safe = |directory: &Path| fs::metadata(directory).is_ok_and(|facts| is_kept_by(&facts, user));
    if !parent.ancestors().all(is_safe) {
        return Err(refused("other users can replace it"));
    }
    let path = parent.join(name);
    private_file::create_dir(&path)?;
    // Not through a symbolic link, which its maker could point to another directory of this user.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let facts = fstat(open(&path, flags, Mode::empty())?)?;
    if facts.st_uid != user {
        return Err(refused("it belongs to another user"));
    }
    if facts.st_mode & 0o077 != 0 {
        return Err(refused("other users may enter it"));
    }
    Ok(path)
}

/// Whether only `user` and root can rename an entry of this user in the directory: no other user can write to
/// it, or users may rename only their own entries (the sticky bit).
fn is_kept_by(directory: &fs::Metadata, user: u32) -> bool {
    let is_open = directory.mode() & OTHERS_WRITE != 0 && directory.mode() & STICKY == 0;
    [user, ROOT].contains(&directory.uid()) && !is_open
}

const ROOT: u32 = 0;
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn it_is_created_private_and_found_again() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("one/two");
        let created = create(&path).unwrap();
        assert_eq!(fs::metadata(&created).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(create(&path).unwrap(), created);
    }

    #[test]
    fn one_that_another_user_prepared_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let (open, link) = (base.path().join("open"), base.path().join("link"));
        fs::create_dir(&open).unwrap();
        set_mode(&open, 0o755);
        assert!(create(&open).unwrap_err().to_string().contains("may enter it"));
        symlink(base.path(), &link).unwrap();
        assert!(create(&link).is_err(), "a symbolic link may lead anywhere");
        if geteuid().is_root() {
            let foreign = base.path().join("foreign");
            fs::create_dir(&foreign).unwrap();
            set_mode(&foreign, 0o700);
            std::os::unix::fs::chown(&foreign, Some(12_345), None).unwrap();
            assert!(create(&foreign).unwrap_err().to_string().contains("another user"));
        }
    }

    #[test]
    fn one_that_another_user_could_replace_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let shared = base.path().join("shared");
        fs::create_dir(&shared).unwrap();
        set_mode(&shared, 0o777);
        assert!(create(&shared.join("ours")).unwrap_err().to_string().contains("replace it"));
        set_mode(&shared, 0o1777);
        create(&shared.join("ours")).unwrap();
    }
}
