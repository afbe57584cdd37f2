//! The API over HTTPS, and apps that run with and without larder.
//!
//! Owns: the configuration, and starting an app. Never touches: the evaluation of the counts.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use larder::fake::discord::{self, Fake};
use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::time::timeout;

use crate::Workload;
use crate::client::Failure;
use crate::figures::Presented;
use crate::program;
use crate::tls::TlsFrontend;

/// The API's host: a name that resolves with and without larder, so that an app's URL is the same in
/// both cases.
const HOST: &str = "localhost";
/// A host without a route.
const OTHER: &str = "other.example.test";

/// A time limit that no run reaches.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A program of `examples/apps`.
#[derive(Clone, Copy)]
pub(crate) struct App {
    pub(crate) name: &'static str,
    runtime: &'static str,
    file: &'static str,
}

impl App {
    pub(crate) const PYTHON: Self = Self { name: "Python", runtime: "python3", file: "visits.py" };
    pub(crate) const NODE: Self = Self { name: "Node", runtime: "node", file: "visits.mjs" };
    const PRESENTED: Self = Self { name: "", runtime: "python3", file: "presented.py" };

    fn path(self) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/apps").join(self.file);
        path.to_string_lossy().into_owned()
    }
}

/// The setup that all runs share.
pub(crate) struct Testbed {
    discord: Fake,
    api: TlsFrontend,
    other: TlsFrontend,
    directory: tempfile::TempDir,
}

impl Testbed {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let address: SocketAddr = "127.0.0.1:0".parse()?;
        let discord = discord::start(address, discord::Options::default()).await?;
        let api = TlsFrontend::start(HOST, discord.addr).await?;
        let other = TlsFrontend::start(OTHER, discord.addr).await?;
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("root.pem"), &api.root)?;
        let yaml = format!(
            r#"
version: 1
listen: 127.0.0.1:0
admin: {{ listen: 127.0.0.1:0 }}
log: {{ level: warn }}
resolve: {{ {HOST}: "{api}", {OTHER}: "{other}" }}
upstreams:
  discord: {{ hosts: [{HOST}], tls: {{ extra_roots: [root.pem] }} }}
routes:
  - name: guild
    match: {{ host: "{HOST}:{port}", method: GET, path: "/api/{{v}}/guilds/**" }}
    scope: shared
    ttl: 30m
"#,
            api = api.addr,
            other = other.addr,
            port = api.addr.port(),
        );
        std::fs::write(directory.path().join("proxy.yaml"), yaml)?;
        Ok(Self { discord, api, other, directory })
    }

    /// The number of calls to the API while the app runs.
    pub(crate) async fn count_calls(
        &self,
        app: App,
        workload: Workload,
        with_larder: bool,
    ) -> Result<u64, Failure> {
        let before = self.discord.calls().total;
        let api = format!("https://{HOST}:{}", self.api.addr.port());
        let (users, visits) = (workload.users.to_string(), workload.visits.to_string());
        self.run(app, &[&api, &users, &visits], with_larder).await?;
        Ok(self.discord.calls().total - before)
    }

    /// Checks the certificates that hosts present to a client of larder.
    pub(crate) async fn presented(&self) -> Result<Presented, Failure> {
        let hosts = [(HOST, &self.api), (OTHER, &self.other)];
        let places = hosts.map(|(host, tls_frontend)| format!("{host}:{}", tls_frontend.addr.port()));
        let output = self.run(App::PRESENTED, &[&places[0], &places[1]], true).await?;
        let mut seen = output.lines();
        let mut is_own = |tls_frontend: &TlsFrontend| {
            let digest = Sha256::digest(&tls_frontend.leaf);
            let own: Vec<_> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            seen.next().map(|seen| seen == own.concat()).ok_or("a certificate is missing")
        };
        Ok(Presented { named_is_own: is_own(&self.api)?, other_is_own: is_own(&self.other)? })
    }

    pub(crate) async fn stop(self) {
        self.discord.stop().await;
    }

    /// Runs an app and returns its output. The app's environment makes it trust the API's root, with and
    /// without larder.
    async fn run(&self, app: App, arguments: &[&str], with_larder: bool) -> Result<String, Failure> {
        let directory = self.directory.path();
        let mut command = if with_larder {
            let mut command = Command::new(program::larder()?);
            command.args(["exec", "--config", "proxy.yaml", "--", app.runtime]);
            command
        } else {
            Command::new(app.runtime)
        };
        command.arg(app.path()).args(arguments).current_dir(directory).stdin(Stdio::null());
        for name in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
            command.env(name, directory.join("root.pem"));
        }
        // Each app has its own store, so that entries of one app save no calls of the other.
        command.env("XDG_CACHE_HOME", directory.join(app.file)).kill_on_drop(true);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"] {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        let output = timeout(TIMEOUT, command.output()).await??;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{} exited with {}:\n{errors}", app.file, output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
