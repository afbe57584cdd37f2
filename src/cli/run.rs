//! `larder run`: the proxy, until it is told to stop.
//!
//! Owns: its arguments, what is printed at start, signals. Never touches: how requests are served.

use std::io::Write;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::account::log;
use crate::cli::{Exit, World};
use crate::config::{self, Config};
use crate::server::{Parts, Server};

/// The arguments of `larder run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration.
    #[arg(default_value = "proxy.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Print where it listens as JSON instead of the lines to copy.
    #[arg(long)]
    json: bool,
}

/// Runs until SIGTERM or SIGINT, then finishes what is in flight; a second signal ends at once.
pub fn run(args: &Args, world: &mut World<'_>) -> Exit {
    let config = match config::load(&args.config, &world.env) {
        Ok(config) => config,
        Err(report) => {
            complain(world, &format!("{report}"));
            return Exit::Invalid;
        }
    };
    log::install(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(world, &format!("larder: cannot start its threads: {error}"));
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(serve(config, args, world));
    // A look-up or a write that hangs must not keep the process.
    runtime.shutdown_background();
    exit
}

async fn serve(config: Config, args: &Args, world: &mut World<'_>) -> Exit {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (mut term, mut int) = match signals {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => {
            complain(world, &format!("larder: cannot listen for signals: {error}"));
            return Exit::Failed;
        }
    };
    let notes = config.notes.clone();
    let routes = config.routes.routes().len();
    let server = match Server::start(config, Parts::default()) {
        Ok(server) => server,
        Err(error) => {
            complain(world, &format!("larder: {error}"));
            return Exit::Failed;
        }
    };
    for note in &notes {
        tracing::warn!("{note}");
    }
    tracing::info!(
        config = %args.config.display(),
        routes,
        version = env!("CARGO_PKG_VERSION"),
        "Serving"
    );
    let told = if args.json { report(world.out, &server) } else { teach(world.out, &server) };
    if told.is_err() {
        tracing::debug!("Nobody reads standard output");
    }
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("Stopping: finishing what is in flight");
    tokio::select! {
        finished = server.stop() => {
            if finished {
                tracing::info!("Stopped");
            } else {
                tracing::warn!("Stopped; what was still in flight was cut");
            }
            Exit::Ok
        }
        _ = term.recv() => Exit::Failed,
        _ = int.recv() => Exit::Failed,
    }
}

/// The lines that a newcomer copies.
fn teach(out: &mut dyn Write, server: &Server) -> std::io::Result<()> {
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
fn report(out: &mut dyn Write, server: &Server) -> std::io::Result<()> {
    let told = serde_json::json!({ "listen": server.addrs(), "admin": server.admin_addr() });
    writeln!(out, "{told}")?;
    out.flush()
}

fn list(addresses: &[std::net::SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn complain(world: &mut World<'_>, text: &str) {
    // Nowhere is left to say that standard error is closed.
    let _closed = writeln!(world.err, "{text}");
}
