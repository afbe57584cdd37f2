//! The memory that hostile clients and origins make larder use: never much more than its limits.
//!
//! Each attack runs against its own larder, whose memory is measured meanwhile: bodies that response
//! rules parse and responses that are captured (`limits.in_flight`), long URLs and long `Vary` lists
//! (`store.memory`). larder's maximum growth must be at most 1.2 times the bound.
//!
//! `cargo build --release && cargo run --release --example memory_bounds`, or `-- JSON` for the attacks
//! with that text in their name. Everything runs on loopback: an API, larder as a separate process, and
//! the clients. The exit status is 1 if a target is missed.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

#[path = "memory_bounds/attack.rs"]
mod attack;
#[path = "support/client.rs"]
mod client;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "support/process.rs"]
mod process;
#[path = "support/program.rs"]
mod program;
#[path = "support/report.rs"]
mod report;

use std::process::ExitCode;

use crate::attack::Attack;
use crate::client::Failure;
use crate::report::exit_code;

const MIB: usize = 1 << 20;

/// The maximum growth, as a multiple of the bound.
const MAX_SHARE: f64 = 1.2;

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("memory_bounds", all().await)
}

/// Runs the attacks one after the other, and returns whether all stayed within their bounds.
async fn all() -> Result<bool, Failure> {
    println!("| attack | bound | growth | share of the bound (required <= {MAX_SHARE}) |\n|---|---|---|---|");
    let mut within_bounds = true;
    let name_filter = std::env::args().nth(1).unwrap_or_default();
    for attack in Attack::ALL.into_iter().filter(|attack| attack.name().contains(&name_filter)) {
        let growth = attack.run().await?;
        let bound = attack.bound();
        #[expect(clippy::cast_precision_loss, reason = "sizes of some megabytes")]
        let share = growth as f64 / bound as f64;
        println!("| {} | {} MiB | {} MiB | {share:.2} |", attack.name(), bound / MIB, growth / MIB);
        within_bounds &= share <= MAX_SHARE;
    }
    println!("\n{}", if within_bounds { "all within their bounds" } else { "over a bound" });
    Ok(within_bounds)
}
