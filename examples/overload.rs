//! Overload of larder: the log stays small, accepted clients are served, the others are rejected at
//! once, and after the crowd has disconnected everything is as before.
//!
//! First as many clients as fit (the peak); then four times as many clients as there are connection
//! slots, for a minute; then clients that send only malformed requests, as fast as this machine can, for
//! ten seconds. Each client sends 50 requests on a connection, disconnects, and connects again; a client
//! that gets 503 waits for the time of its `Retry-After`.
//!
//! `cargo build --release && cargo run --release --example overload`, with `-- --quick` for three
//! seconds of each. Everything runs on loopback: an API, larder as a separate process, and the clients,
//! which share its processors: the target is therefore the number of responses per CPU time of larder,
//! which is independent of other load on the machine. The exit status is 1 if a target is missed.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

#[path = "support/client.rs"]
mod client;
#[path = "overload/figures.rs"]
mod figures;
#[path = "overload/load.rs"]
mod load;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "support/origin.rs"]
mod origin;
#[path = "support/process.rs"]
mod process;
#[path = "support/program.rs"]
mod program;
#[path = "support/report.rs"]
mod report;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::client::Failure;
use crate::figures::Figures;
use crate::load::{malformed, recovery_time, requests};
use crate::origin::{BODY, Origin};
use crate::process::Larder;
use crate::report::{exit_code, has_flag, print_end};

/// The duration of each part.
#[derive(Clone, Copy)]
struct Workload {
    peak: Duration,
    crowd: Duration,
    flood: Duration,
}

impl Workload {
    const FULL: Self = Self {
        peak: Duration::from_secs(10),
        crowd: Duration::from_secs(60),
        flood: Duration::from_secs(10),
    };
    const QUICK: Self =
        Self { peak: Duration::from_secs(3), crowd: Duration::from_secs(3), flood: Duration::from_secs(3) };
}

/// `limits.connections`.
const SLOTS: usize = 64;
/// The number of clients that always find a free slot, although they disconnect and connect again.
const FITTING_CLIENTS: usize = 48;
const CROWD: usize = 4 * SLOTS;
const HOST: &str = "api.example.test";

#[tokio::main]
async fn main() -> ExitCode {
    let workload = if has_flag("--quick") { Workload::QUICK } else { Workload::FULL };
    exit_code("overload", overload(workload).await)
}

/// Runs the workload, prints the table, and returns whether all targets were reached.
async fn overload(workload: Workload) -> Result<bool, Failure> {
    let origin = Origin::start().await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("proxy.yaml");
    std::fs::write(&file, yaml(origin.addr))?;
    let larder = Larder::start(&file, &[]).await?;
    let (pid, proxy) = (larder.pid()?, larder.proxy()?);
    let log_lines = || lines_of(&file.with_extension("log"));
    let cpu_at_start = cpu_of(pid)?;
    let peak = requests(proxy, FITTING_CLIENTS, workload.peak).await?;
    let cpu_after_peak = cpu_of(pid)?;
    let crowd = requests(proxy, CROWD, workload.crowd).await?;
    let cpu = [cpu_after_peak - cpu_at_start, cpu_of(pid)? - cpu_after_peak];
    let recovery = recovery_time(proxy).await?;
    let after = requests(proxy, FITTING_CLIENTS, workload.peak).await?;
    let before = log_lines()?;
    let flood = malformed(proxy, FITTING_CLIENTS, workload.flood).await?;
    let lines = log_lines()? - before;
    let all_lines = log_lines()?;
    let calls = origin.calls(load::PATH);
    let clean = larder.stop().await?;

    println!("a response of {} bytes, {SLOTS} connection slots, {CROWD} clients in the crowd\n", BODY.len());
    let figures = Figures { peak, crowd, cpu, recovery, after, flood, lines, all_lines, calls, clean };
    figures.print();
    Ok(print_end(&figures.missed(), |reached| figures.json(reached)))
}

/// The configuration: few connection slots, and the API at `origin`.
fn yaml(origin: SocketAddr) -> String {
    format!(
        r#"
version: 1
listen: 127.0.0.1:0
admin: off
limits: {{ connections: {SLOTS} }}
store: {{ disk: off }}
resolve: {{ {HOST}: "{origin}" }}
routes: [{{ name: api, match: {{ host: {HOST} }}, ttl: 1h }}]
"#
    )
}

/// The CPU time of a process so far, in hundredths of a second.
fn cpu_of(pid: u32) -> Result<u32, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may contain spaces, user and system time are the 12th and 13th field.
    let (_, fields) = stat.rsplit_once(')').ok_or("unexpected /proc format")?;
    let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    Ok(times.sum::<Result<u32, _>>()?)
}

fn lines_of(log: &Path) -> Result<usize, Failure> {
    Ok(std::fs::read_to_string(log)?.lines().count())
}
