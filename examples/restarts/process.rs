//! The real larder as a process of its own.
//!
//! Owns: starting it, asking it to reload, its end. Never touches: what it answers.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::client::Failure;

/// A larder that serves.
pub(crate) struct Larder {
    child: Child,
    pub(crate) proxy: SocketAddr,
    admin: SocketAddr,
}

impl Larder {
    /// `larder run` with this file; returns once it serves.
    pub(crate) async fn start(file: &Path, flags: &[&str]) -> Result<Self, Failure> {
        let log = Log(file.with_extension("log"));
        let mut child = Command::new(program()?)
            .args(["run", "--json"])
            .args(flags)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.open()?)
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or("its output is not piped")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await?;
        let told: serde_json::Value =
            serde_json::from_str(&line).map_err(|_| log.last("larder did not start"))?;
        let address = |value: &serde_json::Value| -> Result<SocketAddr, Failure> {
            Ok(value.as_str().ok_or("no address")?.parse()?)
        };
        let (proxy, admin) = (address(&told["listen"][0])?, address(&told["admin"])?);
        Ok(Self { child, proxy, admin })
    }

    /// `larder reload`: whether the new configuration is in force.
    pub(crate) async fn reload(&self) -> Result<bool, Failure> {
        let ended = Command::new(program()?)
            .args(["reload", "--json", "--admin"])
            .arg(self.admin.to_string())
            .stdin(Stdio::null())
            .output()
            .await?;
        match ended.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(String::from_utf8_lossy(&ended.stderr).into_owned().into()),
        }
    }

    /// Waits until it has left; whether it finished everything.
    pub(crate) async fn ended(mut self) -> Result<bool, Failure> {
        Ok(self.child.wait().await?.success())
    }

    /// SIGTERM, and its end.
    pub(crate) async fn stop(self) -> Result<bool, Failure> {
        let pid = self.child.id().ok_or("it has ended already")?;
        let sent = Command::new("kill").arg(pid.to_string()).status().await?;
        if !sent.success() {
            return Err("it could not be told to stop".into());
        }
        self.ended().await
    }
}

/// What all larders of one file write.
struct Log(PathBuf);

impl Log {
    fn open(&self) -> Result<File, Failure> {
        Ok(File::options().create(true).append(true).open(&self.0)?)
    }

    /// `what` with the last that was written.
    fn last(&self, what: &str) -> String {
        let written = std::fs::read_to_string(&self.0).unwrap_or_default();
        format!("{what}: {}", written.lines().next_back().unwrap_or_default())
    }
}

/// The program that was built beside this example.
fn program() -> Result<PathBuf, Failure> {
    let example = std::env::current_exe()?;
    let profile = example.parent().and_then(Path::parent).ok_or("not among cargo's examples")?;
    let program = profile.join("larder");
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("{} is not there: build it first (cargo build --release)", program.display())
        .into())
}
