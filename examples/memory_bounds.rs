//! What hostile clients and origins make larder hold: never much more than its bounds.
//!
//! Each attack meets a larder of its own, whose memory is looked at while it lasts: bodies that rules read
//! and answers that are recorded (`limits.in_flight`), long URLs and long `Vary` lists (`store.memory`). What
//! larder has grown by at most is held against the bound: at most 1.2 times it.
//!
//! `cargo build --release && cargo run --release --example memory_bounds`, or `-- JSON` for the attacks whose
//! names contain that. Everything runs on loopback: an API,
//! larder as a process of its own, and the clients. Ends with 1 if a figure is missed.
#![expect(clippy::print_stdout, reason = "an example prints what it found")]

#[path = "memory_bounds/attack.rs"]
mod attack;
#[path = "support/client.rs"]
mod client;
#[path = "support/process.rs"]
mod process;
#[path = "support/program.rs"]
mod program;

use std::process::ExitCode;

use crate::attack::Attack;
use crate::client::Failure;

const MIB: usize = 1 << 20;

/// What the growth may be of its bound.
const MOST: f64 = 1.2;

#[tokio::main]
async fn main() -> ExitCode {
    match all().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("memory_bounds: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the attacks one after the other, and says whether all stayed within their bounds.
async fn all() -> Result<bool, Failure> {
    println!(
        "| attack | bound | larder grew by | of the bound (must be <= {MOST}) |\n|---|---|---|---|"
    );
    let mut within = true;
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for attack in Attack::ALL.into_iter().filter(|attack| attack.name().contains(&wanted)) {
        let grown = attack.run().await?;
        let bound = attack.bound();
        // Precise enough: sizes of some megabytes.
        #[expect(clippy::cast_precision_loss, reason = "sizes of some megabytes")]
        let share = grown as f64 / bound as f64;
        println!("| {} | {} MiB | {} MiB | {share:.2} |", attack.name(), bound / MIB, grown / MIB);
        within &= share <= MOST;
    }
    println!("\n{}", if within { "all within their bounds" } else { "over a bound" });
    Ok(within)
}
