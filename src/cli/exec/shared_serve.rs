//! The process of a private larder that concurrent commands share. Not for direct use.
//!
//! Owns: its start, its sockets, and its end with the last command. Never touches: the commands.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cli::exec::caller_proof::CallerProof;
use crate::cli::exec::data_dir::Place;
use crate::cli::exec::embedded::{self, DRAIN_TIMEOUT};
use crate::cli::exec::lease::{Granted, Lease, LeaseRequest, LeaseStats, Leases, Message, Snapshot};
use crate::cli::exec::run_dir::{ADMIN_SOCKET, LEASE_SOCKET, RunDir};
use crate::cli::exec::shared::{IN_USE, READY};
use crate::cli::exec::summary::Counts;
use crate::cli::exec::{identity, peer};
use crate::cli::{Context, ExitStatus};
use crate::config::Config;
use crate::server::{Server, ServerDeps};
use crate::store::lock::{self, Lock};
use crate::telemetry::Telemetry;
use crate::telemetry::log::copies::{self, LogLine};

/// The arguments of `larder exec-shared`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration, as an absolute path.
    #[arg(long)]
    config: PathBuf,
    /// The directory of all private larders.
    #[arg(long)]
    run_dir: PathBuf,
    /// The name of this one.
    #[arg(long)]
    id: String,
    /// The directory of its store.
    #[arg(long)]
    store: Option<PathBuf>,
}

/// Serves until the last command has ended. The first line on standard output is the result of the start.
pub fn run(args: &Args, context: &mut Context<'_>) -> ExitStatus {
    // The signals of a terminal are for the commands. It fails only for the leader of a process group.
    let _session = rustix::process::setsid();
    lock::keep_files_private();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let served = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let served = runtime.block_on(serve(args, context));
        // A DNS look-up that hangs must not keep the process alive.
        runtime.shutdown_background();
        served
    });
    let Err(reason) = served else { return ExitStatus::Ok };
    // The process that reads it may be gone.
    let _printed = writeln!(context.out, "{}", reason.replace('\n', " "));
    ExitStatus::Failed
}

async fn serve(args: &Args, context: &mut Context<'_>) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let run_dir = RunDir::at(&args.run_dir).map_err(text)?;
    let (config, id) = identity::load(&args.config, args.store.as_deref(), &context.env, &run_dir.secret)?;
    if id != args.id {
        return Err("the configuration has changed meanwhile".to_owned());
    }
    let lock = run_dir.enter(&id).map_err(|error| error.to_string())?.ok_or_else(|| IN_USE.to_owned())?;
    let directory = run_dir.of(&id);
    let larder = PrivateLarder::start(config, args, &directory, context);
    let larder = match larder {
        Ok(larder) => larder,
        Err(error) => {
            run_dir.leave(&id, lock);
            return Err(error);
        }
    };
    // The process that reads it may be gone. Then no command comes, and this ends.
    let _printed = writeln!(context.out, "{READY}").and_then(|()| context.out.flush());
    larder.serve(|lock: Lock| run_dir.leave(&id, lock), lock).await;
    Ok(())
}

/// A private larder that serves commands.
struct PrivateLarder {
    server: Server,
    listener: UnixListener,
    leases: Arc<Leases>,
    granted: Granted,
    lines: broadcast::Sender<LogLine>,
    /// The statistics after its end.
    last: watch::Sender<Option<Snapshot>>,
}

impl PrivateLarder {
    fn start(config: Config, args: &Args, directory: &Path, context: &Context<'_>) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let (mut out, mut notes) = (io::sink(), Vec::new());
        let mut start = Context { env: context.env.clone(), out: &mut out, err: &mut notes };
        let place = Place { file: &args.config, store: args.store.as_deref(), runtime: Some(directory) };
        let proof = CallerProof::detect();
        let config = embedded::private_config(config, place, &proof, &mut start);
        let (log, file) = log_file(&config, directory);
        let lines = copies::install_copied(&config.log, file);
        embedded::remove_unusable_ca(&config);
        let server = Server::start(config, ServerDeps::default()).map_err(|error| error.to_string())?;
        server.serve_admin(bind(&directory.join(ADMIN_SOCKET)).map_err(text)?);
        let listener = bind(&directory.join(LEASE_SOCKET)).map_err(text)?;
        let granted = Granted {
            proxy: *server.addrs().first().ok_or("it has no listener")?,
            password: proof.password(),
            ca: server.ca().unwrap_or_default(),
            notes: String::from_utf8_lossy(&notes).lines().map(str::to_owned).collect(),
            log: log.map(|path| path.to_string_lossy().into_owned()),
        };
        let (leases, last) = (Leases::new(), watch::Sender::new(None));
        Ok(Self { server, listener, leases, granted, lines, last })
    }

    /// Serves until the last lease has ended, then stops. `leave` removes what other processes see of it.
    async fn serve(self, leave: impl FnOnce(Lock), lock: Lock) {
        let Self { server, listener, leases, granted, lines, last } = self;
        let telemetry = Arc::clone(server.telemetry());
        let mut commands = JoinSet::new();
        tokio::spawn(end_on_signal(Arc::clone(&leases)));
        let unused = Arc::clone(&leases);
        tokio::spawn(async move {
            sleep(UNUSED_TIMEOUT).await;
            unused.end_if_unused();
        });
        loop {
            let accepted = tokio::select! {
                () = leases.over() => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Usually no file descriptor is free.
                sleep(RETRY_DELAY).await;
                continue;
            };
            let command = Command {
                leases: Arc::clone(&leases),
                granted: granted.clone(),
                telemetry: Arc::clone(&telemetry),
                lines: lines.subscribe(),
                last: last.subscribe(),
            };
            commands.spawn(command.serve(stream));
        }
        drop(listener);
        server.stop_within(DRAIN_TIMEOUT).await;
        leave(lock);
        last.send_replace(Some(Snapshot::of(&telemetry)));
        let answered = async { while commands.join_next().await.is_some() {} };
        // A command that does not read its statistics must not keep the process alive.
        let _answered = timeout(ANSWER_TIMEOUT, answered).await;
    }
}

/// Ends the larder when the system stops it.
async fn end_on_signal(leases: Arc<Leases>) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    leases.end();
}

/// The connection of one command.
struct Command {
    leases: Arc<Leases>,
    granted: Granted,
    telemetry: Arc<Telemetry>,
    lines: broadcast::Receiver<LogLine>,
    last: watch::Receiver<Option<Snapshot>>,
}

impl Command {
    /// Serves it until it has ended. If its connection breaks, it has ended too.
    async fn serve(self, stream: UnixStream) {
        if peer::is_trusted(&stream)
            && let Err(error) = self.exchange(stream).await
        {
            tracing::debug!(%error, "A command has ended without its statistics");
        }
    }

    async fn exchange(mut self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut requests = BufReader::new(reader).lines();
        let Some(first) = timeout(REQUEST_TIMEOUT, requests.next_line()).await?? else { return Ok(()) };
        let LeaseRequest { verbose } = serde_json::from_str(&first)?;
        let Some(lease) = self.leases.grant() else { return Ok(()) };
        let before = Snapshot::of(&self.telemetry);
        send(&mut writer, &Message::Granted(self.granted.clone())).await?;
        loop {
            let line = tokio::select! {
                end = requests.next_line() => match end? {
                    Some(_end) => break,
                    None => return Ok(()),
                },
                line = self.lines.recv() => line,
            };
            if let Ok(LogLine { is_problem, text }) = line
                && (is_problem || verbose)
            {
                send(&mut writer, &Message::Line(text.to_string())).await?;
            }
        }
        let stats = self.stats(lease, before).await;
        send(&mut writer, &Message::Ended(Box::new(stats))).await
    }

    async fn stats(&mut self, lease: Lease, before: Snapshot) -> LeaseStats {
        let shared = lease.is_shared();
        if shared {
            // A response is counted shortly after its last byte is sent.
            settle(&self.telemetry).await;
        }
        let now = Snapshot::of(&self.telemetry);
        if !lease.end() {
            return now.since(before, shared);
        }
        // The sender outlives this task.
        let last = self.last.wait_for(Option::is_some).await.map(|last| last.clone());
        last.ok().flatten().unwrap_or(now).since(before, shared)
    }
}

/// Waits until the counters no longer change, or other commands keep changing them.
async fn settle(telemetry: &Telemetry) {
    let mut counts = Counts::parse(&telemetry.render());
    for _ in 0..MAX_POLLS {
        sleep(POLL_INTERVAL).await;
        let next = Counts::parse(&telemetry.render());
        if next == counts {
            return;
        }
        counts = next;
    }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), message: &Message) -> io::Result<()> {
    let line = serde_json::to_string(message)? + "\n";
    timeout(ANSWER_TIMEOUT, writer.write_all(line.as_bytes())).await?
}

/// Binds a socket that only its owner can connect to. This process has the lock of the directory, so an
/// existing one belongs to a killed larder.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) | Ok(()) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The file of the log: beside the data, where it stays after the end, else in `directory`.
fn log_file(config: &Config, directory: &Path) -> (Option<PathBuf>, Option<fs::File>) {
    let place = if config.store.disk == 0 { directory } else { &config.store.path };
    let path = place.join("log");
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    (opened.is_ok().then_some(path), opened.ok())
}

/// The time until the first command: the process that starts a larder connects at once.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(30);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_POLLS: usize = 5;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
