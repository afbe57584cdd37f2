//! A larder in this process, for one command.
//!
//! Owns: its differences from the configuration: it listens on a free loopback port for its caller only, and
//! its files are in the user's cache directory. Never touches: the command.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cli::Context;
use crate::cli::exec::caller_proof::CallerProof;
use crate::cli::exec::data_dir::{self, DataDir, Place, short_name};
use crate::cli::exec::summary::FinalStats;
use crate::cli::exec::{Endpoint, print_note};
use crate::clock::Clock;
use crate::config::name_constraint::NameConstraint;
use crate::config::{Ca, CaFiles, Config, Log, LogLevel};
use crate::frontend::ca::CertificateAuthority;
use crate::route::pattern::HostPattern;
use crate::server::{Server, ServerDeps};
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
    /// Starts one for the configuration at `place`, even if another larder runs.
    pub(in crate::cli) fn start(
        place: Place<'_>,
        config: Config,
        context: &mut Context<'_>,
    ) -> Result<Self, String> {
        let proof = CallerProof::detect();
        let config = private_config(config, place, &proof, context);
        remove_unusable_ca(&config);
        let server = Server::start(config, ServerDeps::default()).map_err(|error| error.to_string())?;
        let proxy = *server.addrs().first().ok_or("it has no listener")?;
        let endpoint = Endpoint {
            proxy,
            password: proof.password(),
            ca: server.ca().unwrap_or_default(),
            private: None,
        };
        Ok(Self { server, endpoint })
    }

    /// Starts one that intercepts no connection: its command cannot be given the certificate.
    pub(super) fn start_without_interception(
        place: Place<'_>,
        mut config: Config,
        context: &mut Context<'_>,
    ) -> Result<Self, String> {
        config.tls.passthrough.extend(HostPattern::parse("*"));
        let mut larder = Self::start(place, config, context)?;
        larder.endpoint.ca.clear();
        Ok(larder)
    }

    /// Stops it and returns its final statistics.
    pub(super) async fn stop(self) -> FinalStats {
        let telemetry: Arc<Telemetry> = Arc::clone(self.server.telemetry());
        if !self.server.stop_within(DRAIN_TIMEOUT).await {
            tracing::debug!("Connections of processes that the command left behind were closed");
        }
        let (tunnelled, distrusted) = (telemetry.tunnelled_hosts(), telemetry.distrusting_hosts());
        FinalStats { metrics: telemetry.render(), tunnelled, distrusted, ..FinalStats::default() }
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
    place: Place<'_>,
    proof: &CallerProof,
    context: &mut Context<'_>,
) -> Config {
    config.listen = vec![ANY_LOOPBACK_PORT];
    config.admin = None;
    config.serves_command = true;
    config.access = proof.access();
    config.tls.ca = Ca { files: None, constrain: hosts(&config) };
    let DataDir { path, max_disk, problem } = data_dir::choose(place, &config, &context.env);
    let ca = place.runtime.map(|runtime| runtime.join("ca"));
    let Some(path) = path else {
        let problem = problem.unwrap_or_default();
        print_note(context, &format!("nothing is stored on disk: {problem}"));
        config.store.disk = 0;
        config.tls.ca.files = ca.map(|directory| ca_files(&directory, &config.tls.ca.constrain));
        return config;
    };
    if let Some(problem) = problem {
        print_note(context, &format!("{problem}: using {} until the next boot", path.display()));
    }
    config.store.disk = config.store.disk.min(max_disk);
    // A store that is named may be copied between machines: no key of an authority is kept in it.
    let ca = ca.filter(|_| place.store.is_some()).unwrap_or_else(|| path.join("ca"));
    config.tls.ca.files = Some(ca_files(&ca, &config.tls.ca.constrain));
    if let Some(reason) = in_use(&path, &config) {
        print_note(context, &format!("{reason}: running memory-only for this command"));
        config.store.disk = 0;
    }
    config.store.path = path;
    config
}

/// The files of the certificate authority. Each set of constraints has its own authority, since one that was
/// created for fewer hosts would be useless; only commands that larder starts trust them.
fn ca_files(directory: &Path, constrain: &[NameConstraint]) -> CaFiles {
    let mut digest = Sha256::new();
    for host in constrain {
        digest.update(host.to_string());
        digest.update([0]);
    }
    let directory = directory.join(short_name(digest));
    CaFiles { cert: directory.join("ca.pem"), key: directory.join("ca.key") }
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
