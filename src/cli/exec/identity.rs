//! Which private larder a configuration has: the same resolved configuration, with the same secrets and the
//! same program, has the same larder.
//!
//! Owns: what counts. Never touches: secrets in the clear: the name is an HMAC with a secret of this user.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cli::exec::data_dir::hex;
use crate::cli::exec::run_dir::{ADMIN_SOCKET, ID_LENGTH, RunDir};
use crate::config::env::Env;
use crate::config::file_source::{Contents, Disk, FileSource};
use crate::config::{self, Config, file, redacted};
use crate::store::state_db::Secret;

/// The path of a file that does not depend on the working directory. A symbolic link is not followed:
/// relative paths in the file start at the directory of the link.
pub(super) fn absolute(file: &Path) -> io::Result<PathBuf> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(fs::canonicalize(parent)?.join(file.file_name().unwrap_or_default()))
}

/// The configuration in `file`, an absolute path, and the name of its private larder.
pub(super) fn load(
    file: &Path,
    store: Option<&Path>,
    env: &Env,
    secret: &Secret,
) -> Result<(Config, String), String> {
    let contents = Disk.read(file, file::LONGEST).map_err(|error| error.to_string())?;
    let text = String::from_utf8(contents.bytes).map_err(|error| error.to_string())?;
    let parts = Parts::default();
    parts.add(file.as_os_str().as_bytes());
    parts.add(store.map(Path::as_os_str).unwrap_or_default().as_bytes());
    parts.add(text.as_bytes());
    let config = config::read(&file.to_string_lossy(), &text, env, &parts);
    let config = config.map_err(|report| report.to_string())?;
    // The values that the file takes from elsewhere, such as the proxy of the environment.
    parts.add(redacted::to_json(&config).to_string().as_bytes());
    parts.add_caller_roots(&config);
    parts.add_variables(&text, env);
    parts.add_program();
    let digest = hex(&parts.0.into_inner().finalize());
    let mut id = hex(&secret.derived(&format!("larder {digest}")));
    id.truncate(ID_LENGTH);
    Ok((config, id))
}

/// The admin socket of the private larder that runs for the configuration in `file`.
pub(in crate::cli) fn running(file: &Path, env: &Env) -> Option<PathBuf> {
    let run_dir = RunDir::existing(env)?;
    let (_, id) = load(&absolute(file).ok()?, None, env, &run_dir.secret).ok()?;
    let socket = run_dir.of(&id).join(ADMIN_SOCKET);
    std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(socket)
}

/// Everything that counts, hashed in order. As the source of files it hashes each file that is read.
#[derive(Default)]
struct Parts(RefCell<Sha256>);

impl Parts {
    fn add(&self, part: &[u8]) {
        let mut digest = self.0.borrow_mut();
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }

    /// The certificates that the caller trusts besides the system's.
    fn add_caller_roots(&self, config: &Config) {
        for path in &config.caller_roots {
            self.add(path.as_os_str().as_bytes());
            self.add(&Disk.read(path, file::LONGEST).map(|read| read.bytes).unwrap_or_default());
        }
    }

    /// The variables that the text names, as `${NAME}` or `from_env: NAME`, and the credentials of the
    /// environment's proxies.
    fn add_variables(&self, text: &str, env: &Env) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for name in text.split(|c| !is_name(c)).filter(|name| !name.is_empty()) {
            if let Some(value) = env.get(name) {
                self.add(name.as_bytes());
                self.add(value.as_bytes());
            }
        }
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            for name in [name.to_owned(), name.to_uppercase()] {
                let url = env.get(&name).unwrap_or_default();
                if let Some((credentials, _)) = url.rsplit_once('@') {
                    self.add(credentials.as_bytes());
                }
            }
        }
    }

    /// Another build may handle the same configuration in another way.
    fn add_program(&self) {
        self.add(env!("CARGO_PKG_VERSION").as_bytes());
        let Ok(program) = std::env::current_exe() else { return };
        self.add(program.as_os_str().as_bytes());
        if let Ok(facts) = fs::metadata(&program) {
            let times = [facts.mtime(), facts.mtime_nsec(), facts.size().cast_signed()];
            for time in times {
                self.add(&time.to_be_bytes());
            }
        }
    }
}

impl FileSource for Parts {
    fn read(&self, path: &Path, longest: usize) -> io::Result<Contents> {
        let contents = Disk.read(path, longest)?;
        self.add(path.as_os_str().as_bytes());
        self.add(&contents.bytes);
        Ok(contents)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const FILE: &str = "\
version: 1
upstreams:
  up:
    hosts: [api.example]
    credential: { header: X-Key, from_env: API_KEY }
routes:
  - { name: r, match: { host: api.example }, ttl: 1h }
";

    struct Project(tempfile::TempDir, Secret);

    impl Project {
        fn id(&self, text: &str, variables: &[(&str, &str)], store: Option<&str>) -> String {
            let file = self.0.path().join("proxy.yaml");
            fs::write(&file, text).unwrap();
            let env = variables.iter().copied().collect();
            load(&file, store.map(Path::new), &env, &self.1).unwrap().1
        }
    }

    #[test]
    fn a_larder_is_shared_by_equal_configurations_with_equal_secrets() {
        let project = Project(tempfile::tempdir().unwrap(), Secret::ephemeral());
        let mine = project.id(FILE, &[("API_KEY", "mine"), ("OTHER", "1")], None);
        assert_eq!(mine.len(), ID_LENGTH);
        assert_eq!(mine, project.id(FILE, &[("API_KEY", "mine"), ("OTHER", "2")], None));
        for other in [
            project.id(FILE, &[("API_KEY", "theirs")], None),
            project.id(&FILE.replace("1h", "2h"), &[("API_KEY", "mine")], None),
            project.id(FILE, &[("API_KEY", "mine")], Some("/store")),
            project.id(FILE, &[("API_KEY", "mine"), ("https_proxy", "http://me:pw@proxy:1")], None),
            project.id(FILE, &[("API_KEY", "mine"), ("SSL_CERT_FILE", "/company.pem")], None),
            Project(tempfile::tempdir().unwrap(), project.1.clone()).id(FILE, &[("API_KEY", "mine")], None),
        ] {
            assert_ne!(other, mine);
        }
    }

    #[test]
    fn the_content_of_a_file_that_the_configuration_names_counts() {
        let project = Project(tempfile::tempdir().unwrap(), Secret::ephemeral());
        let (users, text) = (project.0.path().join("users"), "version: 1\naccess: { users_file: users }\n");
        let mut ids = ["one:long-and-random\n", "two:long-and-random\n"].map(|content| {
            fs::write(&users, content).unwrap();
            fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
            project.id(text, &[], None)
        });
        ids.sort();
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn a_path_does_not_depend_on_the_working_directory() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("src");
        fs::create_dir(&below).unwrap();
        let direct = absolute(&directory.path().join("proxy.yaml")).unwrap();
        assert_eq!(absolute(&below.join("../proxy.yaml")).unwrap(), direct);
        assert!(absolute(Path::new("proxy.yaml")).unwrap().is_absolute());
    }
}
