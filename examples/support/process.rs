//! The larder program as a separate process, for examples that run it as users do.
//!
//! Owns: its start, its log and its end. Never touches: its configuration, its responses.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::client::Failure;
use crate::program;

/// A running larder.
pub(crate) struct Larder {
    child: Child,
    /// The addresses that it printed when it began to serve.
    addresses: Value,
}

impl Larder {
    /// Starts `larder run` with this file; returns when it serves. Its log is beside the file, appended
    /// to that of earlier runs.
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
        let addresses: Value = serde_json::from_str(&line).map_err(|_| not_started(&log))?;
        Ok(Self { child, addresses })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<u32, Failure> {
        Ok(self.child.id().ok_or("the process has already exited")?)
    }

    /// The proxy address.
    pub(crate) fn proxy(&self) -> Result<SocketAddr, Failure> {
        self.address("/listen/0")
    }

    /// The address at this JSON pointer of its output, such as `/admin`.
    pub(crate) fn address(&self, pointer: &str) -> Result<SocketAddr, Failure> {
        let address = self.addresses.pointer(pointer).and_then(Value::as_str);
        Ok(address.ok_or_else(|| format!("larder printed no address at {pointer}"))?.parse()?)
    }

    /// Waits for its exit; returns whether the exit status is 0.
    pub(crate) async fn wait(mut self) -> Result<bool, Failure> {
        Ok(self.child.wait().await?.success())
    }

    /// Sends SIGTERM; returns whether it exited with status 0.
    pub(crate) async fn stop(self) -> Result<bool, Failure> {
        let pid = self.pid()?.to_string();
        if !Command::new("kill").arg(pid).status().await?.success() {
            return Err("the signal could not be sent".into());
        }
        self.wait().await
    }
}

/// The error message, with the last line of the log.
fn not_started(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    format!("larder did not start: {}", text.lines().next_back().unwrap_or_default())
}
