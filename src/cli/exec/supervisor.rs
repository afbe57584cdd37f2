//! `--fallback-direct`: a larder that can crash without an effect on the command.
//!
//! Owns: the listening socket, and which process accepts on it: larder in a child process, or while none
//! runs, this process, which passes all requests through. Never touches: the work of larder.
//!
//! The socket is handed over as between two larders (`server::handover`), so no connection is refused in
//! either direction: connections in the backlog wait for the next process that accepts.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::cli::Context;
use crate::cli::exec::Endpoint;
use crate::cli::exec::caller_proof::CallerProof;
use crate::cli::exec::data_dir::Place;
use crate::cli::exec::embedded::{self, ANY_LOOPBACK_PORT, DRAIN_TIMEOUT};
use crate::cli::exec::temp_dir::TempDir;
use crate::clock::Clock;
use crate::config::{CaFiles, Config};
use crate::frontend::listener;
use crate::route::table::Table;
use crate::server::inherited_sockets::InheritedSockets;
use crate::server::{Server, ServerDeps};
use crate::telemetry::Telemetry;

/// The wait before larder is restarted, doubled for each start that does not last.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A larder that has run for this long has started successfully: the backoff is reset.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The longest time for a stopped larder to print its metrics and exit.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Tunnels that this process has opened continue in it, in effect without a limit.
const DIRECT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A larder in a child process, with this process as the fallback.
pub(in crate::cli) struct SupervisedLarder {
    pub(super) endpoint: Endpoint,
    stop: watch::Sender<bool>,
    task: JoinHandle<String>,
    /// The directory of the Unix sockets for the hand-over; removed with this value.
    _temp_dir: TempDir,
}

impl SupervisedLarder {
    /// Starts one for the configuration at `place`, even if another larder runs: this process does not have the
    /// socket of that one. It accepts connections when this returns.
    pub(super) async fn start(
        place: Place<'_>,
        config: Config,
        verbose: bool,
        context: &mut Context<'_>,
    ) -> Result<Self, String> {
        let message = |error: io::Error| error.to_string();
        let temp_dir = TempDir::new(&context.env, Clock::system().now()).map_err(message)?;
        let proof = CallerProof::detect();
        proof.write_to(temp_dir.path()).map_err(message)?;
        let config = private_config(config, place, temp_dir.path(), &proof, context);
        let listener = listener::bind(ANY_LOOPBACK_PORT).map_err(message)?;
        let proxy = listener.local_addr().map_err(message)?;
        let (stop, stopped) = watch::channel(false);
        let supervisor = Supervisor {
            listener,
            direct: direct(&config),
            program: std::env::current_exe().map_err(message)?,
            file: place.file.to_owned(),
            store: place.store.map(Path::to_owned),
            verbose,
            offer_dir: temp_dir.path().to_owned(),
            starts: 0,
            telemetries: Vec::new(),
            stopped,
        };
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(supervisor.run(ready));
        is_ready.await.map_err(|_| "it did not start: see above".to_owned())?;
        let ca = match &config.tls.ca.files {
            Some(files) if config.intercepts() => fs::read_to_string(&files.cert).map_err(message)?,
            Some(_) | None => String::new(),
        };
        let endpoint = Endpoint { proxy, password: proof.password(), ca, private: None };
        Ok(Self { endpoint, stop, task, _temp_dir: temp_dir })
    }

    /// Stops both processes and returns their metrics. The metrics of a killed larder are lost.
    pub(super) async fn stop(self) -> String {
        self.stop.send_replace(true);
        self.task.await.unwrap_or_default()
    }
}

/// The configuration of a private larder, with an authority that lasts at least as long as the command: the
/// command must trust the certificates of a restarted larder too.
pub(super) fn private_config(
    config: Config,
    place: Place<'_>,
    offer_dir: &Path,
    proof: &CallerProof,
    context: &mut Context<'_>,
) -> Config {
    let place = Place { runtime: Some(offer_dir), ..place };
    let mut config = embedded::private_config(config, place, proof, context);
    let ca_path = |name: &str| offer_dir.join("ca").join(name);
    let temporary = || CaFiles { cert: ca_path("ca.pem"), key: ca_path("ca.key") };
    config.tls.ca.files.get_or_insert_with(temporary);
    config
}

/// The configuration of the fallback: the same upstreams, without routes, interception and disk store.
fn direct(config: &Config) -> Config {
    let mut direct = config.clone();
    direct.routes = Table::new(Vec::new());
    direct.tls.intercept.clear();
    direct.store.disk = 0;
    direct.store.memory = 1 << 20;
    direct.limits.drain = DIRECT_DRAIN_TIMEOUT;
    direct
}

/// A larder in a child process.
struct ChildLarder {
    process: Child,
    /// The child runs as long as its standard input is open. Kept outside `process`, because waiting for a
    /// process closes its input.
    input: Option<ChildStdin>,
}

/// Keeps the listening socket served, by the child or by this process.
struct Supervisor {
    listener: TcpListener,
    direct: Config,
    program: PathBuf,
    file: PathBuf,
    store: Option<PathBuf>,
    verbose: bool,
    /// The directory of the Unix sockets over which the listening socket is handed over.
    offer_dir: PathBuf,
    starts: u32,
    telemetries: Vec<Arc<Telemetry>>,
    stopped: watch::Receiver<bool>,
}

impl Supervisor {
    /// Runs until `stopped` is set, and returns the metrics of both processes.
    async fn run(mut self, ready: oneshot::Sender<()>) -> String {
        let mut ready = Some(ready);
        let mut wait = FIRST_BACKOFF;
        loop {
            let (direct, offer) = match self.start_direct() {
                Ok(started) => started,
                Err(error) => {
                    tracing::error!(error, "No proxy is serving the command");
                    return self.all_metrics(String::new());
                }
            };
            let Some(mut larder) =
                self.start_until_taken_over(&direct, &offer, ready.is_some(), &mut wait).await
            else {
                direct.stop_within(DRAIN_TIMEOUT).await;
                return self.all_metrics(String::new());
            };
            // This process finishes its own requests, in parallel with larder.
            tokio::spawn(direct.hand_over());
            if let Some(ready) = ready.take() {
                // If the receiver is dropped, the start was cancelled.
                let _sent = ready.send(());
            } else {
                tracing::warn!("larder is running again");
            }
            let since = Clock::timer_now();
            tokio::select! {
                status = larder.process.wait() => {
                    let status = status.map(|status| status.to_string()).unwrap_or_default();
                    tracing::warn!(status, "larder has ended: requests go directly to their origins");
                }
                () = self.stop_requested() => {
                    let page = stop_child(larder).await;
                    return self.all_metrics(page);
                }
            }
            if since.elapsed() > STABLE_AFTER {
                wait = FIRST_BACKOFF;
            }
        }
    }

    /// Starts to serve in this process, and offers the socket to a larder.
    fn start_direct(&mut self) -> Result<(Server, PathBuf), String> {
        let listener = self.listener.try_clone().map_err(|error| error.to_string())?;
        let sockets = InheritedSockets::from_predecessor(vec![listener]);
        let deps = ServerDeps { sockets, ..ServerDeps::default() };
        let mut direct = Server::start(self.direct.clone(), deps).map_err(|error| error.to_string())?;
        self.telemetries.push(Arc::clone(direct.telemetry()));
        self.starts += 1;
        let offer = self.offer_dir.join(format!("{}.sock", self.starts));
        direct.offer(&offer, false).map_err(|error| error.to_string())?;
        Ok((direct, offer))
    }

    /// Starts larders until one has taken over from `direct`. `None`: `stopped` is set, or the first
    /// start failed.
    async fn start_until_taken_over(
        &self,
        direct: &Server,
        offer: &Path,
        first: bool,
        wait: &mut Duration,
    ) -> Option<ChildLarder> {
        loop {
            let mut larder = match self.start(offer) {
                Ok(larder) => Some(larder),
                Err(error) => {
                    tracing::warn!(%error, "larder cannot be started");
                    None
                }
            };
            if let Some(started) = &mut larder {
                tokio::select! {
                    () = direct.replaced() => return larder,
                    _ended = started.process.wait() => {}
                    () = self.stop_requested() => return None,
                }
            }
            if first {
                return None;
            }
            tokio::select! {
                () = sleep(*wait) => *wait = MAX_BACKOFF.min(*wait * 2),
                () = self.stop_requested() => return None,
            }
        }
    }

    fn start(&self, offer: &Path) -> io::Result<ChildLarder> {
        let mut command = Command::new(&self.program);
        command.arg("exec-serve").arg("--config").arg(&self.file).arg("--offer").arg(offer);
        if self.verbose {
            command.arg("--verbose");
        }
        if let Some(store) = &self.store {
            command.arg("--store").arg(store);
        }
        // It ends when its standard input is closed, in whatever way this process ends. It has its own
        // process group, so that signals of the terminal reach only the command.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut process = command.spawn()?;
        let input = process.stdin.take();
        Ok(ChildLarder { process, input })
    }

    async fn stop_requested(&self) {
        // An error means that the sender is dropped, which ends the supervision too.
        let _stopped = self.stopped.clone().wait_for(|stop| *stop).await.map(|stop| *stop);
    }

    fn all_metrics(&self, page: String) -> String {
        let direct = self.telemetries.iter().map(|telemetry| telemetry.render());
        direct.fold(page, |all, page| all + "\n" + &page)
    }
}

/// Stops a child and returns its metrics.
async fn stop_child(larder: ChildLarder) -> String {
    let ChildLarder { mut process, input } = larder;
    drop(input);
    let mut page = String::new();
    let stopping = async {
        if let Some(mut output) = process.stdout.take() {
            // If the read fails, the rest of the metrics is missing.
            let _read = output.read_to_string(&mut page).await;
        }
        process.wait().await
    };
    if timeout(STOP_TIMEOUT, stopping).await.is_err() {
        tracing::warn!("larder did not stop in time and is killed");
    }
    page
}
