//! Real clients, unmodified, through `larder exec`: each asks for one HTTPS and one HTTP resource
//! twice, and the second answer of each is a hit.
//!
//! `cargo build --release && cargo run --release --example clients`, with `-- --quick` for those that
//! CI covers; `-- --require` fails where one of these is missing. `make clients` installs packages
//! into `target/clients`. Everything runs on loopback: an API over TLS with a root of its own, the
//! same API in the clear, larder and the clients as processes of their own.
//!
//! Prints the table of `docs/clients.md` and ends with 1 if any client that is present missed.
#![expect(clippy::print_stdout, reason = "an example prints what it found")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "the clients here are others: only its Failure is used")]
mod client;
#[path = "support/origin.rs"]
mod origin;
#[path = "support/program.rs"]
mod program;
#[path = "clients/programs.rs"]
mod programs;
#[path = "clients/report.rs"]
mod report;
#[path = "clients/run.rs"]
mod run;
#[path = "support/tls.rs"]
#[expect(dead_code, reason = "nobody here asks which leaf was presented")]
mod tls;

use std::process::ExitCode;

use crate::client::Failure;
use crate::origin::Origin;
use crate::programs::{Part, Place};
use crate::report::Row;
use crate::run::Scene;
use crate::tls::Front;

#[tokio::main]
async fn main() -> ExitCode {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    match matrix(has("--quick"), has("--require")).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("clients: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the clients one after the other, prints the table, and says whether none missed.
async fn matrix(quick: bool, require: bool) -> Result<bool, Failure> {
    let origin = Origin::start().await?;
    let front = Front::start(run::SECURE, origin.addr).await?;
    let scene = Scene::new(origin, &front)?;
    let place = Place::prepare()?;
    let mut rows = Vec::new();
    for program in programs::all(&place) {
        if quick && program.part == Part::Full {
            continue;
        }
        let row = match program.version().await {
            Ok(version) => scene.run(&program, version).await?,
            Err(reason) => {
                println!("SKIPPED {}: {reason}", program.name);
                Row::skipped(&program, require)
            }
        };
        rows.push(row);
    }
    report::print(&rows);
    let reached = rows.iter().all(|row| row.is_well);
    println!("{}", report::json(&rows, reached));
    Ok(reached)
}
