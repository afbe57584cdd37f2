//! A 429 storm and an outage without errors for the app, and with few calls to the API.
//!
//! An app calls a fake Discord through larder. Responses are fresh for an hour and may be served stale
//! for a day. Then the API fails: 60 seconds of 429, ten minutes of refused connections, ten of 503;
//! cold keys get 429; half of all calls fail; a limit of 50 calls a second is learned.
//!
//! Time is virtual: larder and the fake share one manual clock, so that hours pass in moments and every
//! wait can be measured exactly. Sockets, clients and bytes are real.
//!
//! `cargo run --release --example rate_limit_storm`, with `-- --quick` for fewer requests. Everything
//! runs on loopback. The exit status is 1 if a target is missed.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

#[path = "support/client.rs"]
mod client;
#[path = "rate_limit_storm/cold.rs"]
mod cold;
#[path = "rate_limit_storm/scenarios.rs"]
mod scenarios;
#[path = "rate_limit_storm/testbed.rs"]
mod testbed;

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::client::Failure;

/// The amount of requests.
#[derive(Clone, Copy)]
struct Workload {
    /// Keys with a stored response before anything fails.
    keys: usize,
    /// Requests in the storm, and in each outage.
    requests: usize,
    /// Concurrent clients.
    at_once: usize,
    /// The virtual seconds during which half of the calls fail, with 200 requests in each.
    half_down: u32,
    /// Calls under the learned limit.
    rate_limited: usize,
}

const FULL: Workload =
    Workload { keys: 100, requests: 10_000, at_once: 8, half_down: 60, rate_limited: 1000 };
const QUICK: Workload =
    Workload { keys: 20, requests: 1_000, at_once: 4, half_down: 12, rate_limited: 300 };

/// The measured figures, and the missed targets.
#[derive(Default)]
struct Figures {
    json: Map<String, Value>,
    missed: Vec<String>,
}

impl Figures {
    /// Prints and records one figure; `good`: whether the target is reached.
    fn line(&mut self, key: &str, title: &str, found: Value, wanted: &str, good: bool) {
        let shown = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        println!("{title:<58} {shown:>22}   {wanted}");
        if !good {
            self.missed.push(format!("{title}: {shown}, target: {wanted}"));
        }
        self.json.insert(key.to_owned(), found);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let mut figures = Figures::default();
    if let Err(error) = run(if quick { QUICK } else { FULL }, &mut figures).await {
        println!("rate_limit_storm: {error}");
        return ExitCode::FAILURE;
    }
    for missed in &figures.missed {
        println!("MISSED: {missed}");
    }
    let good = figures.missed.is_empty();
    figures.json.insert("example".to_owned(), json!("rate_limit_storm"));
    figures.json.insert("time".to_owned(), json!("virtual"));
    figures.json.insert("ok".to_owned(), json!(good));
    println!("{}", Value::Object(figures.json));
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all scenarios, one after the other; each has its own API and larder.
async fn run(workload: Workload, figures: &mut Figures) -> Result<(), Failure> {
    println!("{:<58} {:>22}   target (time is virtual)", "", "found");
    scenarios::storm(workload, figures).await?;
    scenarios::outage(workload, figures).await?;
    scenarios::brownout(workload, figures).await?;
    scenarios::fresh_then_stale(figures).await?;
    cold::waits(figures).await?;
    cold::always(figures).await?;
    scenarios::half_down(workload, figures).await?;
    scenarios::learned(workload, figures).await
}
