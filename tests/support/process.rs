//! The real larder as a process of its own: what it prints, how it ends.

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

/// More than anything here takes; whatever takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where the program is.
pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_larder")
}

/// A verb that ends by itself.
pub async fn larder<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    // What the documentation's examples take from the environment.
    command.env("CMC_API_KEY", "of-no-use");
    timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory of its own with a `proxy.yaml` in it.
pub struct House {
    pub directory: tempfile::TempDir,
    pub config: PathBuf,
}

impl House {
    /// This text and nothing else.
    pub fn with(yaml: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = directory.path().join("proxy.yaml");
        std::fs::write(&config, yaml).expect("a file can be written");
        Self { directory, config }
    }
}

/// A stream of a process, line by line as it comes.
#[derive(Clone)]
pub struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Lines {
    fn of(stream: impl AsyncRead + Unpin + Send + 'static) -> (Self, JoinHandle<()>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (counted, count) = watch::channel(0);
        let sink = Arc::clone(&lines);
        let reading = tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            while stream.read_until(b'\n', &mut bytes).await.is_ok_and(|n| n > 0) {
                sink.lock().push(text(&bytes).trim_end_matches('\n').to_owned());
                bytes.clear();
                counted.send_modify(|count| *count += 1);
            }
        });
        (Self { lines, count }, reading)
    }

    pub fn all(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    /// The first line that contains `part`, now or as soon as it comes.
    pub async fn line(&self, part: &str) -> String {
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
        let found = timeout(PATIENCE, found).await.ok().flatten();
        found.unwrap_or_else(|| panic!("no line with {part:?} in:\n{}", self.text()))
    }
}

/// A larder, or a fake, that runs until it is told to stop.
pub struct Process {
    pub child: Child,
    pub out: Lines,
    pub err: Lines,
    reading: [JoinHandle<()>; 2],
}

impl Process {
    pub fn start<S: AsRef<OsStr>>(arguments: &[S]) -> Self {
        let mut command = Command::new(program());
        command.args(arguments).stdin(Stdio::null());
        Self::of(command)
    }

    /// What `command` starts.
    pub fn of(mut command: Command) -> Self {
        let mut child = command
            .kill_on_drop(true)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (out, reading_out) = Lines::of(child.stdout.take().expect("it is piped"));
        let (err, reading_err) = Lines::of(child.stderr.take().expect("it is piped"));
        Self { child, out, err, reading: [reading_out, reading_err] }
    }

    /// `larder run` with this configuration, serving. The directory lives as long as the process.
    pub async fn run(yaml: &str) -> (Self, House) {
        let house = House::with(yaml);
        let process = Self::start(&[OsStr::new("run"), house.config.as_os_str()]);
        process.out.line("listens on").await;
        (process, house)
    }

    /// The same under this limit, as `ulimit` takes it.
    pub async fn run_within(limit: &str, yaml: &str) -> (Self, House) {
        let house = House::with(yaml);
        let mut command = Command::new("sh");
        let script = format!("ulimit {limit}; exec \"$0\" run \"$1\"");
        command.args(["-c", &script, program()]).arg(&house.config).stdin(Stdio::null());
        let process = Self::of(command);
        process.out.line("listens on").await;
        (process, house)
    }

    /// From now on it may have at most `files` open; what is open beyond stays open.
    pub fn limit_files(&self, files: u32) {
        let pid = self.child.id().expect("it is still running").to_string();
        let arguments = ["--pid", &pid, &format!("--nofile={files}:")];
        let limited = std::process::Command::new("prlimit").args(arguments).status();
        assert!(limited.is_ok_and(|status| status.success()), "prlimit is part of every Linux");
    }

    /// The number that the next file it opens has.
    pub fn next_file(&self) -> u32 {
        let pid = self.child.id().expect("it is still running");
        let open = |number: &u32| Path::new(&format!("/proc/{pid}/fd/{number}")).is_symlink();
        (0..1 << 16).find(|number| !open(number)).expect("one of many")
    }

    /// How long it has kept a processor busy, all its threads together, to 10 ms.
    pub fn cpu(&self) -> Duration {
        let pid = self.child.id().expect("it is still running");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux");
        let (_name, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        // utime and stime, in hundredths of a second whatever the kernel's own tick is.
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        Duration::from_millis(10 * ticks.map(|n| n.expect("a number")).sum::<u64>())
    }

    /// Where clients connect.
    pub async fn addr(&self) -> SocketAddr {
        let line = self.out.line("listens on").await;
        let said = line.rsplit(' ').next().expect("a line has a last word");
        said.trim_start_matches("http://").parse().unwrap_or_else(|_| panic!("no address: {line}"))
    }

    /// Where `/metrics` is.
    pub async fn admin(&self) -> SocketAddr {
        let line = self.out.line("metrics:").await;
        let said = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        said.and_then(|said| said.parse().ok()).unwrap_or_else(|| panic!("no address: {line}"))
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it is still running");
        let kill = format!("kill -{name} {pid}");
        let sent = std::process::Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{kill}");
    }

    /// Waits for its end, and until everything it printed has been read.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends");
        for reading in &mut self.reading {
            timeout(PATIENCE, reading).await.expect("its pipes close").expect("no panic");
        }
        status.expect("it can be waited for")
    }
}

/// Waits until `reached` says yes; for what cannot be waited for by an event.
pub async fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let polled = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, polled).await.is_ok(), "{what} never came");
}
