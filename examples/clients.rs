//! Real, unmodified clients run by `larder exec`: each requests one HTTPS and one HTTP resource twice,
//! and the second response of each must be a hit.
//!
//! `cargo build --release && cargo run --release --example clients`, with `-- --quick` for those that CI
//! covers; `-- --require` fails if one of these is missing. `make clients` installs packages into
//! `target/clients`. Everything runs on loopback: an API over TLS with its own root, the same API
//! without TLS, larder and the clients as separate processes.
//!
//! Prints the table of `docs/clients.md`. The exit status is 1 if any installed client failed.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "the clients are separate programs: only Failure is used")]
mod client;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "support/origin.rs"]
mod origin;
#[path = "support/program.rs"]
mod program;
#[path = "clients/programs.rs"]
mod programs;
#[path = "support/report.rs"]
mod report;
#[path = "clients/rows.rs"]
mod rows;
#[path = "clients/run.rs"]
mod run;
#[path = "support/tls.rs"]
#[expect(dead_code, reason = "the leaf certificate is not checked here")]
mod tls;

use std::process::ExitCode;

use crate::client::Failure;
use crate::origin::Origin;
use crate::programs::{Part, Paths};
use crate::report::{exit_code, has_flag};
use crate::rows::Row;
use crate::run::Testbed;
use crate::tls::TlsFrontend;

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("clients", matrix(has_flag("--quick"), has_flag("--require")).await)
}

/// Runs the clients one after the other, prints the table, and returns whether none failed.
async fn matrix(quick: bool, require: bool) -> Result<bool, Failure> {
    let origin = Origin::start().await?;
    let tls_frontend = TlsFrontend::start(run::SECURE, origin.addr).await?;
    let testbed = Testbed::new(origin, &tls_frontend)?;
    let paths = Paths::prepare()?;
    let mut rows = Vec::new();
    for program in programs::all(&paths) {
        if quick && program.part == Part::Full {
            continue;
        }
        let row = match program.version().await {
            Ok(version) => testbed.run(&program, version).await?,
            Err(reason) => {
                println!("SKIPPED {}: {reason}", program.name);
                Row::skipped(&program, require)
            }
        };
        rows.push(row);
    }
    rows::print(&rows);
    let reached = rows.iter().all(|row| row.passes);
    println!("{}", rows::json(&rows, reached));
    Ok(reached)
}
