//! A larder in this process, for one command.
//!
//! Owns: its differences from the configuration: it listens on a free loopback port for its caller only, and
//! its files are in the user's cache directory. Never touches: the command.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cli::Context;
use crate::cli::exec::caller_proof::CallerProof;
use crate::cli::exec::summary::FinalStats;
use crate::cli::exec::{Endpoint, print_note};
use crate::clock::Clock;
use crate::config::env::Env;
use crate::config::name_constraint::NameConstraint;
use crate::config::{Ca, CaFiles, Config, Log, LogLevel};
use crate::frontend::ca::CertificateAuthority;
use crate::route::pattern::HostPattern;
use crate::server::{Server, ServerDeps};
use crate::store;
use crate::store::lock::Lock;
use crate::telemetry::{self, Telemetry};

/// A larder that runs in this process.
pub(in crate::cli) struct EmbeddedLarder {
    server: Server,
    pub(super) endpoint: Endpoint,
}

/// The longest drain after the end of the command: only processes that it left behind have connections.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Any free loopback port.
pub(super) const ANY_LOOPBACK_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Installs the log. The output of the command has priority, so larder logs only warnings and errors unless
/// `verbose` is set.
pub(in crate::cli) fn install_log(config: &Config, verbose: bool) {
    let level = match config.log.level {
        level if verbose => level,
        LogLevel::Error => LogLevel::Error,
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug | LogLevel::Trace => LogLevel::Warn,
    };
    telemetry::log::install(&Log { level, format: config.log.format });
}

impl EmbeddedLarder {
    /// Starts one for the configuration at `file`, even if another larder runs.
    pub(in crate::cli) fn start(
        file: &Path,
        config: Config,
        context: &mut Context<'_>,
    ) -> Result<Self, String> {
        let proof = CallerProof::detect();
        let config = private_config(config, file, &proof, context);
        remove_unusable_ca(&config);
        let server = Server::start(config, ServerDeps::default()).map_err(|error| error.to_string())?;
        let proxy = *server.addrs().first().ok_or("it has no listener")?;
        let endpoint = Endpoint { proxy, password: proof.password(), ca: server.ca().unwrap_or_default() };
        Ok(Self { server, endpoint })
    }

    /// Stops it and returns its final statistics.
    pub(super) async fn stop(self) -> FinalStats {
        let telemetry: Arc<Telemetry> = Arc::clone(self.server.telemetry());
        if !self.server.stop_within(DRAIN_TIMEOUT).await {
            tracing::debug!("Connections of processes that the command left behind were closed");
        }
        let (tunnelled, distrusted) = (telemetry.tunnelled_hosts(), telemetry.distrusting_hosts());
        FinalStats { metrics: telemetry.render(), tunnelled, distrusted }
    }
}

/// Removes an expired or damaged certificate authority, so that a new one is created. This is safe: only
/// commands that end with their larder trust it.
pub(super) fn remove_unusable_ca(config: &Config) {
    let Err(error) = CertificateAuthority::from_config(config, Clock::system().now()) else {
        return;
    };
    tracing::warn!(%error, "The certificate authority is unusable and is created again");
    let ours = config.tls.ca.files.as_ref().and_then(|files| files.cert.parent());
    if let Some(Err(error)) = ours.map(fs::remove_dir_all) {
        tracing::warn!(%error, "The unusable certificate authority cannot be removed");
    }
}

/// The configuration of a private larder. Its clients prove that they belong to the caller, regardless of
/// `access`, and its certificate authority is constrained to the hosts of this configuration.
pub(super) fn private_config(
    mut config: Config,
    file: &Path,
    proof: &CallerProof,
    context: &mut Context<'_>,
) -> Config {
    config.listen = vec![ANY_LOOPBACK_PORT];
    config.admin = None;
    config.serves_command = true;
    config.access = proof.access();
    config.tls.ca = Ca { files: None, constrain: hosts(&config) };
    let data_dir = data_dir(&context.env, file).and_then(|directory| {
        create_private_dir(&directory)?;
        Ok(directory)
    });
    match data_dir {
        Ok(directory) => {
            config.tls.ca.files = Some(ca_files(&directory, &config.tls.ca.constrain));
            if let Some(reason) = in_use(&directory, &config) {
                print_note(context, &format!("{reason}: running memory-only for this command"));
                config.store.disk = 0;
            }
            config.store.path = directory;
        }
        Err(error) => {
            print_note(context, &format!("nothing is stored on disk: {error}"));
            config.store.disk = 0;
        }
    }
    config
}

/// The directory for the store of the private larder of the configuration at `file`.
pub(in crate::cli) fn data_dir(env: &Env, file: &Path) -> io::Result<PathBuf> {
    Ok(cache_dir(env)?.join(config_id(file)?))
}

/// The directory for the files that `larder env` names.
pub(in crate::cli) fn env_files(env: &Env, file: &Path) -> io::Result<PathBuf> {
    Ok(cache_dir(env)?.join("env").join(config_id(file)?))
}

/// Larder's directory in the user's cache directory.
fn cache_dir(env: &Env) -> io::Result<PathBuf> {
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
    let with_path =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {}", directory.display(), error.kind()));
    store::private_file::create_dir(directory).map_err(with_path)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(with_path)
}

/// The files of the certificate authority. Each set of constraints has its own authority, since one that was
/// created for fewer hosts would be useless; only commands that larder starts trust them.
fn ca_files(directory: &Path, constrain: &[NameConstraint]) -> CaFiles {
    let mut digest = Sha256::new();
    for host in constrain {
        digest.update(host.to_string());
        digest.update([0]);
    }
    let directory = directory.join("ca").join(short_name(digest));
    CaFiles { cert: directory.join("ca.pem"), key: directory.join("ca.key") }
}

/// A file name from a digest: 64 bits are enough for the configurations of one user.
fn short_name(digest: Sha256) -> String {
    let digest = digest.finalize();
    let head = digest.first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(head))
}

/// The constraints: the hosts that this configuration may intercept. If these are all hosts
/// (`tls.intercept: ["*"]`), there is no constraint.
fn hosts(config: &Config) -> Vec<NameConstraint> {
    if config.interception_patterns().any(HostPattern::is_any) {
        return Vec::new();
    }
    let constraints: BTreeSet<_> =
        config.interception_patterns().filter_map(NameConstraint::for_pattern).collect();
    constraints.into_iter().collect()
}

/// The reason why this larder cannot use the directory, if any.
fn in_use(directory: &Path, config: &Config) -> Option<String> {
    if config.store.disk == 0 {
        return None;
    }
    match Lock::try_take(directory, Clock::system().now()) {
        // The store takes the lock right after this; a process that takes it in between has it.
        Ok(_lock) => None,
        Err(error) => Some(error.to_string()),
    }
}
