//! Two unmodified apps, one in Python and one in Node, and an API that they call over HTTPS: the number
//! of calls to the API without larder, and with `larder exec`.
//!
//! `cargo build --release && cargo run --release --example https_exec`, with `-- --quick` for fewer
//! calls. Everything runs on loopback: a fake Discord behind TLS with its own root, larder and the apps
//! as separate processes. Both apps request the same URLs in either case.
//!
//! Also compares certificates: with larder, the API that a route matches presents one of larder's, and a
//! host without a route its own. The exit status is 1 if a target is missed.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "the clients are separate programs: only Failure is used")]
mod client;
#[path = "https_exec/figures.rs"]
mod figures;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "support/program.rs"]
mod program;
#[path = "support/report.rs"]
mod report;
#[path = "https_exec/testbed.rs"]
mod testbed;
#[path = "support/tls.rs"]
mod tls;

use std::process::ExitCode;

use crate::client::Failure;
use crate::figures::{Figures, Saved};
use crate::report::{exit_code, has_flag, print_end};
use crate::testbed::{App, Testbed};

/// The number of calls of an app: five per visit.
#[derive(Clone, Copy)]
struct Workload {
    users: usize,
    visits: usize,
}

impl Workload {
    const FULL: Self = Self { users: 20, visits: 10 };
    const QUICK: Self = Self { users: 5, visits: 5 };
}

#[tokio::main]
async fn main() -> ExitCode {
    let workload = if has_flag("--quick") { Workload::QUICK } else { Workload::FULL };
    exit_code("https_exec", compare(workload).await)
}

/// Runs both apps in both ways, prints the table, and returns whether all targets were reached.
async fn compare(workload: Workload) -> Result<bool, Failure> {
    let testbed = Testbed::start().await?;
    let mut apps = Vec::new();
    for app in [App::PYTHON, App::NODE] {
        let before = testbed.count_calls(app, workload, false).await?;
        let after = testbed.count_calls(app, workload, true).await?;
        apps.push(Saved { app: app.name, before, after });
    }
    let presented = testbed.presented().await?;
    testbed.stop().await;

    let figures = Figures { requests: workload.users * workload.visits * 5, apps, presented };
    figures.print();
    Ok(print_end(&figures.missed(), |reached| figures.json(reached)))
}
