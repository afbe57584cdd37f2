//! A larder that is replaced and reloaded while an app sends 500 requests a second: no request fails.
//!
//! 50 times a new larder takes over from the running one (`larder run --take-over`), then the
//! configuration is read again 100 times (`larder reload`), every second time an invalid one. Half of
//! the requests use kept-alive connections, half new ones; some of them are not cached.
//!
//! `cargo build --release && cargo run --release --example restarts`, with `-- --quick` for 5 and 20.
//! Everything runs on loopback: a fake Discord, the larders as separate processes, and the app. The exit
//! status is 1 if a target is missed.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

#[path = "support/client.rs"]
mod client;
#[path = "restarts/figures.rs"]
mod figures;
#[path = "restarts/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/program.rs"]
mod program;
#[path = "support/report.rs"]
mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use larder::clock;
use larder::fake::discord;
use larder::fake::discord::faults::Faults;
use tokio::process::Command;

use crate::client::Failure;
use crate::figures::Figures;
use crate::load::Load;
use crate::process::Larder;
use crate::report::{exit_code, has_flag, print_end};

/// The number of restarts and reloads.
#[derive(Clone, Copy)]
struct Workload {
    restarts: usize,
    reloads: usize,
}

impl Workload {
    const FULL: Self = Self { restarts: 50, reloads: 100 };
    const QUICK: Self = Self { restarts: 5, reloads: 20 };
}

const HOST: &str = "discord.example.test";
const LATENCY: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> ExitCode {
    let workload = if has_flag("--quick") { Workload::QUICK } else { Workload::FULL };
    exit_code("restarts", operate(workload).await)
}

/// Runs the workload, prints the table, and returns whether all targets were reached.
async fn operate(workload: Workload) -> Result<bool, Failure> {
    let options = discord::Options {
        behaviour: Faults { latency: LATENCY, ..Faults::default() },
        ..discord::Options::default()
    };
    let discord = discord::start("127.0.0.1:0".parse()?, options).await?;
    let directory = tempfile::tempdir()?;
    let file = File { path: directory.path().join("proxy.yaml"), discord: discord.addr };
    file.write("30m", "")?;

    let mut larder = Larder::start(&file.path, &[]).await?;
    let load = Load::start(larder.proxy()?);
    let (mut restarts, mut longest) = (Vec::new(), Duration::ZERO);
    for _ in 0..workload.restarts {
        load.wait_for_responses(REQUESTS_BETWEEN).await;
        let since = clock::Clock::system().instant();
        let next = Larder::start(&file.path, &["--take-over"]).await?;
        let before = std::mem::replace(&mut larder, next);
        restarts.push(before.wait().await? && larder.proxy()? == load.proxy);
        longest = longest.max(clock::Clock::system().instant() - since);
    }
    let mut reloads = Vec::new();
    for number in 0..workload.reloads {
        load.wait_for_responses(REQUESTS_BETWEEN / 10).await;
        let valid = number % 2 == 0;
        file.write(&format!("{}m", number + 1), if valid { "" } else { "nonsense: 1\n" })?;
        reloads.push(reload(&larder).await? == valid);
    }
    load.wait_for_responses(REQUESTS_BETWEEN).await;
    let seen = load.stop().await?;
    larder.stop().await?;
    discord.stop().await;

    let figures = Figures { restarts, reloads, longest_restart: longest, seen };
    figures.print();
    Ok(print_end(&figures.missed(), |reached| figures.json(reached)))
}

/// Runs `larder reload`; returns whether the new configuration is active.
async fn reload(larder: &Larder) -> Result<bool, Failure> {
    let output = Command::new(program::larder()?)
        .args(["reload", "--json", "--admin"])
        .arg(larder.address("/admin")?.to_string())
        .stdin(Stdio::null())
        .output()
        .await?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

/// The number of responses between one restart and the next.
const REQUESTS_BETWEEN: usize = 100;

/// The configuration file of all larders.
struct File {
    path: PathBuf,
    discord: SocketAddr,
}

impl File {
    /// Writes the configuration with this ttl; `more` may make it invalid.
    fn write(&self, ttl: &str, more: &str) -> Result<(), Failure> {
        let yaml = format!(
            r#"
version: 1
listen: 127.0.0.1:0
admin: {{ listen: 127.0.0.1:0 }}
log: {{ level: warn }}
store: {{ path: store, memory: 32MiB, disk: 256MiB }}
resolve: {{ {HOST}: "{}" }}
routes:
  - name: guild-members
    match: {{ host: {HOST}, method: GET, path: "/api/{{v}}/guilds/{{guild}}/members/{{user}}" }}
    scope: shared
    ttl: {ttl}
{more}"#,
            self.discord
        );
        // Renamed into place, so that no larder reads a partial file.
        let new_file = self.path.with_extension("new");
        std::fs::write(&new_file, yaml)?;
        Ok(std::fs::rename(&new_file, Path::new(&self.path))?)
    }
}
