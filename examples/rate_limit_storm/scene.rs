//! The scene of a chapter: a fake Discord and a larder whose clocks one hand turns.
//!
//! Owns: starting both, turning the time, asking. Never touches: what a chapter expects.

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

use crate::client::{Answer, Connection, Failure};

/// The API's name in `proxy.yaml`.
pub(crate) const HOST: &str = "discord.example.test";

/// A fake, a larder, and the hand that turns their clocks.
pub(crate) struct Scene {
    pub(crate) clock: Clock,
    pub(crate) discord: FakeServer<Discord>,
    larder: Server,
    proxy: SocketAddr,
    /// Calls that were begun by `getting`, and those of them that are answered.
    asked: AtomicUsize,
    answered: Arc<AtomicUsize>,
}

impl Scene {
    /// A scene whose routes have these lines, and whose upstream has those.
    pub(crate) async fn set(
        options: Options,
        route: &str,
        upstream: &str,
    ) -> Result<Self, Failure> {
        let clock = Clock::by_hand(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
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
        let proxy = *larder.addrs().first().ok_or("larder listens nowhere")?;
        let (asked, answered) = (AtomicUsize::new(0), Arc::default());
        Ok(Self { clock, discord, larder, proxy, asked, answered })
    }

    /// One call of the app.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        get(self.proxy, path).await
    }

    /// The same, while the hand goes on turning.
    pub(crate) fn getting(&self, path: &str) -> JoinHandle<Result<Answer, Failure>> {
        let (proxy, path, answered) = (self.proxy, path.to_owned(), Arc::clone(&self.answered));
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let answer = get(proxy, &path).await;
            answered.fetch_add(1, Ordering::SeqCst);
            answer
        })
    }

    /// `requests` calls over `keys` keys by so many clients, while `time` passes evenly: how many were
    /// answered with something else than 200.
    pub(crate) async fn press(
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
            let mut asking = JoinSet::new();
            for (at, mut connection) in connections.drain(..).enumerate() {
                let path = roles((round * at_once + at) % keys);
                asking.spawn(async move {
                    let answer = connection.get(&format!("http://{HOST}{path}"), HOST, "").await?;
                    Ok::<_, Failure>((connection, answer.status))
                });
            }
            while let Some(asked) = asking.join_next().await {
                let (connection, status) = asked??;
                errors += usize::from(status != 200);
                connections.push(connection);
            }
            self.clock.advance(step);
        }
        Ok(errors)
    }

    /// Warms so many keys.
    pub(crate) async fn warm(&self, keys: usize) -> Result<(), Failure> {
        for key in 0..keys {
            let answer = self.get(&roles(key)).await?;
            if answer.status != 200 {
                return Err(format!("warming was answered with {}", answer.status).into());
            }
        }
        Ok(())
    }

    /// Lets what is awake run until every call that is not answered sleeps by the hand's clock.
    pub(crate) async fn settle(&self) {
        // Bounded: whatever takes longer goes on in the next step.
        for _ in 0..10_000 {
            let asked = self.asked.load(Ordering::SeqCst);
            if self.clock.sleepers() + self.answered.load(Ordering::SeqCst) >= asked {
                return;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    pub(crate) async fn end(self) {
        self.larder.stop().await;
        self.discord.stop().await;
    }
}

async fn get(proxy: SocketAddr, path: &str) -> Result<Answer, Failure> {
    let mut connection = Connection::open(proxy).await?;
    connection.get(&format!("http://{HOST}{path}"), HOST, "").await
}

/// The key of a number: the roles of a guild.
pub(crate) fn roles(guild: usize) -> String {
    format!("/api/v10/guilds/{}/roles", 81_384_788_765_712_384 + guild)
}
