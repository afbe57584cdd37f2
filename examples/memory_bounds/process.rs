//! The real larder as a process of its own, and how much memory it takes.
//!
//! Owns: its configuration, its start and its end. Never touches: what it answers.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::client::Failure;
use crate::program;

/// The name of the API.
pub(crate) const HOST: &str = "api.example.test";

/// A larder that serves.
pub(crate) struct Larder {
    child: Child,
    pub(crate) proxy: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Larder {
    /// In front of the API at `origin`, `yaml` being the rest of its file; returns once it serves.
    pub(crate) async fn start(origin: SocketAddr, yaml: &str) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("proxy.yaml");
        let fixed = "version: 1\nlisten: 127.0.0.1:0\nadmin: off\nlog: { level: error }\n";
        std::fs::write(&file, format!("{fixed}resolve: {{ {HOST}: \"{origin}\" }}\n{yaml}"))?;
        let mut child = Command::new(program::larder()?)
            .args(["run", "--json"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or("its output is not piped")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await?;
        let told: serde_json::Value =
            serde_json::from_str(&line).map_err(|_| "larder did not start")?;
        let proxy = told["listen"][0].as_str().ok_or("no address")?.parse()?;
        Ok(Self { child, proxy, _directory: directory })
    }

    /// The bytes of memory that it takes: now, or at most so far.
    pub(crate) fn memory(&self, most: bool) -> Result<usize, Failure> {
        let pid = self.child.id().ok_or("it has ended already")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = if most { "VmHWM:" } else { "VmRSS:" };
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes =
            line.and_then(|line| line.split_whitespace().next()).ok_or("an odd /proc")?;
        Ok(kibibytes.parse::<usize>()? * 1024)
    }
}
