//! A larder in this process, on free ports, with a clock that the test turns.

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
    /// What its file says: a reload reads it again.
    file: Arc<Mutex<String>>,
}

impl Larder {
    /// A larder with this configuration; `listen`, `admin` and `version` are added, and
    /// `api.example.test` is `origin`.
    pub async fn start(origin: &Origin, yaml: &str) -> Self {
        let resolve = format!("resolve: {{ api.example.test: \"{}\" }}\n", origin.addr);
        Self::bare(&format!("{resolve}{yaml}")).await
    }

    /// A larder with one route for everything on `api.example.test`: these lines are its policy.
    pub async fn with_policy(origin: &Origin, policy: &[&str]) -> Self {
        Self::start(origin, &route(policy)).await
    }

    /// A larder with this configuration and nothing but `version`, `listen` and `admin` added.
    pub async fn bare(yaml: &str) -> Self {
        Self::with_parts(yaml, ServerDeps::default()).await
    }

    /// The same with parts of its surroundings replaced; the clock and the file always are.
    #[expect(clippy::unused_async, reason = "starting a larder is awaited, as by its users")]
    pub async fn with_parts(yaml: &str, mut parts: ServerDeps) -> Self {
        let file = Arc::new(Mutex::new(file(yaml)));
        let config = read(&file.lock()).unwrap_or_else(|report| panic!("{report}"));
        let clock = Clock::by_hand(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        parts.clock = clock.clone();
        let again = Arc::clone(&file);
        parts.source = Some(ConfigSource::new("test.yaml", move || read(&again.lock())));
        let server = Server::start(config, parts).expect("a free port");
        Self { server, clock, file }
    }

    /// Another file, read again; `api.example.test` is `origin`.
    pub async fn reload(&self, origin: &Origin, yaml: &str) -> Result<ReloadResult, ReloadError> {
        let resolve = format!("resolve: {{ api.example.test: \"{}\" }}\n", origin.addr);
        self.reload_bare(&format!("{resolve}{yaml}")).await
    }

    /// Another file with nothing but `version`, `listen` and `admin` added, read again.
    pub async fn reload_bare(&self, yaml: &str) -> Result<ReloadResult, ReloadError> {
        *self.file.lock() = file(yaml);
        self.server.controls().reload().await
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addrs()[0]
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.addr()).await
    }

    /// One request on a connection of its own.
    pub async fn get(&self, path: &str) -> Response {
        self.get_with(path, &[]).await
    }

    /// One request with these field lines on a connection of its own.
    pub async fn get_with(&self, path: &str, fields: &[&str]) -> Response {
        self.client().await.get(&format!("{API}{path}"), fields).await
    }

    /// Waits until this many clients wait for or read a running fill.
    pub async fn waiting(&self, clients: usize) {
        self.until(&format!("{clients} clients wait"), |larder| larder.server.waiting() == clients)
            .await;
    }

    /// Waits until a metric has this value: an exchange is recorded after its last byte was read.
    pub async fn counts(&self, series: &str, value: f64) {
        self.until(&format!("{series} {value}"), |larder| {
            (larder.metric(series) - value).abs() < f64::EPSILON
        })
        .await;
    }

    /// Waits until `holds`, with a bound against hanging.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..5000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("never: {what}; {} wait\n{}", self.server.waiting(), self.server.account().render());
    }

    /// The value of a metric's line that starts with `series`; 0 when it is absent.
    pub fn metric(&self, series: &str) -> f64 {
        let page = self.server.account().render();
        page.lines()
            .filter_map(|line| line.strip_prefix(series))
            .filter_map(|rest| rest.trim().parse::<f64>().ok())
            .sum()
    }
}

/// `yaml` with `version`, and with free ports where it names none. What a call does is seen one call
/// at a time: there are no retries and no holds of larder's making unless `yaml` has `defaults`.
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

fn read(text: &str) -> Result<Config, Report> {
    let mut config = config::read("test.yaml", text, &Env::default(), &Disk)?;
    if config.store.path == Path::new("larder-data") {
        // No directory of its own: memory alone.
        config.store.disk = 0;
    }
    Ok(config)
}

/// One route for everything on `api.example.test`: `policy` are its lines.
pub fn route(policy: &[&str]) -> String {
    let mut yaml =
        String::from("routes:\n  - name: api\n    match: { host: api.example.test, path: /** }\n");
    for line in policy {
        yaml.push_str(&format!("    {line}\n"));
    }
    yaml
}
