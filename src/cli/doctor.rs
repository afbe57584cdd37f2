//! `larder doctor`: lists the connections of a command that bypassed larder, with the likely reasons.
//!
//! Owns: its arguments, watching the command's sockets, and its output.
//! Never touches: the command, which runs as with `larder exec`.

mod report;
mod sockets;

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cli::doctor::report::{Findings, ReverseDns};
use crate::cli::doctor::sockets::Sockets;
use crate::cli::exec::child::Signals;
use crate::cli::exec::data_dir::Place;
use crate::cli::exec::embedded::EmbeddedLarder;
use crate::cli::exec::instance::Instance;
use crate::cli::exec::{self, CommandArgs, SpawnError};
use crate::cli::{Context, ExitStatus};
use crate::config::Config;
use crate::exec_env::no_proxy::NoProxy;

/// The arguments of `larder doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    command: CommandArgs,
    /// Print the findings as one JSON line.
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
The command runs with a private larder, and all its processes are watched (on
Linux). The findings are printed to standard error when it has ended. The
sockets are scanned every few milliseconds, so a shorter connection may be
missed, and UDP (HTTP/3) is not seen. The exit code is the command's.

Example:
  larder doctor -- npm test";

/// The interval between scans of the sockets: the system does not notify of new ones.
const SCAN_INTERVAL: Duration = Duration::from_millis(5);

/// The longest DNS look-up of a route's host.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the command, watches it, and prints the findings.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let file = match args.command.config.locate(context) {
        Ok(file) => file,
        Err(exit) => return exit,
    };
    let examine =
        async |config: Config, context: &mut Context<'_>| examine(args, &file, config, context).await;
    exec::with_config("doctor", &file, false, context, examine)
}

async fn examine(
    args: &Args,
    file: &Path,
    config: Config,
    context: &mut Context<'_>,
) -> Result<ExitStatus, SpawnError> {
    let mut signals = Signals::new().map_err(|error| SpawnError::failed(error.to_string()))?;
    let no_proxy = NoProxy::from_config(&config, &context.env);
    let reverse_dns = reverse_dns(&config).await;
    let larder = EmbeddedLarder::start(Place { file, store: None, runtime: None }, config, context);
    let larder = larder.map(Instance::Embedded).map_err(SpawnError::failed)?;
    let proxy = larder.endpoint().proxy;
    adopt_orphans();
    let (stop, watching) = watch();
    let ended = exec::command(&args.command.command, &larder, &no_proxy, context, &mut signals).await;
    drop(stop);
    let seen = watching.await.unwrap_or_default();
    let stats = larder.finish().await;
    let exit = ExitStatus::Command(ended?);
    let findings = Findings::new(&seen, proxy, &reverse_dns, &no_proxy, stats);
    let text = if args.json { findings.to_json().to_string() } else { findings.to_text() };
    context.print_error(text.trim_end());
    Ok(exit)
}

/// The addresses of the hosts in routes, from `resolve` rules and DNS look-ups.
async fn reverse_dns(config: &Config) -> ReverseDns {
    let mut reverse_dns = ReverseDns::default();
    for rule in &config.resolve {
        reverse_dns.add_endpoint(rule.address, &rule.host);
    }
    for host in config.interception_patterns().filter_map(|pattern| pattern.exact()) {
        let found = timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, 443))).await;
        for address in found.ok().and_then(Result::ok).into_iter().flatten() {
            let ip: IpAddr = address.ip().to_canonical();
            reverse_dns.add(ip, host);
        }
    }
    reverse_dns
}

/// Scans the sockets of this process's descendants until the sender is dropped.
fn watch() -> (Sender<()>, JoinHandle<Sockets>) {
    let (stop, stopped): (Sender<()>, Receiver<()>) = channel();
    let watching = tokio::task::spawn_blocking(move || {
        let mut seen = Sockets::default();
        loop {
            seen.scan(std::process::id());
            if stopped.recv_timeout(SCAN_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return seen;
            }
        }
    });
    (stop, watching)
}

/// Makes this process the parent of orphaned descendants, so that they are scanned too.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)
    {
        tracing::debug!(%error, "Daemons are not watched");
    }
}
