//! The operator: starts larder, and reloads, stops, kills and replaces it while clients ask.
//!
//! Owns: the process and its configuration. Never touches: what clients are to see.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use tokio::process::Command;

use crate::asking::HOST;
use crate::client::{Connection, Failure};
use crate::model::Model;
use crate::process::Larder;

/// The operator.
pub(crate) struct Operator {
    /// None only while one is replaced.
    larder: Option<Larder>,
    file: PathBuf,
    api: SocketAddr,
    proxy: SocketAddr,
    admin: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Operator {
    pub(crate) async fn start(api: SocketAddr) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("proxy.yaml");
        let free = || TcpListener::bind("127.0.0.1:0")?.local_addr();
        let (proxy, admin) = (free()?, free()?);
        write(&file, (proxy, admin), api, "1s")?;
        let larder = Larder::start(&file, &[]).await?;
        if (larder.proxy()?, larder.address("/admin")?) != (proxy, admin) {
            return Err("it serves elsewhere".into());
        }
        Ok(Self { larder: Some(larder), file, api, proxy, admin, _directory: directory })
    }

    /// Where clients connect, and where they purge.
    pub(crate) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.proxy, self.admin)
    }

    /// The next thing that an operator does.
    pub(crate) async fn act(&mut self, number: usize, model: &Model) -> Result<(), Failure> {
        let acts = ["reload", "stop", "take-over", "reload", "take-over", "kill"];
        model.acts(acts[number % acts.len()]);
        let done = match number % 6 {
            0 | 3 => self.reload(if number.is_multiple_of(6) { "2s" } else { "1s" }).await,
            1 => self.stopped().await,
            2 | 4 => self.taken_over().await,
            _ => self.killed(model).await,
        };
        let after = [
            "after a reload",
            "after a stop",
            "after a take-over",
            "after a reload",
            "after a take-over",
            "after a kill",
        ];
        model.acts(after[number % after.len()]);
        done
    }

    async fn reload(&self, ttl: &str) -> Result<(), Failure> {
        write(&self.file, (self.proxy, self.admin), self.api, ttl)?;
        let mut admin = Connection::open(self.admin).await?;
        let fields = "Content-Type: application/json\r\nContent-Length: 0\r\n";
        let host = self.admin.to_string();
        let answer = admin.ask("POST", "/v1/config/reload", &host, fields).await?;
        if answer.status == 200 { Ok(()) } else { Err("a reload failed".into()) }
    }

    async fn stopped(&mut self) -> Result<(), Failure> {
        self.kill("-TERM").await?;
        self.again().await
    }

    async fn killed(&mut self, model: &Model) -> Result<(), Failure> {
        model.killed();
        self.kill("-KILL").await?;
        self.again().await?;
        model.killed();
        Ok(())
    }

    async fn taken_over(&mut self) -> Result<(), Failure> {
        let next = Larder::start(&self.file, &["--take-over"]).await?;
        if let Some(before) = self.larder.replace(next) {
            before.ended().await?;
        }
        Ok(())
    }

    /// A new larder, once the one that was told to end has ended.
    async fn again(&mut self) -> Result<(), Failure> {
        if let Some(before) = self.larder.take() {
            before.ended().await?;
        }
        self.larder = Some(Larder::start(&self.file, &[]).await?);
        Ok(())
    }

    async fn kill(&self, signal: &str) -> Result<(), Failure> {
        let pid = self.larder.as_ref().ok_or("there is no larder")?.pid()?.to_string();
        let told = Command::new("kill").args([signal, &pid]).status().await?;
        if told.success() { Ok(()) } else { Err("it could not be told to end".into()) }
    }

    pub(crate) async fn stop(self) -> Result<bool, Failure> {
        self.larder.ok_or("there is no larder")?.stop().await
    }
}

fn write(
    file: &PathBuf,
    (proxy, admin): (SocketAddr, SocketAddr),
    api: SocketAddr,
    ttl: &str,
) -> Result<(), Failure> {
    let policy = format!("ttl: {ttl}, retry: off, stale_if_error: {{ on: [] }}");
    let yaml = format!(
        "version: 1\nlisten: {proxy}\nadmin: {{ listen: \"{admin}\" }}\nlog: {{ level: error }}\n\
         store: {{ path: store }}\nresolve: {{ {HOST}: \"{api}\" }}\nroutes:\n\
         - {{ name: shared, match: {{ host: {HOST}, path: /s/** }}, scope: shared, {policy} }}\n\
         - {{ name: own, match: {{ host: {HOST}, path: /o/** }}, {policy} }}\n"
    );
    Ok(std::fs::write(file, yaml)?)
}
