//! The larder of `larder exec --fallback-direct`, in a process of its own. Not for people.
//!
//! Owns: taking over from the process that started it, ending when that does.
//! Never touches: the command.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cli::exec::caller_proof::CallerProof;
use crate::cli::exec::embedded::DRAIN;
use crate::cli::exec::{embedded, supervisor};
use crate::cli::{Context, ExitStatus};
use crate::config::{self, Config};
use crate::server::{Server, ServerDeps, handover};

/// The arguments of `larder exec-serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration.
    #[arg(long)]
    config: PathBuf,
    /// Where the listening socket is offered.
    #[arg(long)]
    offer: PathBuf,
    /// Log as the configuration says.
    #[arg(long)]
    verbose: bool,
}

/// Serves until standard input ends, then prints its metrics.
pub fn run(args: &Args, world: &mut Context<'_>) -> ExitStatus {
    let config = match config::load(&args.config, &world.env) {
        Ok(config) => config,
        Err(report) => return said(world, &report.to_string(), ExitStatus::Invalid),
    };
    embedded::log(&config, args.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return said(world, &error.to_string(), ExitStatus::Failed),
    };
    // What there is to say the process has said that started this one.
    let (mut out, mut err) = (io::sink(), io::sink());
    let mut quiet = Context { env: world.env.clone(), out: &mut out, err: &mut err };
    let offers = args.offer.parent().unwrap_or(&args.offer);
    let proof = match CallerProof::left_in(offers) {
        Ok(proof) => proof,
        Err(error) => return said(world, &format!("larder exec: {error}"), ExitStatus::Failed),
    };
    let config = supervisor::adapted(config, &args.config, offers, &proof, &mut quiet);
    let exit = match runtime.block_on(serve(args, config)) {
        Ok(()) => ExitStatus::Ok,
        Err(error) => said(world, &format!("larder exec: {error}"), ExitStatus::Failed),
    };
    // It waits for standard input in a thread of its own.
    runtime.shutdown_background();
    exit
}

async fn serve(args: &Args, config: Config) -> Result<(), String> {
    let taken = handover::take_over(&args.offer).await.map_err(|error| error.to_string())?;
    let (sockets, before) = taken.ok_or("nobody offers a socket there")?;
    embedded::heal(&config);
    let parts = ServerDeps { sockets, takes_over: true, ..ServerDeps::default() };
    let mut server = Server::start(config, parts).map_err(|error| error.to_string())?;
    server.take_over_from(before).await.map_err(|error| error.to_string())?;
    let mut nothing = [0; 64];
    let mut input = tokio::io::stdin();
    while input.read(&mut nothing).await.is_ok_and(|read| read > 0) {}
    let account = std::sync::Arc::clone(server.account());
    server.stop_within(DRAIN).await;
    let mut output = tokio::io::stdout();
    let told = async {
        output.write_all(account.render().as_bytes()).await?;
        output.flush().await
    };
    told.await.map_err(|error: io::Error| error.to_string())
}

fn said(world: &mut Context<'_>, text: &str, exit: ExitStatus) -> ExitStatus {
    // Nowhere is left to say that standard error is closed.
    let _closed = writeln!(world.err, "{text}");
    exit
}
