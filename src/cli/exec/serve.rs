//! The child process of `larder exec --fallback-direct`, which runs larder. Not for direct use.
//!
//! Owns: taking over from the parent process, and ending when the parent ends. Never touches: the command.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cli::exec::caller_proof::CallerProof;
use crate::cli::exec::data_dir::Place;
use crate::cli::exec::embedded::DRAIN_TIMEOUT;
use crate::cli::exec::{self, SpawnError, embedded, supervisor};
use crate::cli::{Context, ExitStatus};
use crate::config::Config;
use crate::server::{Server, ServerDeps, handover};

/// The arguments of `larder exec-serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration.
    #[arg(long)]
    config: PathBuf,
    /// The Unix socket on which the parent offers the listening socket.
    #[arg(long)]
    offer: PathBuf,
    /// The directory of the store.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Log at the level of the configuration.
    #[arg(long)]
    verbose: bool,
}

/// Serves until standard input is closed, then prints its metrics.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    let work = async |config: Config, context: &mut Context<'_>| {
        serve(args, config, context).await.map(|()| ExitStatus::Ok).map_err(SpawnError::failed)
    };
    exec::with_config("exec", &args.config, args.verbose, context, work)
}

async fn serve(args: &Args, config: Config, context: &Context<'_>) -> Result<(), String> {
    let message = |error: io::Error| error.to_string();
    let offer_dir = args.offer.parent().unwrap_or(&args.offer);
    let proof = CallerProof::read_from(offer_dir).map_err(message)?;
    // The parent has printed all notes already.
    let (mut out, mut err) = (io::sink(), io::sink());
    let mut quiet = Context { env: context.env.clone(), out: &mut out, err: &mut err };
    let place = Place { file: &args.config, store: args.store.as_deref(), runtime: None };
    let config = supervisor::private_config(config, place, offer_dir, &proof, &mut quiet);
    let taken = handover::take_over(&args.offer).await.map_err(|error| error.to_string())?;
    let (sockets, predecessor) = taken.ok_or("no process offers a socket there")?;
    embedded::remove_unusable_ca(&config);
    let deps = ServerDeps { sockets, takes_over: true, ..ServerDeps::default() };
    let mut server = Server::start(config, deps).map_err(|error| error.to_string())?;
    server.take_over_from(predecessor).await.map_err(|error| error.to_string())?;
    let mut buffer = [0; 64];
    let mut input = tokio::io::stdin();
    while input.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    let telemetry = std::sync::Arc::clone(server.telemetry());
    server.stop_within(DRAIN_TIMEOUT).await;
    let mut output = tokio::io::stdout();
    let printing = async {
        output.write_all(telemetry.render().as_bytes()).await?;
        output.flush().await
    };
    printing.await.map_err(message)
}
