//! `larder run`: the proxy, until it is told to stop.
//!
//! Owns: its arguments, what is printed at start, signals, where its listening sockets come from.
//! Never touches: how requests are served.

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;

use listenfd::ListenFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::config_arg::Named;
use crate::cli::{Context, ExitStatus};
use crate::config::{self, Config};
use crate::server::handover::{self, Predecessor, TakeOverError};
use crate::server::inherited_sockets::InheritedSockets;
use crate::server::reload::ConfigSource;
use crate::server::{Server, ServerDeps, StartError};
use crate::store::lock;
use crate::telemetry::log;
use crate::upstream::descriptors;

/// The arguments of `larder run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Named,
    /// Replace the larder that runs with this store, without dropping a connection: it hands its
    /// listening sockets over, finishes what is in flight, and exits. Starts as usual if none runs.
    #[arg(long)]
    take_over: bool,
    /// Print where it listens as JSON instead of the lines to copy.
    #[arg(long)]
    json: bool,
}

/// Runs until SIGTERM or SIGINT, then finishes what is in flight; a second signal ends at once.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let config = match config::load(args.config.path(), &world.env) {
        Ok(config) => config,
        Err(report) => {
            complain(world, &format!("{report}"));
            return ExitStatus::Invalid;
        }
    };
    log::install(&config.log);
    descriptors::raise(config.limits.connections);
    // The database below makes its files as the system says.
    lock::keep_files_private();
    // Before there are threads: it takes variables out of the environment.
    let given = match of_supervisor() {
        Ok(given) => given,
        Err(error) => {
            complain(world, &format!("larder: cannot use what LISTEN_FDS names: {error}"));
            return ExitStatus::Failed;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(world, &format!("larder: cannot start its threads: {error}"));
            return ExitStatus::Failed;
        }
    };
    let exit = runtime.block_on(async {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => {
                complain(world, &format!("larder: cannot listen for signals: {error}"));
                return ExitStatus::Failed;
            }
        };
        match start(config, given, args, world).await {
            Ok(server) => serve(server, &mut signals).await,
            Err(exit) => exit,
        }
    });
    // A look-up or a write that hangs must not keep the process.
    runtime.shutdown_background();
    exit
}

/// The sockets that systemd, or whoever speaks its protocol, listens on for larder.
fn of_supervisor() -> io::Result<Vec<TcpListener>> {
    let mut given = ListenFd::from_env();
    let taken = (0..given.len()).map(|index| given.take_tcp_listener(index));
    taken.filter_map(Result::transpose).collect()
}

/// The signals that larder listens for.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    /// A file grew beyond `ulimit -f`: the write fails, which is the store's business. Unheard it would end the process.
    _too_large: Signal,
}

/// `SIGXFSZ`, the same on every system that larder runs on.
const FILE_TOO_LARGE: i32 = 25;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
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

    async fn next(&mut self) -> Shutdown {
        tokio::select! {
            _ = self.term.recv() => Shutdown::Stop,
            _ = self.int.recv() => Shutdown::Stop,
            _ = self.hup.recv() => Shutdown::Reload,
        }
    }

    /// Told to stop.
    async fn stop(&mut self) {
        while self.next().await != Shutdown::Stop {}
    }
}

/// A server that accepts and whose predecessor, if there was one, has been told so.
async fn start(
    config: Config,
    given: Vec<TcpListener>,
    args: &Args,
    world: &mut Context<'_>,
) -> Result<Server, ExitStatus> {
    let failed = |world: &mut Context<'_>, error: &str| {
        complain(world, &format!("larder: {error}"));
        Err(ExitStatus::Failed)
    };
    let offer = handover::path(&config.store.path);
    let (sockets, before) = match sockets(given, &offer, args).await {
        Ok(sockets) => sockets,
        Err(error) => return failed(world, &format!("cannot take over: {error}")),
    };
    let (path, env) = (args.config.path().to_owned(), world.env.clone());
    let source =
        ConfigSource::new(args.config.path().to_string_lossy(), move || config::load(&path, &env));
    let (notes, routes) = (config.notes.clone(), config.routes.routes().len());
    let taken_over = before.is_some();
    let parts = ServerDeps {
        source: Some(source),
        sockets,
        takes_over: taken_over,
        ..ServerDeps::default()
    };
    let mut server = match Server::start(config, parts) {
        Ok(server) => server,
        Err(error) => return failed(world, &reason(&error, &offer, args.config.path()).await),
    };
    for note in &notes {
        tracing::warn!("{note}");
    }
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(config = %args.config.path().display(), routes, version, "Serving");
    if let Some(before) = before {
        let pid = before.pid();
        match server.take_over_from(before).await {
            Ok(()) => tracing::info!(pid, "Took over; the larder before finishes and exits"),
            Err(error) => tracing::warn!(pid, %error, "The larder before did not answer"),
        }
    }
    if let Err(error) = server.offer(&offer, taken_over) {
        tracing::warn!(%error, "Sockets not offered: a restart will drop connections");
    }
    let told = if args.json { report(world.out, &server) } else { teach(world.out, &server) };
    if told.is_err() {
        tracing::debug!("Nobody reads standard output");
    }
    Ok(server)
}

/// The listening sockets that others hold for this larder, and the larder that waits for it.
async fn sockets(
    given: Vec<TcpListener>,
    offer: &Path,
    args: &Args,
) -> Result<(InheritedSockets, Option<Predecessor>), TakeOverError> {
    let mut sockets = InheritedSockets::of_supervisor(given);
    if !args.take_over {
        return Ok((sockets, None));
    }
    let Some((taken, before)) = handover::take_over(offer).await? else {
        tracing::info!(offer = %offer.display(), "No larder to take over from: starting as usual");
        return Ok((sockets, None));
    };
    if sockets.is_empty() {
        sockets = taken;
    }
    Ok((sockets, Some(before)))
}

/// Why it did not start; a larder that is in the way is named with the way past it.
async fn reason(error: &StartError, offer: &Path, config: &Path) -> String {
    if let Some(address) = error.taken()
        && let Some(pid) = handover::holder(offer, address).await
    {
        return format!(
            "cannot listen on {address}: larder (pid {pid}) listens there: stop it, or replace it \
             without dropping a connection: larder run --take-over {}",
            config.display()
        );
    }
    error.to_string()
}

/// Until it is told to stop, or another larder has taken its place.
async fn serve(server: Server, signals: &mut Signals) -> ExitStatus {
    let controls = server.controls();
    let replaced = loop {
        tokio::select! {
            () = server.replaced() => break true,
            told = signals.next() => match told {
                Shutdown::Stop => break false,
                Shutdown::Reload => {
                    // What became of it is in the log; nobody waits for an answer.
                    let _told = controls.reload().await;
                }
            },
        }
    };
    let leaving = async {
        if replaced {
            tracing::info!("Another larder has taken over: finishing what is in flight");
            server.hand_over().await
        } else {
            tracing::info!("Stopping: finishing what is in flight");
            server.stop().await
        }
    };
    tokio::select! {
        finished = leaving => {
            if finished {
                tracing::info!("Stopped");
            } else {
                tracing::warn!("Stopped; what was still in flight was cut");
            }
            ExitStatus::Ok
        }
        () = signals.stop() => ExitStatus::Failed,
    }
}

/// The lines that a newcomer copies.
fn teach(out: &mut dyn Write, server: &Server) -> io::Result<()> {
    if let Some(address) = server.addrs().first() {
        let reach = if address.ip().is_unspecified() {
            format!("127.0.0.1:{}", address.port())
        } else {
            address.to_string()
        };
        writeln!(out, "larder listens on {}", list(server.addrs()))?;
        writeln!(out, "export HTTP_PROXY=http://{reach} http_proxy=http://{reach}")?;
        writeln!(out, "export NO_PROXY=localhost,127.0.0.1 no_proxy=localhost,127.0.0.1")?;
    }
    if let Some(admin) = server.admin_addr() {
        writeln!(out, "metrics: http://{admin}/metrics  health: http://{admin}/healthz")?;
    }
    out.flush()
}

/// The same for programs, in one line.
fn report(out: &mut dyn Write, server: &Server) -> io::Result<()> {
    let told = serde_json::json!({ "listen": server.addrs(), "admin": server.admin_addr() });
    writeln!(out, "{told}")?;
    out.flush()
}

fn list(addresses: &[std::net::SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn complain(world: &mut Context<'_>, text: &str) {
    // Nowhere is left to say that standard error is closed.
    let _closed = writeln!(world.err, "{text}");
}
