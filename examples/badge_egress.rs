//! A badge page that calls Discord five times per visit, before and with larder.
//!
//! 200 users visit their page five times within two hours. Each visit checks four roles of the user,
//! each with a call for the member, and reads the guild's roles once: 5,000 calls. With larder the app
//! is the same; 201 of its calls reach Discord, and one more for each refresh that a user forces.
//!
//! `cargo run --release --example badge_egress`, with `-- --quick` for fewer users. Everything runs on
//! loopback: a fake Discord, larder, and the app. The exit status is 1 if a target is missed.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

#[path = "support/client.rs"]
mod client;
#[path = "badge_egress/figures.rs"]
mod figures;
#[path = "support/report.rs"]
mod report;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use larder::clock::Clock;
use larder::config;
use larder::config::env::Env;
use larder::fake::discord;
use larder::fake::discord::faults::Faults;
use larder::server::{Server, ServerDeps};
use tokio::task::JoinSet;

use crate::client::{Connection, Failure, Response};
use crate::figures::{Figures, Side};
use crate::report::{exit_code, has_flag, print_end};

/// The number of users and visits, the users that visit concurrently, and the forced refreshes.
#[derive(Clone, Copy)]
struct Workload {
    users: usize,
    visits: usize,
    at_once: usize,
    refreshes: usize,
}

impl Workload {
    const FULL: Self = Self { users: 200, visits: 5, at_once: 20, refreshes: 10 };
    const QUICK: Self = Self { users: 40, visits: 5, at_once: 4, refreshes: 2 };

    fn visit_calls(self) -> usize {
        self.users * self.visits * (ROLE_CHECKS + 1)
    }

    /// One call per member, and one for the roles of the guild.
    fn needed(self) -> usize {
        self.users + 1
    }
}

const ROLE_CHECKS: usize = 4;
const HOST: &str = "discord.example.test";
const LATENCY: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> ExitCode {
    let workload = if has_flag("--quick") { Workload::QUICK } else { Workload::FULL };
    exit_code("badge_egress", compare(workload).await)
}

/// Runs the workload twice, prints the table, and returns whether all targets were reached.
async fn compare(workload: Workload) -> Result<bool, Failure> {
    let options = discord::Options {
        behaviour: Faults { latency: LATENCY, ..Faults::default() },
        ..discord::Options::default()
    };
    let discord = discord::start("127.0.0.1:0".parse()?, options).await?;

    let before = visit_all(workload, Access::direct(discord.addr)).await?;
    let before_calls = discord.calls();
    discord.reset();

    let larder = Server::start(configuration(discord.addr)?, ServerDeps::default())?;
    let proxy = *larder.addrs().first().ok_or("larder has no listener")?;
    let after = visit_all(workload, Access::through(proxy)).await?;
    let visits_calls = discord.calls();
    let forced = force_refreshes(workload, proxy).await?;
    let after_calls = discord.calls();
    larder.stop().await;
    discord.stop().await;

    let figures = Figures {
        workload,
        same_bodies: before.bodies == after.bodies
            && forced.bodies.iter().all(|(path, body)| after.bodies.get(path) == Some(body)),
        hits_after_refresh: forced.hits,
        visits_upstream: visits_calls.total,
        before: Side::new(&before, &before_calls),
        after: Side::new(&after, &after_calls),
    };
    figures.print();
    Ok(print_end(&figures.missed(), |reached| figures.json(reached)))
}

/// The configuration of larder, with the address of this example's Discord.
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

/// The results that the app observed.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    hits: usize,
    /// The body of each path. A later response with a different body is an error.
    bodies: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    fn take(&mut self, path: &str, response: Response, latency: Duration) -> Result<(), Failure> {
        if response.status != 200 {
            return Err(format!("{path} got status {}", response.status).into());
        }
        if response.hit {
            self.hits += 1;
        }
        self.latencies.push(latency);
        self.put(path.to_owned(), response.body)
    }

    fn put(&mut self, path: String, body: Vec<u8>) -> Result<(), Failure> {
        match self.bodies.get(&path) {
            Some(first_body) if *first_body != body => Err(format!("{path} has two bodies").into()),
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
}

/// All visits of all users, with this many users concurrently.
async fn visit_all(workload: Workload, access: Access) -> Result<Seen, Failure> {
    let access = Arc::new(access);
    let mut visitors = JoinSet::new();
    for first in 0..workload.at_once {
        let access = Arc::clone(&access);
        visitors.spawn(async move {
            let mut seen = Seen::default();
            let mut connection = Connection::open(access.address).await?;
            for _ in 0..workload.visits {
                for user in (first..workload.users).step_by(workload.at_once) {
                    visit(&access, &mut connection, user, &mut seen).await?;
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
    access: &Access,
    connection: &mut Connection,
    user: usize,
    seen: &mut Seen,
) -> Result<(), Failure> {
    let member = member(user);
    let calls = std::iter::repeat_n(member.as_str(), ROLE_CHECKS).chain([ROLES]);
    for path in calls {
        call(access, connection, path, "", seen).await?;
    }
    Ok(())
}

/// One call of the app, timed.
async fn call(
    access: &Access,
    connection: &mut Connection,
    path: &str,
    fields: &str,
    seen: &mut Seen,
) -> Result<(), Failure> {
    let fields = format!("Authorization: Bot example\r\nAccept: application/json\r\n{fields}");
    let start = Clock::system().instant();
    let response = connection.get(&access.target(path), HOST, &fields).await?;
    seen.take(path, response, Clock::system().instant().duration_since(start))
}

/// The first users force a refresh (the orange button of the page), and visit again afterwards.
async fn force_refreshes(workload: Workload, proxy: SocketAddr) -> Result<Seen, Failure> {
    let access = Access::through(proxy);
    let mut connection = Connection::open(proxy).await?;
    let mut seen = Seen::default();
    for user in 0..workload.refreshes {
        let path = member(user);
        for fields in ["Cache-Control: no-cache\r\n", ""] {
            call(&access, &mut connection, &path, fields, &mut seen).await?;
        }
    }
    Ok(seen)
}

const ROLES: &str = "/api/v10/guilds/81384788765712384/roles";

fn member(user: usize) -> String {
    format!("/api/v10/guilds/81384788765712384/members/{}", 80_351_110_224_678_912 + user)
}

/// The address and request targets that the app uses. The only difference between before and after:
/// `HTTP_PROXY`.
struct Access {
    address: SocketAddr,
    target_prefix: String,
}

impl Access {
    fn direct(discord: SocketAddr) -> Self {
        Self { address: discord, target_prefix: String::new() }
    }

    fn through(proxy: SocketAddr) -> Self {
        Self { address: proxy, target_prefix: format!("http://{HOST}") }
    }

    fn target(&self, path: &str) -> String {
        format!("{}{path}", self.target_prefix)
    }
}
