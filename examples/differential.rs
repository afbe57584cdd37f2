//! Order under whatever comes: what clients are given, held against what the API had when they asked.
//!
//! Twelve clients ask a real larder for two dozen resources, some of which vary, some of which belong to a
//! credential: plainly, with `no-cache` and `no-store`, by HEAD; they write, with known and unknown outcomes, and
//! purge. The API changes by itself, too, and answers out of order. Meanwhile larder is reloaded, stopped, killed and
//! replaced. No answer may be older than larder promised, none may be another's, nobody may wait for ever.
//!
//! `cargo build --release && cargo run --release --example differential` makes 150,000 requests; `-- --quick`
//! 10,000; `-- --seed N` repeats what chance decided but for the timing. Everything runs on loopback. Ends with 1 if
//! there is a violation, each of which is shown.
#![expect(clippy::print_stdout, reason = "an example prints what it found")]

#[path = "differential/api.rs"]
mod api;
#[path = "differential/asking.rs"]
mod asking;
#[path = "support/client.rs"]
mod client;
#[path = "differential/model.rs"]
mod model;
#[path = "differential/operator.rs"]
mod operator;
#[path = "support/process.rs"]
mod process;
#[path = "support/program.rs"]
mod program;

use std::process::ExitCode;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::asking::Asking;
use crate::client::Failure;
use crate::model::Model;
use crate::operator::Operator;

/// Clients that ask at once.
const CLIENTS: u64 = 12;

const FULL: usize = 150_000;
const QUICK: usize = 10_000;

/// So many requests are between two acts of the operator.
const BETWEEN: usize = 1_000;

#[tokio::main]
async fn main() -> ExitCode {
    match all().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("differential: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it, and says whether nothing was violated.
async fn all() -> Result<bool, Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let requests = if arguments.iter().any(|one| one == "--quick") { QUICK } else { FULL };
    let given = arguments.iter().position(|one| one == "--seed").map(|at| at + 1);
    let given = given.and_then(|at| arguments.get(at)).and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let model = Arc::new(Model::default());
    let api = api::start(Arc::clone(&model), seed).await?;
    let mut operator = Operator::start(api).await?;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (proxy, admin) = operator.addresses();
        let asking = Asking::new(Arc::clone(&model), (proxy, admin), seed ^ (number << 32));
        clients.spawn(asking.until(requests));
    }
    let drifting = tokio::spawn(api::drift(Arc::clone(&model), seed));
    let mut acts = 0;
    while model.asked() < requests {
        model.until(((acts + 1) * BETWEEN).min(requests)).await;
        if model.asked() < requests {
            operator.act(acts, &model).await?;
            acts += 1;
        }
    }
    while let Some(client) = clients.join_next().await {
        client?;
    }
    drifting.abort();
    let clean = operator.stop().await?;
    let found = model.report(acts);
    Ok(found && clean)
}
