//! `larder doctor`: which connections of a command went around larder, and why.
//!
//! Owns: its arguments, watching while the command runs, what is printed.
//! Never touches: the command, which runs as with `larder exec`.

mod report;
mod sockets;

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cli::doctor::report::{Findings, ReverseDns};
use crate::cli::doctor::sockets::Sockets;
use crate::cli::exec;
use crate::cli::exec::child::{ExitCode, Signals};
use crate::cli::exec::instance::Instance;
use crate::cli::{Context, ExitStatus};
use crate::config::Config;
use crate::exec_env::no_proxy::NoProxy;

/// The arguments of `larder doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "proxy.yaml")]
    config: PathBuf,
    /// Print what was found as one JSON line.
    #[arg(long)]
    json: bool,
    /// The command and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

const EXAMPLE: &str = "\
The command runs with a private larder, and all its processes are watched (on
Linux). What is found is printed to standard error when it has ended. Best
effort: it is looked for every few milliseconds, so a connection that lived
shorter may be missed, and UDP (HTTP/3) is not seen. The exit code is the
command's.

Example:
  larder doctor -- npm test";

/// How often the sockets are looked at: nobody tells of new ones.
const EVERY: Duration = Duration::from_millis(5);

/// What a name server may take for the hosts of routes.
const LOOK_UP: Duration = Duration::from_secs(2);

/// Runs the command, watches it, and says what was seen.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let examine =
        async |config: Config, world: &mut Context<'_>| examine(args, config, world).await;
    exec::with_config("doctor", &args.config, false, world, examine)
}

async fn examine(args: &Args, config: Config, world: &mut Context<'_>) -> ExitStatus {
    let failed = |world: &mut Context<'_>, said: &str, exit| {
        complain(world, &format!("larder doctor: {said}"), exit)
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return failed(world, &error.to_string(), ExitStatus::Failed),
    };
    let no_proxy = NoProxy::of(&config, &world.env);
    let names = names(&config).await;
    let larder = match Instance::own(&args.config, config, world) {
        Ok(larder) => larder,
        Err(said) => return failed(world, &said, ExitStatus::Failed),
    };
    let proxy = larder.proxy();
    keep_orphans();
    let (stop, watching) = watch();
    let ended = exec::command(&args.command, &larder, &no_proxy, world, &mut signals).await;
    drop(stop);
    let seen = watching.await.unwrap_or_default();
    let left = larder.leave().await;
    let code = match ended {
        Ok(ExitCode(code)) => code,
        Err(not_started) => return failed(world, &not_started.said, not_started.exit),
    };
    let findings = Findings::of(&seen, proxy, &names, &no_proxy, left);
    let text = if args.json { findings.json().to_string() } else { findings.text() };
    complain(world, text.trim_end(), ExitStatus::Command(code))
}

/// The addresses of the hosts that routes name, as far as they can be found now.
async fn names(config: &Config) -> ReverseDns {
    let mut names = ReverseDns::default();
    for rule in &config.resolve {
        names.add_place(rule.address, &rule.host);
    }
    for host in config.named().filter_map(|pattern| pattern.exact()) {
        let found = timeout(LOOK_UP, tokio::net::lookup_host((host, 443))).await;
        for address in found.ok().and_then(Result::ok).into_iter().flatten() {
            let ip: IpAddr = address.ip().to_canonical();
            names.add(ip, host);
        }
    }
    names
}

/// Looks at the sockets of this process's descendants until the sender is dropped.
fn watch() -> (Sender<()>, JoinHandle<Sockets>) {
    let (stop, stopped): (Sender<()>, Receiver<()>) = channel();
    let watching = tokio::task::spawn_blocking(move || {
        let mut seen = Sockets::default();
        loop {
            seen.look(std::process::id());
            if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                return seen;
            }
        }
    });
    (stop, watching)
}

/// Processes whose parent has ended stay below this one, where they are seen.
fn keep_orphans() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(io::Error::from)
    {
        tracing::debug!(%error, "Daemons are not watched");
    }
}

fn complain(world: &mut Context<'_>, text: &str, exit: ExitStatus) -> ExitStatus {
    // Nowhere is left to say that standard error is closed.
    let _closed = writeln!(world.err, "{text}");
    exit
}
