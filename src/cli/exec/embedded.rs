//! A larder in this process, for one command.
//!
//! Owns: what differs from the configuration: it listens on a free loopback port for its caller alone,
//! and everything it keeps lies in the user's cache directory.
//! Never touches: the command.

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
use crate::cli::exec::final_stats::FinalStats;
use crate::cli::exec::tell;
use crate::clock::Clock;
use crate::config::env::Env;
use crate::config::name_constraint::NameConstraint;
use crate::config::{Ca, CaFiles, Config, Log, LogLevel};
use crate::frontend::ca::CertificateAuthority;
use crate::route::pattern::HostPattern;
use crate::server::{Server, ServerDeps};
use crate::store;
use crate::store::lock::{Lock, LockError};
use crate::telemetry::{self, Telemetry};

/// A running larder of this process.
pub(in crate::cli) struct EmbeddedLarder {
    server: Server,
    proxy: SocketAddr,
    proof: CallerProof,
    ca: String,
}

/// The command has ended: nobody is left to wait for but what it left behind.
pub(super) const DRAIN: Duration = Duration::from_secs(1);

/// A free port of this machine.
pub(super) const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Installs the log. The command's own words are what its caller wants to read: of larder there are
/// only warnings, unless more is asked for.
pub(in crate::cli) fn log(config: &Config, verbose: bool) {
    let level = match config.log.level {
        level if verbose => level,
        LogLevel::Error => LogLevel::Error,
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug | LogLevel::Trace => LogLevel::Warn,
    };
    telemetry::log::install(&Log { level, format: config.log.format });
}

impl EmbeddedLarder {
    /// Starts one for the configuration at `file`.
    pub(super) fn start(
        file: &Path,
        config: Config,
        world: &mut Context<'_>,
    ) -> Result<Self, String> {
        let proof = CallerProof::find();
        let config = adapted(config, file, &proof, world);
        heal(&config);
        let server =
            Server::start(config, ServerDeps::default()).map_err(|error| error.to_string())?;
        let proxy = *server.addrs().first().ok_or("it listens nowhere")?;
        let ca = server.ca().unwrap_or_default();
        Ok(Self { server, proxy, proof, ca })
    }

    /// Where it listens.
    pub(super) fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// The user and the password that it asks for.
    pub(super) fn password(&self) -> Option<&str> {
        self.proof.password()
    }

    /// The certificate of its authority; empty where nothing is intercepted.
    pub(super) fn ca(&self) -> &str {
        &self.ca
    }

    /// Stops it; what it counted to the last.
    pub(super) async fn stop(self) -> FinalStats {
        let account: Arc<Telemetry> = Arc::clone(self.server.account());
        if !self.server.stop_within(DRAIN).await {
            tracing::debug!("What the command left behind was cut");
        }
        let (tunnelled, distrusted) = (account.tunnelled(), account.distrusted());
        FinalStats { page: account.render(), tunnelled, distrusted }
    }
}

/// A certificate authority of its own that is of no use any more (expired, damaged) is no reason not
/// to start: only commands that end with their larder were told to trust it.
pub(super) fn heal(config: &Config) {
    let Err(error) = CertificateAuthority::of(config, Clock::system().now()) else { return };
    tracing::warn!(%error, "The certificate authority is made anew");
    let ours = config.tls.ca.files.as_ref().and_then(|files| files.cert.parent());
    if let Some(Err(error)) = ours.map(fs::remove_dir_all) {
        tracing::warn!(%error, "The old one stays");
    }
}

/// The configuration of a private larder: clients show that they are its caller's, whatever `access` says
/// of others, and its certificate authority vouches for the hosts of this configuration alone.
pub(super) fn adapted(
    mut config: Config,
    file: &Path,
    proof: &CallerProof,
    world: &mut Context<'_>,
) -> Config {
    config.listen = vec![FREE];
    config.admin = None;
    config.access = proof.access();
    config.tls.ca = Ca { files: None, constrain: hosts(&config) };
    let kept = kept(&world.env, file).and_then(|directory| {
        private(&directory)?;
        Ok(directory)
    });
    match kept {
        Ok(directory) => {
            config.tls.ca.files = Some(ca_files(&directory, &config.tls.ca.constrain));
            if let Some(why) = in_use(&directory, &config) {
                tell(world, &format!("{why}: what is stored now lasts as long as this command"));
                config.store.disk = 0;
            }
            config.store.path = directory;
        }
        Err(error) => {
            tell(world, &format!("nothing is stored on disk: {error}"));
            config.store.disk = 0;
        }
    }
    config
}

/// Where the private larder of the configuration at `file` keeps what it stores.
pub(in crate::cli) fn kept(env: &Env, file: &Path) -> io::Result<PathBuf> {
    Ok(cache(env)?.join(own_name(file)?))
}

/// Where the files lie that `larder env` names.
pub(in crate::cli) fn env_files(env: &Env, file: &Path) -> io::Result<PathBuf> {
    Ok(cache(env)?.join("env").join(own_name(file)?))
}

/// Larder's part of the user's cache directory.
fn cache(env: &Env) -> io::Result<PathBuf> {
    let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let nowhere = || {
        let what = "neither XDG_CACHE_HOME nor HOME says where";
        io::Error::new(io::ErrorKind::NotFound, what)
    };
    Ok(cache.ok_or_else(nowhere)?.join("larder"))
}

/// A file has one name, however it is reached.
fn own_name(file: &Path) -> io::Result<String> {
    let whole = fs::canonicalize(file)?;
    Ok(short(Sha256::new().chain_update(whole.as_os_str().as_bytes())))
}

/// Makes a directory that is its owner's alone: the command must not inherit a mask for new files, so
/// those below are made as the system says.
pub(in crate::cli) fn private(directory: &Path) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {}", directory.display(), error.kind()))
    };
    store::private_file::directory(directory).map_err(named)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(named)
}

/// Other hosts are vouched for by another authority: one that was made for fewer would be of no use,
/// and nobody trusts it but commands that are told to.
fn ca_files(directory: &Path, constrain: &[NameConstraint]) -> CaFiles {
    let mut digest = Sha256::new();
    for host in constrain {
        digest.update(host.to_string());
        digest.update([0]);
    }
    let directory = directory.join("ca").join(short(digest));
    CaFiles { cert: directory.join("ca.pem"), key: directory.join("ca.key") }
}

/// A name that is long enough for what one user has.
fn short(digest: Sha256) -> String {
    let digest = digest.finalize();
    let head = digest.first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(head))
}

/// The hosts that this configuration may intercept, and no others. Where they are all hosts
/// (`tls.intercept: ["*"]`), nothing is left to constrain.
fn hosts(config: &Config) -> Vec<NameConstraint> {
    if config.named().any(HostPattern::is_any) {
        return Vec::new();
    }
    let all: BTreeSet<_> = config.named().filter_map(NameConstraint::around).collect();
    all.into_iter().collect()
}

/// Why the directory is not for this larder.
fn in_use(directory: &Path, config: &Config) -> Option<String> {
    if config.store.disk == 0 {
        return None;
    }
    match Lock::try_take(directory, Clock::system().now()) {
        // The store takes it at once; whoever comes between has it.
        Ok(_free) => None,
        Err(held @ LockError::Held { .. }) => Some(held.to_string()),
        Err(failed @ LockError::Io { .. }) => Some(failed.to_string()),
    }
}
