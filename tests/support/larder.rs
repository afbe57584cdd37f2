//! A larder in this process, on free ports, with a clock that the test advances.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use larder::admin::api::{ReloadError, ReloadResult};
use larder::clock::Clock;
use larder::config::{self, Config, diagnostics::Report, env::Env, file_source::Disk};
use larder::server::reload::ConfigSource;
use larder::server::{Server, ServerDeps};
use parking_lot::Mutex;

use crate::client::{Client, Response};
use crate::origin::Origin;

/// The name under which tests reach their origin.
pub const API: &str = "http://api.example.test";

/// A running larder.
pub struct Larder {
    pub server: Server,
    pub clock: Clock,
    /// The text of its configuration file; a reload reads it again.
    file: Arc<Mutex<String>>,
}

impl Larder {
    /// A larder with this configuration; `listen`, `admin` and `version` are added, and
    /// `api.example.test` resolves to `origin`.
    pub async fn start(origin: &Origin, yaml: &str) -> Self {
        let resolve = format!("resolve: {{ api.example.test: \"{}\" }}\n", origin.addr);
        Self::bare(&format!("{resolve}{yaml}")).await
    }

    /// A larder with one route for all of `api.example.test`, with these lines as its policy.
    pub async fn with_policy(origin: &Origin, policy: &[&str]) -> Self {
        Self::start(origin, &route(policy)).await
    }

    /// A larder with this configuration and nothing but `version`, `listen` and `admin` added.
    pub async fn bare(yaml: &str) -> Self {
        Self::with_deps(yaml, ServerDeps::default()).await
    }

    /// The same with other dependencies; the clock and the file are always replaced.
    pub async fn with_deps(yaml: &str, deps: ServerDeps) -> Self {
        Self::with_variables(yaml, deps, &[]).await
    }

    /// The same with these environment variables.
    #[expect(clippy::unused_async, reason = "async like the helpers that call it")]
    pub async fn with_variables(yaml: &str, mut deps: ServerDeps, variables: &[(&str, &str)]) -> Self {
        let env: Env = variables.iter().copied().collect();
        let read = move |text: &str| read(text, &env);
        let file = Arc::new(Mutex::new(file(yaml)));
        let config = read(&file.lock()).unwrap_or_else(|report| panic!("{report}"));
        let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        deps.clock = clock.clone();
        let current = Arc::clone(&file);
        deps.source = Some(ConfigSource::new("test.yaml", move || read(&current.lock())));
        let server = Server::start(config, deps).expect("a free port");
        Self { server, clock, file }
    }

    /// Reloads with another configuration; `api.example.test` resolves to `origin`.
    pub async fn reload(&self, origin: &Origin, yaml: &str) -> Result<ReloadResult, ReloadError> {
        let resolve = format!("resolve: {{ api.example.test: \"{}\" }}\n", origin.addr);
        self.reload_bare(&format!("{resolve}{yaml}")).await
    }

    /// Reloads with another configuration and nothing but `version`, `listen` and `admin` added.
    pub async fn reload_bare(&self, yaml: &str) -> Result<ReloadResult, ReloadError> {
        *self.file.lock() = file(yaml);
        self.server.admin_api().reload().await
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addrs()[0]
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.addr()).await
    }

    /// Sends one `GET` on a new connection.
    pub async fn get(&self, path: &str) -> Response {
        self.get_with(path, &[]).await
    }

    /// Sends one `GET` with these field lines on a new connection.
    pub async fn get_with(&self, path: &str, fields: &[&str]) -> Response {
        self.client().await.get(&format!("{API}{path}"), fields).await
    }

    /// Waits until this many clients wait for an in-flight fetch or read from it.
    pub async fn wait_for_waiters(&self, clients: usize) {
        self.wait_until(&format!("{clients} clients wait"), |larder| larder.server.waiting() == clients)
            .await;
    }

    /// Waits until a metric has this value; a request is recorded after the client has read its last byte.
    pub async fn wait_for_metric(&self, series: &str, value: f64) {
        self.wait_until(&format!("{series} {value}"), |larder| {
            (larder.metric(series) - value).abs() < f64::EPSILON
        })
        .await;
    }

    /// Waits until `condition` is true, with a timeout.
    pub async fn wait_until(&self, description: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..5000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!(
            "timed out: {description}; {} wait\n{}",
            self.server.waiting(),
            self.server.telemetry().render()
        );
    }

    /// The sum of the metric lines that start with `series`; 0 if there is none.
    pub fn metric(&self, series: &str) -> f64 {
        let page = self.server.telemetry().render();
        page.lines()
            .filter_map(|line| line.strip_prefix(series))
            .filter_map(|rest| rest.trim().parse::<f64>().ok())
            .sum()
    }
}

/// `yaml` with `version`, and with free ports if it has none. Retries and cooldowns after errors are off
/// unless `yaml` has `defaults`, so that each test sees the effect of a single call.
fn file(yaml: &str) -> String {
    let mut text = String::from("version: 1\n");
    if !yaml.contains("defaults:") {
        text.push_str("defaults: { retry: off, stale_if_error: { cooldown: 0s } }\n");
    }
    if !yaml.contains("listen:") {
        text.push_str("listen: 127.0.0.1:0\n");
    }
    if !yaml.contains("admin:") {
        text.push_str("admin: { listen: 127.0.0.1:0 }\n");
    }
    text.push_str(yaml);
    text
}

fn read(text: &str, env: &Env) -> Result<Config, Report> {
    let mut config = config::read("test.yaml", text, env, &Disk)?;
    if config.store.path == Path::new("larder-data") {
        // The test has configured no directory: use the memory tier only.
        config.store.disk = 0;
    }
    Ok(config)
}

/// One route for all of `api.example.test`, with the lines of `policy`.
pub fn route(policy: &[&str]) -> String {
    let mut yaml = String::from("routes:\n  - name: api\n    match: { host: api.example.test, path: /** }\n");
    for line in policy {
        yaml.push_str(&format!("    {line}\n"));
    }
    yaml
}
