//! The real larder as a process of its own, with few places and its log in a file.
//!
//! Owns: its configuration, its start and its end. Never touches: what it answers.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::client::Failure;
use crate::{HOST, PLACES, program};

/// A larder that serves.
pub(crate) struct Larder {
    child: Child,
    pub(crate) proxy: SocketAddr,
    directory: tempfile::TempDir,
}

impl Larder {
    /// In front of the API at `origin`; returns once it serves.
    pub(crate) async fn start(origin: SocketAddr) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("proxy.yaml");
        let yaml = format!(
            r#"
version: 1
listen: 127.0.0.1:0
admin: off
limits: {{ connections: {PLACES} }}
store: {{ disk: off }}
resolve: {{ {HOST}: "{origin}" }}
routes: [{{ name: api, match: {{ host: {HOST} }}, ttl: 1h }}]
"#
        );
        std::fs::write(&file, yaml)?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let mut child = Command::new(program::larder()?)
            .args(["run", "--json"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or("its output is not piped")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await?;
        let told: serde_json::Value =
            serde_json::from_str(&line).map_err(|_| "larder did not start")?;
        let proxy = told["listen"][0].as_str().ok_or("no address")?.parse()?;
        Ok(Self { child, proxy, directory })
    }

    /// The processor time that it has taken so far, in hundredths of a second.
    pub(crate) fn cpu(&self) -> Result<u32, Failure> {
        let pid = self.child.id().ok_or("it has ended already")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold spaces: user and system time are the 12th and 13th.
        let (_, fields) = stat.rsplit_once(')').ok_or("an odd /proc")?;
        let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
        Ok(times.sum::<Result<u32, _>>()?)
    }

    /// How many lines it has logged.
    pub(crate) fn lines(&self) -> Result<usize, Failure> {
        let log = std::fs::read_to_string(self.directory.path().join("log"))?;
        Ok(log.lines().count())
    }

    /// SIGTERM, and whether it ended cleanly.
    pub(crate) async fn stop(mut self) -> Result<bool, Failure> {
        let pid = self.child.id().ok_or("it has ended already")?;
        let sent = Command::new("kill").arg(pid.to_string()).status().await?;
        if !sent.success() {
            return Err("it could not be told to stop".into());
        }
        Ok(self.child.wait().await?.success())
    }
}
