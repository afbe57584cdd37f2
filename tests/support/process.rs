//! The real larder as a process: its output and its exit status.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than any step of a test takes; a longer step hangs.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// The path of the larder executable.
pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_larder")
}

/// Runs a larder command that exits by itself.
pub async fn run_larder<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    // The examples in the documentation read this variable.
    command.env("CMC_API_KEY", "of-no-use");
    timeout(TIMEOUT, command.output()).await.expect("it exits").expect("it starts")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A temporary directory with a `proxy.yaml`.
pub struct ConfigDir {
    pub directory: tempfile::TempDir,
    pub config: PathBuf,
}

impl ConfigDir {
    /// A directory whose `proxy.yaml` is exactly this text.
    pub fn with(yaml: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = directory.path().join("proxy.yaml");
        std::fs::write(&config, yaml).expect("a file can be written");
        Self { directory, config }
    }
}

/// The lines that a process has printed to one stream so far.
#[derive(Clone)]
pub struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Lines {
    fn from_stream(stream: impl AsyncRead + Unpin + Send + 'static) -> (Self, JoinHandle<()>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let sink = Arc::clone(&lines);
        let reader = tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            while stream.read_until(b'\n', &mut bytes).await.is_ok_and(|n| n > 0) {
                sink.lock().push(text(&bytes).trim_end_matches('\n').to_owned());
                bytes.clear();
                sender.send_modify(|count| *count += 1);
            }
        });
        (Self { lines, count }, reader)
    }

    pub fn all(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    /// Waits for the first line that contains `part`.
    pub async fn wait_for_line(&self, part: &str) -> String {
        let mut count = self.count.clone();
        let found = async {
            loop {
                count.borrow_and_update();
                if let Some(line) = self.all().into_iter().find(|line| line.contains(part)) {
                    return Some(line);
                }
                if count.changed().await.is_err() {
                    return self.all().into_iter().find(|line| line.contains(part));
                }
            }
        };
        let found = timeout(TIMEOUT, found).await.ok().flatten();
        found.unwrap_or_else(|| panic!("no line with {part:?} in:\n{}", self.text()))
    }
}

/// A larder or a mock server that runs until it is stopped.
pub struct Process {
    pub child: Child,
    pub out: Lines,
    pub err: Lines,
    readers: [JoinHandle<()>; 2],
}

impl Process {
    pub fn start<S: AsRef<OsStr>>(arguments: &[S]) -> Self {
        let mut command = Command::new(program());
        command.args(arguments).stdin(Stdio::null());
        Self::from_command(command)
    }

    /// Starts `command`.
    pub fn from_command(mut command: Command) -> Self {
        let mut child = command
            .kill_on_drop(true)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (out, out_reader) = Lines::from_stream(child.stdout.take().expect("it is piped"));
        let (err, err_reader) = Lines::from_stream(child.stderr.take().expect("it is piped"));
        Self { child, out, err, readers: [out_reader, err_reader] }
    }

    /// Starts `larder run` with this configuration and waits until it serves. Keep the directory while the
    /// process runs.
    pub async fn run(yaml: &str) -> (Self, ConfigDir) {
        let dir = ConfigDir::with(yaml);
        let process = Self::start(&[OsStr::new("run"), dir.config.as_os_str()]);
        process.out.wait_for_line("listens on").await;
        (process, dir)
    }

    /// The same with a resource limit, given as arguments of `ulimit`.
    pub async fn run_with_ulimit(limit: &str, yaml: &str) -> (Self, ConfigDir) {
        let dir = ConfigDir::with(yaml);
        let mut command = Command::new("sh");
        let script = format!("ulimit {limit}; exec \"$0\" run \"$1\"");
        command.args(["-c", &script, program()]).arg(&dir.config).stdin(Stdio::null());
        let process = Self::from_command(command);
        process.out.wait_for_line("listens on").await;
        (process, dir)
    }

    /// Limits the process to `files` open files; files that are already open stay open.
    pub fn limit_open_files(&self, files: u32) {
        let pid = self.child.id().expect("it is still running").to_string();
        let arguments = ["--pid", &pid, &format!("--nofile={files}:")];
        let limited = std::process::Command::new("prlimit").args(arguments).status();
        assert!(limited.is_ok_and(|status| status.success()), "prlimit is part of util-linux");
    }

    /// The descriptor that the process will use for the next file it opens.
    pub fn next_fd(&self) -> u32 {
        let pid = self.child.id().expect("it is still running");
        let open = |number: &u32| Path::new(&format!("/proc/{pid}/fd/{number}")).is_symlink();
        (0..1 << 16).find(|number| !open(number)).expect("one of many")
    }

    /// The CPU time of all its threads, in steps of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let pid = self.child.id().expect("it is still running");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux");
        let (_name, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        // utime and stime are in hundredths of a second, independent of the kernel's tick.
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        Duration::from_millis(10 * ticks.map(|n| n.expect("a number")).sum::<u64>())
    }

    /// The address of the proxy listener.
    pub async fn addr(&self) -> SocketAddr {
        let line = self.out.wait_for_line("listens on").await;
        let url = line.rsplit(' ').next().expect("a line has a last word");
        url.trim_start_matches("http://").parse().unwrap_or_else(|_| panic!("no address: {line}"))
    }

    /// The address of the admin listener.
    pub async fn admin(&self) -> SocketAddr {
        let line = self.out.wait_for_line("metrics:").await;
        let addr = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        addr.and_then(|addr| addr.parse().ok()).unwrap_or_else(|| panic!("no address: {line}"))
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it is still running");
        let kill = format!("kill -{name} {pid}");
        let sent = std::process::Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{kill}");
    }

    /// Waits until the process has exited and all its output has been read.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let status = timeout(TIMEOUT, self.child.wait()).await.expect("it exits");
        for reader in &mut self.readers {
            timeout(TIMEOUT, reader).await.expect("its pipes close").expect("no panic");
        }
        status.expect("it can be waited for")
    }
}

/// Polls until `condition` is true, for conditions without an event to wait for.
pub async fn eventually(description: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(TIMEOUT, poll).await.is_ok(), "timed out: {description}");
}
