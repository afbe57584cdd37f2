//! A larder that is asked for more than it takes: the log stays small, who is inside is served, the
//! others are told at once, and when the crowd has gone everything is as before.
//!
//! First as many clients as it has room for (the peak); then four times as many clients as there are
//! places, for a minute; then clients that send nothing but malformed requests, as many as this machine
//! makes, for ten seconds. Each client asks 50 times on a connection, leaves, and comes again; one that
//! is told 503 comes again when it was told to.
//!
//! `cargo build --release && cargo run --release --example overload`, with `-- --quick` for three
//! seconds of each. Everything runs on loopback: an API, larder as a process of its own, and the
//! clients, which take their share of the same processors: what must hold is how many answers larder
//! gives for its own processor time, whatever else the machine does. Ends with 1 if a figure is missed.
#![expect(clippy::print_stdout, reason = "an example prints what it found")]

#[path = "support/client.rs"]
mod client;
#[path = "overload/figures.rs"]
mod figures;
#[path = "overload/load.rs"]
mod load;
#[path = "support/origin.rs"]
mod origin;
#[path = "support/process.rs"]
mod process;
#[path = "support/program.rs"]
mod program;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::client::Failure;
use crate::figures::Figures;
use crate::load::{malformed, recovers, requests};
use crate::origin::{BODY, Origin};
use crate::process::Larder;

/// How long.
#[derive(Clone, Copy)]
struct Story {
    peak: Duration,
    crowd: Duration,
    flood: Duration,
}

impl Story {
    const FULL: Self = Self {
        peak: Duration::from_secs(10),
        crowd: Duration::from_secs(60),
        flood: Duration::from_secs(10),
    };
    const QUICK: Self = Self {
        peak: Duration::from_secs(3),
        crowd: Duration::from_secs(3),
        flood: Duration::from_secs(3),
    };
}

/// `limits.connections`.
const PLACES: usize = 64;
/// As many clients as come and go without waiting for a place.
const ROOM: usize = 48;
const CROWD: usize = 4 * PLACES;
const HOST: &str = "api.example.test";

#[tokio::main]
async fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    match overload(if quick { Story::QUICK } else { Story::FULL }).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("overload: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the story, prints the table, and says whether all figures were reached.
async fn overload(story: Story) -> Result<bool, Failure> {
    let origin = Origin::start().await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("proxy.yaml");
    std::fs::write(&file, yaml(origin.addr))?;
    let larder = Larder::start(&file, &[]).await?;
    let (pid, proxy) = (larder.pid()?, larder.proxy()?);
    let logged = || lines_of(&file.with_extension("log"));
    let started = cpu_of(pid)?;
    let peak = requests(proxy, ROOM, story.peak).await?;
    let peaked = cpu_of(pid)?;
    let crowd = requests(proxy, CROWD, story.crowd).await?;
    let cpu = [peaked - started, cpu_of(pid)? - peaked];
    let recovery = recovers(proxy).await?;
    let after = requests(proxy, ROOM, story.peak).await?;
    let before = logged()?;
    let flood = malformed(proxy, ROOM, story.flood).await?;
    let lines = logged()? - before;
    let all_lines = logged()?;
    let calls = origin.calls(load::PATH);
    let clean = larder.stop().await?;

    println!("an answer of {} bytes, {PLACES} places, {CROWD} clients in the crowd\n", BODY.len());
    let figures =
        Figures { peak, crowd, cpu, recovery, after, flood, lines, all_lines, calls, clean };
    figures.print();
    let missed = figures.missed();
    for figure in &missed {
        println!("MISSED: {figure}");
    }
    println!("{}", figures.json(missed.is_empty()));
    Ok(missed.is_empty())
}

/// Few places in front of the API at `origin`.
fn yaml(origin: SocketAddr) -> String {
    format!(
        r#"
version: 1
listen: 127.0.0.1:0
admin: off
limits: {{ connections: {PLACES} }}
store: {{ disk: off }}
resolve: {{ {HOST}: "{origin}" }}
routes: [{{ name: api, match: {{ host: {HOST} }}, ttl: 1h }}]
"#
    )
}

/// The processor time that a process has taken so far, in hundredths of a second.
fn cpu_of(pid: u32) -> Result<u32, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may hold spaces: user and system time are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(')').ok_or("an odd /proc")?;
    let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    Ok(times.sum::<Result<u32, _>>()?)
}

fn lines_of(log: &Path) -> Result<usize, Failure> {
    Ok(std::fs::read_to_string(log)?.lines().count())
}
