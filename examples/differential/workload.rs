//! One client: its random requests, and its checks of the responses.
//!
//! Owns: its connection, which it opens again after larder was stopped. Never touches: the ordering
//! rules (`model`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{sleep, timeout};

use crate::client::{Connection, Failure, Response};
use crate::model::{Model, RESOURCES, ReceivedVersion, Representation, Resource};

/// Longer than any request takes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The host of the API.
pub(crate) const HOST: &str = "api.example.test";

/// A client.
pub(crate) struct Client {
    model: Arc<Model>,
    proxy: SocketAddr,
    admin: SocketAddr,
    rng: StdRng,
    connection: Option<Connection>,
}

impl Client {
    pub(crate) fn new(model: Arc<Model>, (proxy, admin): (SocketAddr, SocketAddr), seed: u64) -> Self {
        Self { model, proxy, admin, rng: StdRng::seed_from_u64(seed), connection: None }
    }

    /// Sends requests until all clients together have sent `requests`.
    pub(crate) async fn run(mut self, requests: usize) {
        while self.model.requests() < requests {
            let operation = self.random_request().await;
            self.model.record_request(operation);
        }
    }

    async fn random_request(&mut self) -> &'static str {
        let resource = Resource { shared: self.rng.random(), number: self.rng.random_range(0..RESOURCES) };
        match self.rng.random_range(0..100) {
            0..78 => self.read(resource, "GET", "", "GET").await,
            78..84 => self.read(resource, "GET", "Cache-Control: no-cache\r\n", "GET, no-cache").await,
            84..87 => {
                let fields = "Cache-Control: no-cache, no-store\r\n";
                self.read(resource, "GET", fields, "GET, no-store").await
            }
            87..91 => self.read(resource, "HEAD", "", "HEAD").await,
            91..98 => self.write(resource).await,
            98 => self.purge(resource, false).await,
            _ => self.purge(resource, true).await,
        }
    }

    async fn read(
        &mut self,
        resource: Resource,
        method: &'static str,
        fields: &str,
        operation: &'static str,
    ) -> &'static str {
        let language = if self.rng.random() { "en" } else { "de" };
        let user = self.rng.random_range(0..3);
        let representation = Representation {
            resource,
            language: resource.varies().then_some(language),
            user: (!resource.shared).then_some(user),
        };
        let fields = format!("Accept-Language: {language}\r\nAuthorization: Bearer u{user}\r\n{fields}");
        let before = self.model.snapshot(&representation);
        let Some(response) = self.ask(method, resource, &fields).await else {
            return "cut by a stop";
        };
        if response.status != 200 {
            self.model
                .record_violation(format!("{representation:?}: {operation} got status {}", response.status));
        } else if method == "GET" {
            let Some((version, call)) = representation.read(&response.body) else {
                let start = String::from_utf8_lossy(&response.body[..response.body.len().min(60)]);
                self.model.record_violation(format!("{representation:?}: {operation} got {start:?}"));
                return operation;
            };
            let (hit, storable) = (response.hit, !fields.contains("no-store"));
            let received = ReceivedVersion { version, call, hit, storable, operation };
            self.model.check_response(&representation, &before, &received);
        }
        operation
    }

    async fn write(&mut self, resource: Resource) -> &'static str {
        let fields = "Content-Length: 0\r\nAuthorization: Bearer u0\r\n";
        let Some(response) = self.ask("PUT", resource, fields).await else {
            return "cut by a stop";
        };
        // larder's own errors contain no version.
        let version = std::str::from_utf8(&response.body).ok().and_then(|body| body.parse().ok());
        match response.status {
            200 => {
                self.model.require_at_least(resource, version.unwrap_or_default());
                "PUT"
            }
            409 => "PUT, refused",
            // The write may have been done, so later requests must get the current version.
            502 | 504 => {
                self.model.require_at_least(resource, version.unwrap_or_default());
                "PUT, outcome unknown"
            }
            status => {
                self.model.record_violation(format!("{resource:?}: PUT got status {status}"));
                "PUT"
            }
        }
    }

    async fn purge(&mut self, resource: Resource, soft: bool) -> &'static str {
        let version = self.model.version(resource);
        let url = format!("http://{HOST}{}", resource.path());
        let body = format!("{{\"url\":\"{url}\",\"soft\":{soft}}}");
        let request = async {
            let mut admin = Connection::open(self.admin).await?;
            let length = body.len();
            let fields = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
            // `fields` already end the head, and the body follows; the blank line behind them starts a
            // request that never comes.
            admin.send("POST", "/v1/purge", &self.admin.to_string(), &fields).await
        };
        match timeout(TIMEOUT, request).await {
            Ok(Ok(response)) if response.status == 200 => {
                self.model.require_at_least(resource, version);
                if soft { "soft purge" } else { "purge" }
            }
            Ok(Ok(response)) => {
                // A larder that is being replaced no longer writes to disk.
                if response.status != 503 {
                    self.model.record_violation(format!("a purge got status {}", response.status));
                }
                "purge, not acknowledged"
            }
            Ok(Err(_)) => "cut by a stop",
            Err(_) => {
                self.model.record_violation("a purge is stuck".to_owned());
                "purge"
            }
        }
    }

    /// The response; `None`: larder was stopped meanwhile.
    async fn ask(&mut self, method: &str, resource: Resource, fields: &str) -> Option<Response> {
        let target = format!("http://{HOST}{}", resource.path());
        let exchange = async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => Connection::open(self.proxy).await?,
            };
            let response = match method {
                "GET" => connection.get(&target, HOST, fields).await?,
                method => connection.send(method, &target, HOST, fields).await?,
            };
            Ok::<_, Failure>((response, connection))
        };
        match timeout(TIMEOUT, exchange).await {
            Ok(Ok((response, connection))) => {
                self.connection = (!response.closes_connection).then_some(connection);
                Some(response)
            }
            Ok(Err(_)) => {
                sleep(Duration::from_millis(5)).await;
                None
            }
            Err(_) => {
                self.model.record_violation(format!("{method} {target} is stuck"));
                None
            }
        }
    }
}
