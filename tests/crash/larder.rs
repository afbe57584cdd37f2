//! The real larder as a process, to be killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The directory with larder's configuration and store, which outlives each run.
pub struct DataDir {
    directory: tempfile::TempDir,
}

impl DataDir {
    pub fn new(origin: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let yaml = format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\n\
             resolve: {{ api.example.test: \"{origin}\" }}\n\
             store: {{ path: store, memory: 4MiB, disk: 1GiB, max_object: 1MiB }}\n\
             log: {{ level: error }}\n\
             routes:\n  - {{ name: api, match: {{ host: api.example.test }}, ttl: origin }}\n"
        );
        std::fs::write(directory.path().join("proxy.yaml"), yaml).expect("a file can be written");
        Self { directory }
    }

    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }
}

/// A running larder.
pub struct Larder {
    child: Child,
    pub addr: SocketAddr,
    pub admin: SocketAddr,
}

impl Larder {
    /// Starts larder and returns when it accepts connections.
    pub fn start(data_dir: &DataDir) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["run", "--json"])
            .arg(data_dir.directory.path().join("proxy.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("it prints its addresses");
        let addresses: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        let addr = |value: &serde_json::Value| {
            value.as_str().and_then(|text| text.parse().ok()).expect("an address")
        };
        Self { addr: addr(&addresses["listen"][0]), admin: addr(&addresses["admin"]), child }
    }

    /// Kills larder with SIGKILL.
    pub fn kill(mut self) {
        assert!(self.child.try_wait().expect("it is a child").is_none(), "it ended by itself");
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// The value of the gauge `larder_entries` of the disk tier; 0 while it is absent.
    pub fn entries_on_disk(&self) -> u64 {
        let read = || {
            let mut stream = TcpStream::connect(self.admin).ok()?;
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .ok()?;
            let mut page = String::new();
            stream.read_to_string(&mut page).ok()?;
            let gauge = "larder_entries{tier=\"disk\"} ";
            page.lines().find_map(|line| line.strip_prefix(gauge))?.trim().parse().ok()
        };
        read().unwrap_or_default()
    }
}
