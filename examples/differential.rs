//! Differential test of ordering: each response to a client is checked against the state of the API at
//! that time.
//!
//! Twelve clients send requests to a real larder for two dozen resources, some of which vary, some of
//! which belong to a credential: plainly, with `no-cache` and `no-store`, and with HEAD; they also
//! write, with known and unknown outcomes, and purge. The API also changes by itself, and responds out
//! of order. Meanwhile larder is reloaded, stopped, killed and replaced. No response may be older than
//! larder guarantees, none may belong to another credential, and no client may wait forever.
//!
//! `cargo build --release && cargo run --release --example differential` makes 150,000 requests; `--
//! --quick` 10,000; `-- --seed N` repeats the random choices, but not the timing. Everything runs on
//! loopback. The exit status is 1 if there is a violation; violations are printed.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

#[path = "differential/api.rs"]
mod api;
#[path = "support/client.rs"]
mod client;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "differential/model.rs"]
mod model;
#[path = "differential/operator.rs"]
mod operator;
#[path = "support/process.rs"]
mod process;
#[path = "support/program.rs"]
mod program;
#[path = "support/report.rs"]
mod report;
#[path = "differential/workload.rs"]
mod workload;

use std::process::ExitCode;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::client::Failure;
use crate::model::Model;
use crate::operator::Operator;
use crate::report::{exit_code, has_flag};
use crate::workload::Client;

/// The number of concurrent clients.
const CLIENTS: u64 = 12;

const FULL: usize = 150_000;
const QUICK: usize = 10_000;

/// The number of requests between two actions of the operator.
const REQUESTS_PER_ACTION: usize = 1_000;

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("differential", all().await)
}

/// Runs the test, and returns whether there was no violation.
async fn all() -> Result<bool, Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let requests = if has_flag("--quick") { QUICK } else { FULL };
    let seed_argument = arguments.iter().position(|argument| argument == "--seed").map(|at| at + 1);
    let seed_argument = seed_argument.and_then(|at| arguments.get(at)).and_then(|seed| seed.parse().ok());
    let seed: u64 = seed_argument.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let model = Arc::new(Model::default());
    let api = api::start(Arc::clone(&model), seed).await?;
    let mut operator = Operator::start(api).await?;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (proxy, admin) = operator.addresses();
        let client = Client::new(Arc::clone(&model), (proxy, admin), seed ^ (number << 32));
        clients.spawn(client.run(requests));
    }
    let drifting = tokio::spawn(api::drift(Arc::clone(&model), seed));
    let mut actions = 0;
    while model.requests() < requests {
        model.wait_for_requests(((actions + 1) * REQUESTS_PER_ACTION).min(requests)).await;
        if model.requests() < requests {
            operator.perform_action(actions, &model).await?;
            actions += 1;
        }
    }
    while let Some(client) = clients.join_next().await {
        client?;
    }
    drifting.abort();
    let exited_cleanly = operator.stop().await?;
    let correct = model.report(actions);
    Ok(correct && exited_cleanly)
}
