//! One client: what it asks by chance, and what it makes of the answers.
//!
//! Owns: its connection, and that it asks again where larder was stopped under its hands. Never touches: the rules
//! of order (`model`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use crate::client::{Answer, Connection, Failure};
use crate::model::{Model, RESOURCES, Resource, Which};

/// Longer than anything here takes.
const STUCK: Duration = Duration::from_secs(20);

/// The name of the API.
pub(crate) const HOST: &str = "api.example.test";

/// A client.
pub(crate) struct Asking {
    model: Arc<Model>,
    proxy: SocketAddr,
    admin: SocketAddr,
    chance: StdRng,
    connection: Option<Connection>,
}

impl Asking {
    pub(crate) fn new(
        model: Arc<Model>,
        (proxy, admin): (SocketAddr, SocketAddr),
        seed: u64,
    ) -> Self {
        Self { model, proxy, admin, chance: StdRng::seed_from_u64(seed), connection: None }
    }

    /// Asks until all have asked so often together.
    pub(crate) async fn until(mut self, requests: usize) {
        while self.model.asked() < requests {
            let what = self.one().await;
            self.model.over(what);
        }
    }

    async fn one(&mut self) -> &'static str {
        let resource = Resource {
            shared: self.chance.random(),
            number: self.chance.random_range(0..RESOURCES),
        };
        match self.chance.random_range(0..100) {
            0..78 => self.read(resource, "GET", "", "GET").await,
            78..84 => {
                self.read(resource, "GET", "Cache-Control: no-cache\r\n", "GET, no-cache").await
            }
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
        what: &'static str,
    ) -> &'static str {
        let language = if self.chance.random() { "en" } else { "de" };
        let user = self.chance.random_range(0..3);
        let which = Which {
            resource,
            language: resource.varies().then_some(language),
            user: (!resource.shared).then_some(user),
        };
        let fields =
            format!("Accept-Language: {language}\r\nAuthorization: Bearer u{user}\r\n{fields}");
        let before = self.model.before(&which);
        let Some(answer) = self.ask(method, resource, &fields).await else {
            return "cut by a stop";
        };
        if answer.status != 200 {
            self.model.violated(format!("{which:?}: {what} was answered {}", answer.status));
        } else if method == "GET" {
            let Some(told) = which.read(&answer.body) else {
                let begins = String::from_utf8_lossy(&answer.body[..answer.body.len().min(60)]);
                self.model.violated(format!("{which:?}: {what} got {begins:?}"));
                return what;
            };
            let kept = !fields.contains("no-store");
            self.model.answered(&which, &before, told, (answer.hit, kept), what);
        }
        what
    }

    async fn write(&mut self, resource: Resource) -> &'static str {
        let fields = "Content-Length: 0\r\nAuthorization: Bearer u0\r\n";
        let Some(answer) = self.ask("PUT", resource, fields).await else { return "cut by a stop" };
        // larder's own errors name none.
        let version = std::str::from_utf8(&answer.body).ok().and_then(|body| body.parse().ok());
        match answer.status {
            200 => {
                self.model.changed(resource, version.unwrap_or_default());
                "PUT"
            }
            409 => "PUT, refused",
            // It may have been done, so whoever asks now is to be told what there is.
            502 | 504 => {
                self.model.changed(resource, version.unwrap_or_default());
                "PUT, outcome unknown"
            }
            status => {
                self.model.violated(format!("{resource:?}: PUT was answered {status}"));
                "PUT"
            }
        }
    }

    async fn purge(&mut self, resource: Resource, soft: bool) -> &'static str {
        let version = self.model.version(resource);
        let url = format!("http://{HOST}{}", resource.path());
        let body = format!("{{\"url\":\"{url}\",\"soft\":{soft}}}");
        let purged = async {
            let mut admin = Connection::open(self.admin).await?;
            let length = body.len();
            let fields =
                format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
            // The blank line behind the fields is that of a request to come, which never does.
            admin.ask("POST", "/v1/purge", &self.admin.to_string(), &fields).await
        };
        match timeout(STUCK, purged).await {
            Ok(Ok(answer)) if answer.status == 200 => {
                self.model.changed(resource, version);
                if soft { "soft purge" } else { "purge" }
            }
            Ok(Ok(answer)) => {
                // A larder that another one takes over from keeps nothing on disk any more.
                if answer.status != 503 {
                    self.model.violated(format!("a purge was answered {}", answer.status));
                }
                "purge, not acknowledged"
            }
            Ok(Err(_)) => "cut by a stop",
            Err(_) => {
                self.model.violated("a purge is stuck".to_owned());
                "purge"
            }
        }
    }

    /// The answer; `None`: larder was stopped meanwhile.
    async fn ask(&mut self, method: &str, resource: Resource, fields: &str) -> Option<Answer> {
        let target = format!("http://{HOST}{}", resource.path());
        let asked = async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => Connection::open(self.proxy).await?,
            };
            let answer = match method {
                "GET" => connection.get(&target, HOST, fields).await?,
                method => connection.ask(method, &target, HOST, fields).await?,
            };
            Ok::<_, Failure>((answer, connection))
        };
        match timeout(STUCK, asked).await {
            Ok(Ok((answer, connection))) => {
                self.connection = (!answer.last).then_some(connection);
                Some(answer)
            }
            Ok(Err(_)) => {
                sleep(Duration::from_millis(5)).await;
                None
            }
            Err(_) => {
                self.model.violated(format!("{method} {target} is stuck"));
                None
            }
        }
    }
}
