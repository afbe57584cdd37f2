//! The directory in which a private larder keeps its data.
//!
//! Owns: its choice: the user's cache directory or the one that is named, else memory that outlives the
//! process, else none. A volume that is full or read-only never keeps a command from running.
//! Never touches: the data.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use crate::cli::exec::owned_dir;
use crate::clock::Clock;
use crate::config::env::Env;
use crate::config::{Config, defaults};
use crate::store;
use crate::store::lock::Lock;
use crate::store::state_db::Secret;

/// The facts that determine the files of a private larder.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Place<'a> {
    /// The configuration.
    pub(in crate::cli) file: &'a Path,
    /// The directory that `--store` names.
    pub(in crate::cli) store: Option<&'a Path>,
    /// A private directory that lasts as long as the larder, if there is one.
    pub(in crate::cli) runtime: Option<&'a Path>,
}

/// The chosen directory.
pub(super) struct DataDir {
    /// `None`: nothing can be written.
    pub(super) path: Option<PathBuf>,
    /// The most bytes that may be stored there.
    pub(super) max_disk: u64,
    /// Why it is not the one that is preferred.
    pub(super) problem: Option<String>,
}

/// Chooses and creates the directory for `config` at `place`.
pub(super) fn choose(place: Place<'_>, config: &Config, env: &Env) -> DataDir {
    let problem = match preferred(place, config, env) {
        Ok(path) => return DataDir { path: Some(path), max_disk: u64::MAX, problem: None },
        Err(error) => Some(error.to_string()),
    };
    match in_memory(place, config) {
        Ok(path) => DataDir { path: Some(path), max_disk: defaults::EXEC_SHARED_MEMORY, problem },
        Err(error) => {
            tracing::debug!(%error, "No directory in memory");
            DataDir { path: None, max_disk: 0, problem }
        }
    }
}

/// The directory below the one that is named, or below the user's cache directory. A store that is named
/// belongs to no path, so that each checkout of a repository finds it.
fn preferred(place: Place<'_>, config: &Config, env: &Env) -> io::Result<PathBuf> {
    let (base, name) = match place.store {
        Some(store) => (store.to_owned(), "store".to_owned()),
        None => (cache_dir(env)?, config_id(place.file)?),
    };
    let directory = base.join(with_account(name, config, &base)?);
    create_private_dir(&directory)?;
    probe(&directory)?;
    Ok(directory)
}

/// A directory in the system's memory, until the next boot.
fn in_memory(place: Place<'_>, config: &Config) -> io::Result<PathBuf> {
    let base = PathBuf::from(format!("/dev/shm/larder-{}", geteuid().as_raw()));
    owned_dir::create(&base)?;
    let name = if place.store.is_some() { "store".to_owned() } else { config_id(place.file)? };
    let directory = base.join(with_account(name, config, &base)?);
    create_private_dir(&directory)?;
    remove_others(&base, &directory);
    probe(&directory)?;
    Ok(directory)
}

/// Removes the data of other configurations, except that of the last few and that in use: memory is scarce.
fn remove_others(base: &Path, own: &Path) {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let modified = |path: &Path| fs::metadata(path).and_then(|facts| facts.modified()).ok();
    let others = entries.map(|entry| entry.path()).filter(|path| path.is_dir() && path != own);
    let mut others: Vec<_> = others.map(|path| (modified(&path), path)).collect();
    others.sort();
    let surplus = others.len().saturating_sub(MAX_OTHERS);
    for (_, path) in others.iter().take(surplus) {
        if let Ok(_abandoned) = Lock::try_take(path, Clock::system().now())
            && let Err(error) = fs::remove_dir_all(path)
        {
            tracing::debug!(%error, "Data of another configuration not removed");
        }
    }
}

/// The other configurations whose data stays in memory.
const MAX_OTHERS: usize = 3;

/// `name`, with a suffix for the secrets that larder sends to APIs: another API key is another account,
/// whose responses and spending are kept apart. The suffix reveals nothing about them.
fn with_account(name: String, config: &Config, base: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut is_empty = true;
    for upstream in &config.upstreams {
        if let Some(credential) = &upstream.credential {
            is_empty = false;
            for part in [upstream.name.as_bytes(), credential.header.as_str().as_bytes()] {
                digest.update(part);
                digest.update([0]);
            }
            digest.update(credential.reveal().as_bytes());
            digest.update([0]);
        }
    }
    if is_empty {
        return Ok(name);
    }
    let secret = Secret::load_or_create(base).map_err(io::Error::other)?;
    let hashed = digest.finalize();
    let account = hex(&secret.derived(&format!("account {}", hex(&hashed))));
    Ok(format!("{name}-{}", account.get(..16).unwrap_or_default()))
}

/// The bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Fails if the volume is full or cannot be written.
fn probe(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!("probe-{:016x}", rand::random::<u64>()));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = written.and_then(|mut file| file.write_all(&vec![0; PROBE]));
    let removed = fs::remove_file(&path);
    written.and(removed).map_err(|error| describe(directory, &error))
}

/// The bytes that must be free: a new store needs them.
const PROBE: usize = 1 << 20;

fn describe(directory: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {}", directory.display(), error.kind()))
}

/// The directory for the files that `larder env` names.
pub(in crate::cli) fn env_files(env: &Env, file: &Path) -> io::Result<PathBuf> {
    Ok(cache_dir(env)?.join("env").join(config_id(file)?))
}

/// Larder's directory in the user's cache directory.
pub(super) fn cache_dir(env: &Env) -> io::Result<PathBuf> {
    let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let not_found = || {
        let message = "neither XDG_CACHE_HOME nor HOME is an absolute path";
        io::Error::new(io::ErrorKind::NotFound, message)
    };
    Ok(cache.ok_or_else(not_found)?.join("larder"))
}

/// A directory name for the configuration at `file`, the same for every path to it.
fn config_id(file: &Path) -> io::Result<String> {
    let absolute = fs::canonicalize(file)?;
    Ok(short_name(Sha256::new().chain_update(absolute.as_os_str().as_bytes())))
}

/// Creates a directory that only its owner can access. The umask is left unchanged, since the command would
/// inherit it; files below the directory get the default permissions.
pub(in crate::cli) fn create_private_dir(directory: &Path) -> io::Result<()> {
    store::private_file::create_dir(directory).map_err(|error| describe(directory, &error))?;
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(directory, private).map_err(|error| describe(directory, &error))
}

/// A file name from a digest: 64 bits are enough for the configurations of one user.
pub(super) fn short_name(digest: Sha256) -> String {
    let digest = digest.finalize();
    let head = digest.first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const FILE: &str = "\
version: 1
upstreams:
  up:
    hosts: [api.example]
    credential: { header: X-Key, from_env: API_KEY }
";

    fn config(key: &str) -> Config {
        parse("proxy.yaml", FILE, &[("API_KEY", key)].into_iter().collect()).unwrap()
    }

    #[test]
    fn another_key_has_another_directory_whose_name_reveals_no_key() {
        let base = tempfile::tempdir().unwrap();
        let name = |config: &Config| with_account("name".to_owned(), config, base.path()).unwrap();
        let mine = name(&config("mine"));
        assert_eq!(mine, name(&config("mine")));
        assert_ne!(mine, name(&config("theirs")));
        assert!(mine.starts_with("name-") && mine.len() == "name-".len() + 16, "{mine}");
        let elsewhere = tempfile::tempdir().unwrap();
        assert_ne!(mine, with_account("name".to_owned(), &config("mine"), elsewhere.path()).unwrap());
        assert_eq!(name(&parse("proxy.yaml", "version: 1", &Env::default()).unwrap()), "name");
    }

    #[test]
    fn a_store_that_is_named_does_not_depend_on_the_path_of_the_configuration() {
        let store = tempfile::tempdir().unwrap();
        let place =
            |file: &'static str| Place { file: Path::new(file), store: Some(store.path()), runtime: None };
        let config = parse("proxy.yaml", "version: 1", &Env::default()).unwrap();
        let chosen = |file| choose(place(file), &config, &Env::default());
        let one = chosen("/one/proxy.yaml");
        assert!(one.problem.is_none() && one.max_disk == u64::MAX);
        assert_eq!(one.path, chosen("/two/proxy.yaml").path);
        let mode = fs::metadata(one.path.unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn memory_holds_the_data_of_a_few_configurations() {
        let base = tempfile::tempdir().unwrap();
        let directories: Vec<_> = (0..6).map(|number| base.path().join(number.to_string())).collect();
        for directory in &directories {
            create_private_dir(directory).unwrap();
        }
        let in_use = Lock::try_take(&directories[0], std::time::UNIX_EPOCH).unwrap();
        remove_others(base.path(), &directories[5]);
        let left = directories.iter().filter(|directory| directory.exists()).count();
        assert!(directories[0].exists() && directories[5].exists());
        assert!((1 + MAX_OTHERS..=2 + MAX_OTHERS).contains(&left), "{left}");
        drop(in_use);
    }

    #[test]
    fn a_directory_that_cannot_be_created_is_replaced_or_reported() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let place = Place { file: file.path(), store: Some(file.path()), runtime: None };
        let config = parse("proxy.yaml", "version: 1", &Env::default()).unwrap();
        let chosen = choose(place, &config, &Env::default());
        assert!(chosen.problem.unwrap().contains(&*file.path().to_string_lossy()));
        assert!(chosen.path.is_none_or(|path| path.starts_with("/dev/shm")));
    }
}
