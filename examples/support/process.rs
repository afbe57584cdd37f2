//! The real larder as a process of its own, for examples that run it as its users do.
//!
//! Owns: its start, its log and its end. Never touches: its configuration; what it answers.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::client::Failure;
use crate::program;

/// A larder that serves.
pub(crate) struct Larder {
    child: Child,
    /// What it printed when it began to serve.
    told: Value,
}

impl Larder {
    /// `larder run` with this file; returns once it serves. Its log is beside the file, behind that of
    /// earlier ones.
    pub(crate) async fn start(file: &Path, flags: &[&str]) -> Result<Self, Failure> {
        let log = file.with_extension("log");
        let mut child = Command::new(program::larder()?)
            .args(["run", "--json"])
            .args(flags)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or("its output is not piped")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await?;
        let told: Value = serde_json::from_str(&line).map_err(|_| not_started(&log))?;
        Ok(Self { child, told })
    }

    /// Its number.
    pub(crate) fn pid(&self) -> Result<u32, Failure> {
        Ok(self.child.id().ok_or("it has ended already")?)
    }

    /// Where clients connect.
    pub(crate) fn proxy(&self) -> Result<SocketAddr, Failure> {
        self.address("/listen/0")
    }

    /// The address at this place of what it printed: `/admin`.
    pub(crate) fn address(&self, place: &str) -> Result<SocketAddr, Failure> {
        let address = self.told.pointer(place).and_then(Value::as_str);
        Ok(address.ok_or_else(|| format!("larder named no address at {place}"))?.parse()?)
    }

    /// Waits until it has left; whether it finished everything.
    pub(crate) async fn ended(mut self) -> Result<bool, Failure> {
        Ok(self.child.wait().await?.success())
    }

    /// SIGTERM, and whether it ended cleanly.
    pub(crate) async fn stop(self) -> Result<bool, Failure> {
        let pid = self.pid()?.to_string();
        if !Command::new("kill").arg(pid).status().await?.success() {
            return Err("it could not be told to stop".into());
        }
        self.ended().await
    }
}

/// With the last that was logged.
fn not_started(log: &Path) -> String {
    let written = std::fs::read_to_string(log).unwrap_or_default();
    format!("larder did not start: {}", written.lines().next_back().unwrap_or_default())
}
