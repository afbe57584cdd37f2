//! The operator: starts larder, and reloads, stops, kills and replaces it while clients send requests.
//!
//! Owns: the process and its configuration. Never touches: the checks of responses.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use tokio::process::Command;

use crate::client::{Connection, Failure};
use crate::model::Model;
use crate::process::Larder;
use crate::workload::HOST;

/// The operator.
pub(crate) struct Operator {
    /// `None` only while a larder is replaced.
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
        let free_address = || TcpListener::bind("127.0.0.1:0")?.local_addr();
        let (proxy, admin) = (free_address()?, free_address()?);
        write(&file, (proxy, admin), api, "1s")?;
        let larder = Larder::start(&file, &[]).await?;
        if (larder.proxy()?, larder.address("/admin")?) != (proxy, admin) {
            return Err("larder serves at other addresses".into());
        }
        Ok(Self { larder: Some(larder), file, api, proxy, admin, _directory: directory })
    }

    /// The proxy address and the admin address.
    pub(crate) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.proxy, self.admin)
    }

    /// Performs the next action.
    pub(crate) async fn perform_action(&mut self, number: usize, model: &Model) -> Result<(), Failure> {
        let actions = ["reload", "stop", "take-over", "reload", "take-over", "kill"];
        model.set_action(actions[number % actions.len()]);
        let result = match number % 6 {
            0 | 3 => self.reload(if number.is_multiple_of(6) { "2s" } else { "1s" }).await,
            1 => self.stop_and_restart().await,
            2 | 4 => self.take_over().await,
            _ => self.kill_and_restart(model).await,
        };
        let after = [
            "after a reload",
            "after a stop",
            "after a take-over",
            "after a reload",
            "after a take-over",
            "after a kill",
        ];
        model.set_action(after[number % after.len()]);
        result
    }

    async fn reload(&self, ttl: &str) -> Result<(), Failure> {
        write(&self.file, (self.proxy, self.admin), self.api, ttl)?;
        let mut admin = Connection::open(self.admin).await?;
        let fields = "Content-Type: application/json\r\nContent-Length: 0\r\n";
        let host = self.admin.to_string();
        let response = admin.send("POST", "/v1/config/reload", &host, fields).await?;
        if response.status == 200 { Ok(()) } else { Err("a reload failed".into()) }
    }

    async fn stop_and_restart(&mut self) -> Result<(), Failure> {
        self.kill("-TERM").await?;
        self.restart().await
    }

    async fn kill_and_restart(&mut self, model: &Model) -> Result<(), Failure> {
        model.record_kill();
        self.kill("-KILL").await?;
        self.restart().await?;
        model.record_kill();
        Ok(())
    }

    async fn take_over(&mut self) -> Result<(), Failure> {
        let next = Larder::start(&self.file, &["--take-over"]).await?;
        if let Some(before) = self.larder.replace(next) {
            before.wait().await?;
        }
        Ok(())
    }

    /// Starts a new larder, after the stopped or killed one has exited.
    async fn restart(&mut self) -> Result<(), Failure> {
        if let Some(before) = self.larder.take() {
            before.wait().await?;
        }
        self.larder = Some(Larder::start(&self.file, &[]).await?);
        Ok(())
    }

    async fn kill(&self, signal: &str) -> Result<(), Failure> {
        let pid = self.larder.as_ref().ok_or("there is no larder")?.pid()?.to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().await?;
        if sent.success() { Ok(()) } else { Err("the signal could not be sent".into()) }
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
