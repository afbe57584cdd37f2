//! A badge page that asks Discord five times per visit, before larder and behind it.
//!
//! 200 users visit their page five times within two hours. Each visit checks four roles of the user,
//! each with a call for the member, and reads the guild's roles once: 5,000 calls. Behind larder the
//! app is the same; 201 of its calls reach Discord, and one more for each refresh a user forces.
//!
//! `cargo run --release --example badge_egress`, with `-- --quick` for fewer users. Everything runs
//! on loopback: a fake Discord, larder, and the app. Ends with 1 if a figure is missed.
#![expect(clippy::print_stdout, reason = "an example prints what it found")]

#[path = "support/client.rs"]
mod client;
#[path = "badge_egress/figures.rs"]
mod figures;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use larder::clock;
use larder::config;
use larder::config::env::Env;
use larder::fake::discord;
use larder::fake::discord::faults::Faults;
use larder::server::{Server, ServerDeps};
use tokio::task::JoinSet;

use crate::client::{Answer, Connection, Failure};
use crate::figures::{Figures, Side};

/// How many users visit, how often, and how many of them at the same time.
#[derive(Clone, Copy)]
struct Story {
    users: usize,
    visits: usize,
    at_once: usize,
    refreshes: usize,
}

impl Story {
    const FULL: Self = Self { users: 200, visits: 5, at_once: 20, refreshes: 10 };
    const QUICK: Self = Self { users: 40, visits: 5, at_once: 4, refreshes: 2 };

    fn visit_calls(self) -> usize {
        self.users * self.visits * (ROLE_CHECKS + 1)
    }

    /// One call per member, one for the roles of the guild.
    fn needed(self) -> usize {
        self.users + 1
    }
}

const ROLE_CHECKS: usize = 4;
const HOST: &str = "discord.example.test";
const LATENCY: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    match compare(if quick { Story::QUICK } else { Story::FULL }).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("badge_egress: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the story twice, prints the table, and says whether all figures were reached.
async fn compare(story: Story) -> Result<bool, Failure> {
    let options = discord::Options {
        behaviour: Faults { latency: LATENCY, ..Faults::default() },
        ..discord::Options::default()
    };
    let discord = discord::start("127.0.0.1:0".parse()?, options).await?;

    let before = visit_all(story, Way::direct(discord.addr)).await?;
    let before_calls = discord.calls();
    discord.reset();

    let larder = Server::start(configuration(discord.addr)?, ServerDeps::default())?;
    let proxy = *larder.addrs().first().ok_or("larder listens nowhere")?;
    let after = visit_all(story, Way::through(proxy)).await?;
    let visits_calls = discord.calls();
    let forced = force_refreshes(story, proxy).await?;
    let after_calls = discord.calls();
    larder.stop().await;
    discord.stop().await;

    let figures = Figures {
        story,
        same_bodies: before.bodies == after.bodies
            && forced.bodies.iter().all(|(path, body)| after.bodies.get(path) == Some(body)),
        hits_after_refresh: forced.hits,
        visits_upstream: visits_calls.total,
        before: Side::new(&before, &before_calls),
        after: Side::new(&after, &after_calls),
    };
    figures.print();
    let missed = figures.missed();
    for figure in &missed {
        println!("MISSED: {figure}");
    }
    println!("{}", figures.json(missed.is_empty()));
    Ok(missed.is_empty())
}

/// What an operator writes into `proxy.yaml`, and where this example's Discord is.
fn configuration(discord: SocketAddr) -> Result<config::Config, Failure> {
    let yaml = format!(
        r#"
version: 1
listen: 127.0.0.1:0
admin: {{ listen: 127.0.0.1:0 }}
log: {{ level: error }}
store: {{ disk: off }}
resolve: {{ {HOST}: "{discord}" }}
routes:
  - name: guild-members
    match: {{ host: {HOST}, method: GET, path: "/api/{{v}}/guilds/{{guild}}/members/{{user}}" }}
    scope: shared
    ttl: 2h
  - name: guild-roles
    match: {{ host: {HOST}, method: GET, path: "/api/{{v}}/guilds/{{guild}}/roles" }}
    scope: shared
    ttl: 2h
"#
    );
    Ok(config::parse("badge_egress.yaml", &yaml, &Env::default())?)
}

/// What the app saw.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    hits: usize,
    /// Each path's body. A later answer that differs from the first is an error.
    bodies: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    fn take(&mut self, path: &str, answer: Answer, latency: Duration) -> Result<(), Failure> {
        if answer.status != 200 {
            return Err(format!("{path} was answered with {}", answer.status).into());
        }
        if answer.hit {
            self.hits += 1;
        }
        self.latencies.push(latency);
        self.put(path.to_owned(), answer.body)
    }

    fn put(&mut self, path: String, body: Vec<u8>) -> Result<(), Failure> {
        match self.bodies.get(&path) {
            Some(known) if *known != body => Err(format!("{path} has two bodies").into()),
            Some(_) => Ok(()),
            None => {
                self.bodies.insert(path, body);
                Ok(())
            }
        }
    }

    fn join(&mut self, other: Self) -> Result<(), Failure> {
        self.latencies.extend(other.latencies);
        self.hits += other.hits;
        other.bodies.into_iter().try_for_each(|(path, body)| self.put(path, body))
    }

    /// The latency that so many per cent of the calls did not exceed.
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(index).copied().unwrap_or_default()
    }
}

/// All visits of all users, so many users at the same time.
async fn visit_all(story: Story, way: Way) -> Result<Seen, Failure> {
    let way = Arc::new(way);
    let mut visitors = JoinSet::new();
    for first in 0..story.at_once {
        let way = Arc::clone(&way);
        visitors.spawn(async move {
            let mut seen = Seen::default();
            let mut connection = Connection::open(way.dial).await?;
            for _ in 0..story.visits {
                for user in (first..story.users).step_by(story.at_once) {
                    visit(&way, &mut connection, user, &mut seen).await?;
                }
            }
            Ok::<Seen, Failure>(seen)
        });
    }
    let mut all = Seen::default();
    while let Some(seen) = visitors.join_next().await {
        all.join(seen??)?;
    }
    Ok(all)
}

/// One page: a call per role check, and one for the roles.
async fn visit(
    way: &Way,
    connection: &mut Connection,
    user: usize,
    seen: &mut Seen,
) -> Result<(), Failure> {
    let member = member(user);
    let calls = std::iter::repeat_n(member.as_str(), ROLE_CHECKS).chain([ROLES]);
    for path in calls {
        call(way, connection, path, "", seen).await?;
    }
    Ok(())
}

/// One call of the app, timed.
async fn call(
    way: &Way,
    connection: &mut Connection,
    path: &str,
    fields: &str,
    seen: &mut Seen,
) -> Result<(), Failure> {
    let fields = format!("Authorization: Bot example\r\nAccept: application/json\r\n{fields}");
    let start = clock::monotonic();
    let answer = connection.get(&way.target(path), HOST, &fields).await?;
    seen.take(path, answer, clock::monotonic().duration_since(start))
}

/// The orange button: the first users force a refresh, and visit again afterwards.
async fn force_refreshes(story: Story, proxy: SocketAddr) -> Result<Seen, Failure> {
    let way = Way::through(proxy);
    let mut connection = Connection::open(proxy).await?;
    let mut seen = Seen::default();
    for user in 0..story.refreshes {
        let path = member(user);
        for fields in ["Cache-Control: no-cache\r\n", ""] {
            call(&way, &mut connection, &path, fields, &mut seen).await?;
        }
    }
    Ok(seen)
}

const ROLES: &str = "/api/v10/guilds/81384788765712384/roles";

fn member(user: usize) -> String {
    format!("/api/v10/guilds/81384788765712384/members/{}", 80_351_110_224_678_912 + user)
}

/// How the app reaches Discord. The only difference between before and after: `HTTP_PROXY`.
struct Way {
    dial: SocketAddr,
    before_path: String,
}

impl Way {
    fn direct(discord: SocketAddr) -> Self {
        Self { dial: discord, before_path: String::new() }
    }

    fn through(proxy: SocketAddr) -> Self {
        Self { dial: proxy, before_path: format!("http://{HOST}") }
    }

    fn target(&self, path: &str) -> String {
        format!("{}{path}", self.before_path)
    }
}
