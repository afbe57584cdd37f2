//! The private larder that concurrent commands share, seen from `larder exec`.
//!
//! Owns: finding or starting its process, and the connection that keeps it running. Never touches: the work
//! of that process (`shared_serve`).

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::cli::Context;
use crate::cli::exec::data_dir::Place;
use crate::cli::exec::lease::{Granted, LeaseRequest, LeaseStats, Message};
use crate::cli::exec::run_dir::{LEASE_SOCKET, RunDir};
use crate::cli::exec::{Endpoint, identity, peer};

/// The first line of the larder's process: it serves, or another process does.
pub(super) const READY: &str = "ready";
pub(super) const IN_USE: &str = "in use";

/// A private larder in a process of its own, for as long as commands use it.
pub(in crate::cli) struct SharedLarder {
    pub(super) endpoint: Endpoint,
    writer: OwnedWriteHalf,
    reader: JoinHandle<Option<Box<LeaseStats>>>,
}

impl SharedLarder {
    /// Joins the private larder of the configuration at `place`, or starts it. It accepts connections when
    /// this returns.
    pub(super) async fn join_or_start(
        place: Place<'_>,
        verbose: bool,
        context: &mut Context<'_>,
    ) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let run_dir = RunDir::open(&context.env).map_err(text)?;
        let file = identity::absolute(place.file).map_err(text)?;
        let (_, id) = identity::load(&file, place.store, &context.env, &run_dir.secret)?;
        let start = Start { file: &file, store: place.store, run_dir: &run_dir, id: &id };
        let joined = timeout(START_TIMEOUT, start.join_or_start(verbose)).await;
        let (granted, stream) = joined.map_err(|_| "the private larder does not start".to_owned())??;
        for note in &granted.notes {
            context.print_error(note);
        }
        let (requests, lines) = stream;
        let reader = tokio::spawn(read(lines, granted.log));
        let Granted { proxy, password, ca, .. } = granted;
        let endpoint = Endpoint { proxy, password, ca, private: Some(run_dir.of(&id)) };
        Ok(Self { endpoint, writer: requests, reader })
    }

    /// Ends the use of the larder and returns the statistics since its begin. If no other command uses the
    /// larder, it has stopped when this returns.
    pub(super) async fn finish(mut self) -> LeaseStats {
        let stats = async {
            self.writer.write_all(b"{}\n").await.ok()?;
            self.reader.await.ok()?
        };
        timeout(END_TIMEOUT, stats).await.ok().flatten().map(|stats| *stats).unwrap_or_default()
    }
}

type Connection = (OwnedWriteHalf, tokio::io::Lines<BufReader<OwnedReadHalf>>);

/// The facts that determine the larder.
struct Start<'a> {
    file: &'a Path,
    store: Option<&'a Path>,
    run_dir: &'a RunDir,
    id: &'a str,
}

impl Start<'_> {
    /// Tries until a larder serves: one that ends grants nothing more, and another process may start one at
    /// the same time.
    async fn join_or_start(&self, verbose: bool) -> Result<(Granted, Connection), String> {
        let mut wait = FIRST_WAIT;
        loop {
            if let Ok(Some(joined)) = self.join(verbose).await {
                return Ok(joined);
            }
            let result = self.spawn().await.map_err(|error| error.to_string())?;
            match result.as_str() {
                READY => {}
                IN_USE => {
                    sleep(wait).await;
                    wait = LONGEST_WAIT.min(wait * 2);
                }
                "" => return Err("the private larder ended at its start".to_owned()),
                reason => return Err(reason.to_owned()),
            }
        }
    }

    /// Asks the larder that runs; `None` if it is about to end.
    async fn join(&self, verbose: bool) -> io::Result<Option<(Granted, Connection)>> {
        let stream = UnixStream::connect(self.run_dir.of(self.id).join(LEASE_SOCKET)).await?;
        if !peer::is_trusted(&stream) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (reader, mut writer) = stream.into_split();
        let request = serde_json::to_string(&LeaseRequest { verbose })? + "\n";
        writer.write_all(request.as_bytes()).await?;
        let mut lines = BufReader::new(reader).lines();
        let Some(line) = lines.next_line().await? else { return Ok(None) };
        match serde_json::from_str(&line)? {
            Message::Granted(granted) => Ok(Some((granted, (writer, lines)))),
            Message::Line(_) | Message::Ended(_) => Ok(None),
        }
    }

    /// Starts its process, and returns the first line that it prints.
    async fn spawn(&self) -> io::Result<String> {
        let program = std::env::current_exe()?;
        let leaked = leaked_descriptors();
        let mut command = if leaked.is_empty() {
            Command::new(&program)
        } else {
            // Without `unsafe` only a shell closes descriptors that this process has inherited: the larder
            // must not keep a pipe or a lock of the caller's open.
            let mut shell = Command::new("/bin/sh");
            let close = leaked.iter().fold(String::new(), |close, number| close + &format!(" {number}<&-"));
            shell.arg("-c").arg(format!("exec{close}; exec \"$0\" \"$@\"")).arg(&program);
            shell
        };
        command.arg("exec-shared").arg("--config").arg(self.file);
        command.arg("--run-dir").arg(self.run_dir.path()).arg("--id").arg(self.id);
        if let Some(store) = self.store {
            command.arg("--store").arg(store);
        }
        // It keeps neither the directory of the caller nor a stream of the caller in use.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn()?;
        let Some(output) = process.stdout.take() else { return Ok(String::new()) };
        let first = BufReader::new(output).lines().next_line().await?;
        Ok(first.unwrap_or_default())
    }
}

/// The descriptors that the caller has passed on besides the standard streams, and that a shell can close.
fn leaked_descriptors() -> Vec<u32> {
    let entries = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let info = fs::read_to_string(entry.path()).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim().to_owned();
        let is_passed_on = u32::from_str_radix(&flags, 8).ok()? & CLOSE_ON_EXEC == 0;
        (is_passed_on && CLOSABLE.contains(&number)).then_some(number)
    });
    numbers.collect()
}

/// `O_CLOEXEC` of Linux, the only system with `/proc/self/fdinfo`.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// Every POSIX shell can name these descriptors.
const CLOSABLE: std::ops::RangeInclusive<u32> = 3..=9;

/// Prints the lines of the larder's log until it has sent the statistics.
async fn read(
    mut lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    log: Option<String>,
) -> Option<Box<LeaseStats>> {
    loop {
        let line = lines.next_line().await.ok().flatten();
        match line.and_then(|line| serde_json::from_str(&line).ok()) {
            Some(Message::Line(text)) => print(&text),
            Some(Message::Ended(stats)) => return Some(stats),
            Some(Message::Granted(_)) => {}
            None => {
                let log = log.map(|log| format!(": see {log}")).unwrap_or_default();
                print(&format!("larder: the private larder has ended, so calls fail{log}\n"));
                return None;
            }
        }
    }
}

/// Prints to standard error. If it is closed, the text is lost.
fn print(text: &str) {
    let _closed = io::stderr().write_all(text.as_bytes());
}

/// The longest time to join or start a larder, one that is about to end included.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time for the statistics: open connections are drained, the store is written.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// The waits while another process starts or ends the larder.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// The directory of `--store` for all processes.
pub(super) fn absolute_store(store: Option<&Path>) -> io::Result<Option<PathBuf>> {
    store.map(std::path::absolute).transpose()
}
