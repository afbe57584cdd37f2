//! `--fallback-direct`: a larder that may die without the command noticing.
//!
//! Owns: the listening socket, and who answers on it: larder in a process of its own, or while there is
//! none, this process, which passes everything on unseen. Never touches: what larder does.
//!
//! The socket is handed over as between two larders (`server::handover`), so no connection is refused
//! on the way to larder or back: those that wait to be accepted wait for whoever is next.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
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
use crate::cli::exec::caller_proof::CallerProof;
use crate::cli::exec::embedded::{self, DRAIN, FREE};
use crate::cli::exec::temp_dir::TempDir;
use crate::clock::{Clock, monotonic};
use crate::config::{CaFiles, Config};
use crate::frontend::listener;
use crate::route::table::Table;
use crate::server::inherited_sockets::InheritedSockets;
use crate::server::{Server, ServerDeps};
use crate::telemetry::Telemetry;

/// How long until larder is started again; doubled each time it does not last.
const AT_ONCE: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(5);

/// One that has lived this long has not died of its start.
const LASTING: Duration = Duration::from_secs(10);

/// What an ended larder may take to say what it counted.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Tunnels that began without larder go on without it.
const AS_LONG_AS_IT_LASTS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A larder in another process, and this one behind it.
pub(in crate::cli) struct SupervisedLarder {
    proxy: SocketAddr,
    proof: CallerProof,
    ca: String,
    stop: watch::Sender<bool>,
    guarding: JoinHandle<String>,
    /// The way to hand the socket over lies there, for as long as the value lives.
    _scratch: TempDir,
}

impl SupervisedLarder {
    /// Starts one for the configuration at `file`; it is ready when this returns.
    pub(super) async fn start(
        file: &Path,
        config: Config,
        verbose: bool,
        world: &mut Context<'_>,
    ) -> Result<Self, String> {
        let said = |error: io::Error| error.to_string();
        let scratch = TempDir::new(&world.env, Clock::system().now()).map_err(said)?;
        let proof = CallerProof::find();
        proof.leave_in(scratch.path()).map_err(said)?;
        let config = adapted(config, file, scratch.path(), &proof, world);
        let listener = listener::bind(FREE).map_err(said)?;
        let proxy = listener.local_addr().map_err(said)?;
        let guard = Supervisor {
            listener,
            direct: direct(&config),
            program: std::env::current_exe().map_err(said)?,
            file: file.to_owned(),
            verbose,
            offers: scratch.path().to_owned(),
            rounds: 0,
            accounts: Vec::new(),
        };
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = oneshot::channel();
        let guarding = tokio::spawn(guard.run(ready, stopped));
        is_ready.await.map_err(|_| "it did not start: see above".to_owned())?;
        let ca = match &config.tls.ca.files {
            Some(files) if config.intercepts() => fs::read_to_string(&files.cert).map_err(said)?,
            Some(_) | None => String::new(),
        };
        Ok(Self { proxy, proof, ca, stop, guarding, _scratch: scratch })
    }

    /// Where it listens.
    pub(super) fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// The user and the password that both ask for.
    pub(super) fn password(&self) -> Option<&str> {
        self.proof.password()
    }

    /// The certificate of its authority; empty where nothing is intercepted.
    pub(super) fn ca(&self) -> &str {
        &self.ca
    }

    /// Stops both; what they counted. What a larder counted that was killed is lost.
    pub(super) async fn stop(self) -> String {
        self.stop.send_replace(true);
        self.guarding.await.unwrap_or_default()
    }
}

/// A private configuration whose authority lasts as long as the command at least: the next larder must
/// be the same one to it.
pub(super) fn adapted(
    config: Config,
    file: &Path,
    offers: &Path,
    proof: &CallerProof,
    world: &mut Context<'_>,
) -> Config {
    let mut config = embedded::adapted(config, file, proof, world);
    let below = |name: &str| offers.join("ca").join(name);
    let here = || CaFiles { cert: below("ca.pem"), key: below("ca.key") };
    config.tls.ca.files.get_or_insert_with(here);
    config
}

/// The same ways to the same origins, with nothing kept and nothing intercepted.
fn direct(config: &Config) -> Config {
    let mut direct = config.clone();
    direct.routes = Table::new(Vec::new());
    direct.tls.intercept.clear();
    direct.store.disk = 0;
    direct.store.memory = 1 << 20;
    direct.limits.drain = AS_LONG_AS_IT_LASTS;
    direct
}

/// A larder in a process of its own.
struct ChildLarder {
    process: Child,
    /// It lives as long as this is open. Apart from the process: waiting for one closes its input.
    input: Option<ChildStdin>,
}

/// Sees to it that somebody answers.
struct Supervisor {
    listener: TcpListener,
    direct: Config,
    program: PathBuf,
    file: PathBuf,
    verbose: bool,
    /// The directory of the Unix sockets over which the listening socket is handed over.
    offers: PathBuf,
    rounds: u32,
    accounts: Vec<Arc<Telemetry>>,
}

impl Supervisor {
    /// Until `stop` says so; returns what was counted.
    async fn run(mut self, ready: oneshot::Sender<()>, mut stop: watch::Receiver<bool>) -> String {
        let mut ready = Some(ready);
        let mut wait = AT_ONCE;
        loop {
            let (direct, offer) = match self.stand_in() {
                Ok(standing_in) => standing_in,
                Err(error) => {
                    tracing::error!(error, "Nobody answers the command");
                    return self.pages(String::new());
                }
            };
            let Some(mut larder) =
                self.taken_over(&direct, &offer, ready.is_some(), &mut wait, &mut stop).await
            else {
                direct.stop_within(DRAIN).await;
                return self.pages(String::new());
            };
            // What this process has begun it finishes beside larder.
            tokio::spawn(direct.hand_over());
            if let Some(ready) = ready.take() {
                // Whoever waited for it has gone: then nobody needs it.
                let _told = ready.send(());
            } else {
                tracing::warn!("larder is back");
            }
            let since = monotonic();
            tokio::select! {
                status = larder.process.wait() => {
                    let status = status.map(|status| status.to_string()).unwrap_or_default();
                    tracing::warn!(status, "larder has ended: what the command asks goes straight on");
                }
                () = told(&mut stop) => {
                    let page = ended(larder).await;
                    return self.pages(page);
                }
            }
            if monotonic().saturating_duration_since(since) > LASTING {
                wait = AT_ONCE;
            }
        }
    }

    /// This process answers, and offers the socket to a larder.
    fn stand_in(&mut self) -> Result<(Server, PathBuf), String> {
        let listener = self.listener.try_clone().map_err(|error| error.to_string())?;
        let sockets = InheritedSockets::of_predecessor(vec![listener]);
        let parts = ServerDeps { sockets, ..ServerDeps::default() };
        let mut direct =
            Server::start(self.direct.clone(), parts).map_err(|error| error.to_string())?;
        self.accounts.push(Arc::clone(direct.account()));
        self.rounds += 1;
        let offer = self.offers.join(format!("{}.sock", self.rounds));
        direct.offer(&offer, false).map_err(|error| error.to_string())?;
        Ok((direct, offer))
    }

    /// Starts larders until one has taken over from `direct`; `None`: told to stop, or not even the
    /// first did.
    async fn taken_over(
        &self,
        direct: &Server,
        offer: &Path,
        first: bool,
        wait: &mut Duration,
        stop: &mut watch::Receiver<bool>,
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
                    () = told(stop) => return None,
                }
            }
            if first {
                return None;
            }
            tokio::select! {
                () = sleep(*wait) => *wait = LATEST.min(*wait * 2),
                () = told(stop) => return None,
            }
        }
    }

    fn start(&self, offer: &Path) -> io::Result<ChildLarder> {
        let mut command = Command::new(&self.program);
        command.arg("exec-serve").arg("--config").arg(&self.file).arg("--offer").arg(offer);
        if self.verbose {
            command.arg("--verbose");
        }
        // It ends when its standard input does, however this process ends. A group of its own: what is
        // typed at the terminal is for the command.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut process = command.spawn()?;
        let input = process.stdin.take();
        Ok(ChildLarder { process, input })
    }

    fn pages(&self, page: String) -> String {
        let direct = self.accounts.iter().map(|account| account.render());
        direct.fold(page, |all, page| all + "\n" + &page)
    }
}

/// Ends a larder; the page of metrics that it leaves.
async fn ended(larder: ChildLarder) -> String {
    let ChildLarder { mut process, input } = larder;
    drop(input);
    let mut page = String::new();
    let ending = async {
        if let Some(mut output) = process.stdout.take() {
            // What it could not say is not counted.
            let _read = output.read_to_string(&mut page).await;
        }
        process.wait().await
    };
    if timeout(LAST_WORDS, ending).await.is_err() {
        tracing::warn!("larder did not end in time: it is killed");
    }
    page
}

async fn told(stop: &mut watch::Receiver<bool>) {
    // Without its sender nobody waits for the command either.
    let _told = stop.wait_for(|stop| *stop).await.map(|stop| *stop);
}
