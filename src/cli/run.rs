//! `larder run`: runs the proxy until a signal stops it.
//!
//! Owns: its arguments, the output at the start, signals, the source of its listening sockets.
//! Never touches: the handling of requests.

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;

use listenfd::ListenFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::admin_client::connect_address;
use crate::cli::{ConfigArg, Context, ExitStatus};
use crate::config::{self, Config, describe};
use crate::server::handover::{self, Predecessor, TakeOverError};
use crate::server::inherited_sockets::InheritedSockets;
use crate::server::reload::ConfigSource;
use crate::server::{Server, ServerDeps, StartError};
use crate::store::lock;
use crate::telemetry::log;
use crate::upstream::connect::descriptors;

/// The arguments of `larder run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Replace the larder that runs with this store, without dropping a connection: it hands its
    /// listening sockets over, finishes its requests, and exits. If none runs, start as usual.
    #[arg(long)]
    take_over: bool,
    /// Print the addresses as JSON instead of the lines to copy.
    #[arg(long)]
    json: bool,
}

/// Runs until SIGTERM or SIGINT, then finishes the requests in flight; a second signal ends at once.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    if let Err(exit) = args.config.locate(context) {
        return exit;
    }
    match context.load(args.config.path()) {
        Ok(config) => try_run(args, config, context)
            .unwrap_or_else(|error| context.fail(format!("larder: {error}"), ExitStatus::Failed)),
        Err(exit) => exit,
    }
}

fn try_run(args: &Args, config: Config, context: &mut Context<'_>) -> Result<ExitStatus, String> {
    log::install(&config.log);
    descriptors::raise_limit(config.limits.connections);
    // The database library creates its files with the default permissions.
    lock::keep_files_private();
    // Before any thread starts, since this removes variables from the environment.
    let given =
        supervisor_sockets().map_err(|error| format!("cannot use the sockets of LISTEN_FDS: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start its threads: {error}"))?;
    let exit = runtime.block_on(async {
        let mut signals = Signals::new().map_err(|error| format!("cannot listen for signals: {error}"))?;
        let server = start(config, given, args, context).await?;
        Ok(serve(server, &mut signals).await)
    });
    // A DNS look-up or a write that hangs must not keep the process alive.
    runtime.shutdown_background();
    exit
}

/// The listening sockets from systemd, or from another supervisor with its protocol.
fn supervisor_sockets() -> io::Result<Vec<TcpListener>> {
    let mut given = ListenFd::from_env();
    let taken = (0..given.len()).map(|index| given.take_tcp_listener(index));
    taken.filter_map(Result::transpose).collect()
}

/// The signals that larder listens for.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    /// A file exceeds `ulimit -f`: the write fails, and the store handles the error. Without a handler, the
    /// signal would end the process.
    _too_large: Signal,
}

/// `SIGXFSZ`, the same on every system that larder runs on.
const FILE_TOO_LARGE: i32 = 25;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignalAction {
    Stop,
    Reload,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            _too_large: signal(SignalKind::from_raw(FILE_TOO_LARGE))?,
        })
    }

    async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.term.recv() => SignalAction::Stop,
            _ = self.int.recv() => SignalAction::Stop,
            _ = self.hup.recv() => SignalAction::Reload,
        }
    }

    /// Waits for a signal to stop.
    async fn stop(&mut self) {
        while self.next().await != SignalAction::Stop {}
    }
}

/// Starts the server, and notifies the predecessor, if there is one, that the server accepts connections.
async fn start(
    config: Config,
    given: Vec<TcpListener>,
    args: &Args,
    context: &mut Context<'_>,
) -> Result<Server, String> {
    let offer = handover::path(&config.store.path);
    let (sockets, predecessor) =
        sockets(given, &offer, args).await.map_err(|error| format!("cannot take over: {error}"))?;
    let (path, env) = (args.config.path().to_owned(), context.env.clone());
    let source = ConfigSource::new(args.config.path().to_string_lossy(), move || config::load(&path, &env));
    let warnings: Vec<_> = config.warnings_to_log().cloned().collect();
    let routes = config.routes.routes().len();
    let (taken_over, parents) = (predecessor.is_some(), config.proxies.describe());
    let deps = ServerDeps { source: Some(source), sockets, takes_over: taken_over, ..ServerDeps::default() };
    let mut server = match Server::start(config, deps) {
        Ok(server) => server,
        Err(error) => return Err(start_error(&error, &offer, args.config.path()).await),
    };
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(config = %args.config.path().display(), routes, version, "Serving");
    if let Some(predecessor) = predecessor {
        let pid = predecessor.pid();
        match server.take_over_from(predecessor).await {
            Ok(()) => tracing::info!(pid, "Took over; the previous larder finishes its requests and exits"),
            Err(error) => tracing::warn!(pid, %error, "The previous larder did not respond"),
        }
    }
    server.log_traffic();
    if let Err(error) = server.offer(&offer, taken_over) {
        tracing::warn!(%error, "Sockets not offered: a restart will drop connections");
    }
    let config_file = args.config.path();
    let printed = if args.json {
        print_json(context.out, &server)
    } else {
        print_text(context.out, &server, config_file, parents.as_deref())
    };
    if printed.is_err() {
        tracing::debug!("Standard output is closed");
    }
    Ok(server)
}

/// The listening sockets that a supervisor or a predecessor passes to this larder, and that predecessor.
async fn sockets(
    given: Vec<TcpListener>,
    offer: &Path,
    args: &Args,
) -> Result<(InheritedSockets, Option<Predecessor>), TakeOverError> {
    let mut sockets = InheritedSockets::from_supervisor(given);
    if !args.take_over {
        return Ok((sockets, None));
    }
    let Some((taken, predecessor)) = handover::take_over(offer).await? else {
        tracing::info!(offer = %offer.display(), "No larder to take over from: starting as usual");
        return Ok((sockets, None));
    };
    if sockets.is_empty() {
        sockets = taken;
    }
    Ok((sockets, Some(predecessor)))
}

/// The reason why the server did not start. If another larder has the address, the text names it and the fix.
async fn start_error(error: &StartError, offer: &Path, config: &Path) -> String {
    if let Some(address) = error.address_in_use()
        && let Some(pid) = handover::listening_pid(offer, address).await
    {
        return format!(
            "cannot listen on {address}: larder (pid {pid}) listens there: stop it, or replace it \
             without dropping a connection: larder run --take-over {}",
            config.display()
        );
    }
    error.to_string()
}

/// Serves until a signal stops it, or until another larder has taken over.
async fn serve(server: Server, signals: &mut Signals) -> ExitStatus {
    let admin_api = server.admin_api();
    let replaced = loop {
        tokio::select! {
            () = server.replaced() => break true,
            action = signals.next() => match action {
                SignalAction::Stop => break false,
                SignalAction::Reload => {
                    // The result is in the log.
                    let _reloaded = admin_api.reload().await;
                }
            },
        }
    };
    let shutdown = async {
        if replaced {
            tracing::info!("Another larder has taken over: finishing the requests in flight");
            server.hand_over().await
        } else {
            tracing::info!("Stopping: finishing the requests in flight");
            server.stop().await
        }
    };
    tokio::select! {
        finished = shutdown => {
            if finished {
                tracing::info!("Stopped");
            } else {
                tracing::warn!("Stopped; unfinished requests were cut");
            }
            ExitStatus::Ok
        }
        () = signals.stop() => ExitStatus::Failed,
    }
}

/// Prints the addresses and the lines to copy.
fn print_text(
    out: &mut dyn Write,
    server: &Server,
    config_file: &Path,
    parents: Option<&str>,
) -> io::Result<()> {
    if let Some(address) = server.addrs().first() {
        writeln!(out, "larder listens on {}", describe::list(server.addrs()))?;
        if server.admin_addr().is_some() {
            writeln!(out, "{}", start_line(config_file))?;
        } else {
            // Without an admin listener, no command finds this larder.
            let proxy = format!("http://{}", connect_address(*address));
            writeln!(
                out,
                "your app:  HTTP_PROXY={proxy} http_proxy={proxy} CMD   (HTTP alone: `admin: off`)"
            )?;
        }
    }
    if let Some(parents) = parents {
        writeln!(out, "origins are reached through the parent proxy {parents}")?;
    }
    if let Some(admin) = server.admin_addr() {
        writeln!(out, "metrics: http://{admin}/metrics  health: http://{admin}/healthz")?;
    }
    out.flush()
}

/// How to start an app through this larder, so that its HTTPS is included.
fn start_line(config_file: &Path) -> String {
    let config_file = config_file.display().to_string();
    // In the configuration's own directory the flag is not needed. A name with other characters is quoted.
    let is_plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    let option = match config_file.as_str() {
        "proxy.yaml" => String::new(),
        path if path.chars().all(is_plain) => format!(" --config {path}"),
        path => format!(" --config '{}'", path.replace('\'', "'\\''")),
    };
    format!("your app:  larder exec{option} -- CMD   or   eval \"$(larder env{option})\"")
}

/// Prints the addresses as one JSON line.
fn print_json(out: &mut dyn Write, server: &Server) -> io::Result<()> {
    let value = serde_json::json!({ "listen": server.addrs(), "admin": server.admin_addr() });
    writeln!(out, "{value}")?;
    out.flush()
}
