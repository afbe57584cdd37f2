//! The testbed of a scenario: a fake Discord and a larder that share one manual clock.
//!
//! Owns: starting both, advancing the clock, sending requests. Never touches: the targets of a scenario.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use larder::clock::Clock;
use larder::config;
use larder::config::env::Env;
use larder::fake::discord::{self, Discord, Options};
use larder::fake::server::FakeServer;
use larder::server::{Server, ServerDeps};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::{Connection, Failure, Response};

/// The host of the API in `proxy.yaml`.
pub(crate) const HOST: &str = "discord.example.test";

/// A fake, a larder, and their manual clock.
pub(crate) struct Testbed {
    pub(crate) clock: Clock,
    pub(crate) discord: FakeServer<Discord>,
    larder: Server,
    proxy: SocketAddr,
    /// Requests that `spawn_get` started, and those of them that have finished.
    started: AtomicUsize,
    finished: Arc<AtomicUsize>,
}

impl Testbed {
    /// Starts a testbed with these additional lines in the route and in the upstream.
    pub(crate) async fn start(options: Options, route: &str, upstream: &str) -> Result<Self, Failure> {
        let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let options = Options { clock: clock.clone(), ..options };
        let discord = discord::start("127.0.0.1:0".parse()?, options).await?;
        let yaml = format!(
            r#"
version: 1
listen: 127.0.0.1:0
admin: {{ listen: 127.0.0.1:0 }}
log: {{ level: error }}
store: {{ disk: off }}
resolve: {{ {HOST}: "{}" }}
upstreams:
  discord: {{ hosts: [{HOST}]{upstream} }}
routes:
  - name: discord
    match: {{ host: {HOST}, method: GET, path: "/api/**" }}
    scope: shared
    ttl: 1h
{route}
"#,
            discord.addr
        );
        let config = config::parse("rate_limit_storm.yaml", &yaml, &Env::default())?;
        let parts = ServerDeps { clock: clock.clone(), ..ServerDeps::default() };
        let larder = Server::start(config, parts)?;
        let proxy = *larder.addrs().first().ok_or("larder has no listener")?;
        let (started, finished) = (AtomicUsize::new(0), Arc::default());
        Ok(Self { clock, discord, larder, proxy, started, finished })
    }

    /// Sends one request of the app.
    pub(crate) async fn get(&self, path: &str) -> Result<Response, Failure> {
        get(self.proxy, path).await
    }

    /// The same as a task, so that the clock can advance meanwhile.
    pub(crate) fn spawn_get(&self, path: &str) -> JoinHandle<Result<Response, Failure>> {
        let (proxy, path, finished) = (self.proxy, path.to_owned(), Arc::clone(&self.finished));
        self.started.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let response = get(proxy, &path).await;
            finished.fetch_add(1, Ordering::SeqCst);
            response
        })
    }

    /// Sends `requests` requests over `keys` keys by `at_once` concurrent clients, while `time` passes
    /// evenly; returns the number of responses with a status other than 200.
    pub(crate) async fn run_load(
        &self,
        keys: usize,
        requests: usize,
        at_once: usize,
        time: Duration,
    ) -> Result<usize, Failure> {
        let rounds = requests.div_ceil(at_once);
        let step = time / u32::try_from(rounds)?;
        let mut connections = Vec::new();
        for _ in 0..at_once {
            connections.push(Connection::open(self.proxy).await?);
        }
        let mut errors = 0;
        for round in 0..rounds {
            let mut clients = JoinSet::new();
            for (client, mut connection) in connections.drain(..).enumerate() {
                let path = roles((round * at_once + client) % keys);
                clients.spawn(async move {
                    let response = connection.get(&format!("http://{HOST}{path}"), HOST, "").await?;
                    Ok::<_, Failure>((connection, response.status))
                });
            }
            while let Some(finished) = clients.join_next().await {
                let (connection, status) = finished??;
                errors += usize::from(status != 200);
                connections.push(connection);
            }
            self.clock.advance(step);
        }
        Ok(errors)
    }

    /// Requests this many keys once, so that they are stored.
    pub(crate) async fn warm(&self, keys: usize) -> Result<(), Failure> {
        for key in 0..keys {
            let response = self.get(&roles(key)).await?;
            if response.status != 200 {
                return Err(format!("a warm-up request got status {}", response.status).into());
            }
        }
        Ok(())
    }

    /// Lets tasks run until every unfinished request sleeps on the manual clock.
    pub(crate) async fn wait_until_idle(&self) {
        // The wait is limited: slower tasks continue in the next step.
        for _ in 0..10_000 {
            let started = self.started.load(Ordering::SeqCst);
            if self.clock.sleepers() + self.finished.load(Ordering::SeqCst) >= started {
                return;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    pub(crate) async fn stop(self) {
        self.larder.stop().await;
        self.discord.stop().await;
    }
}

async fn get(proxy: SocketAddr, path: &str) -> Result<Response, Failure> {
    let mut connection = Connection::open(proxy).await?;
    connection.get(&format!("http://{HOST}{path}"), HOST, "").await
}

/// The path of a key: the roles of a guild.
pub(crate) fn roles(guild: usize) -> String {
    format!("/api/v10/guilds/{}/roles", 81_384_788_765_712_384 + guild)
}
