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
#[path = "support/report.rs"]
mod report;
#[path = "rate_limit_storm/scenarios.rs"]
mod scenarios;
#[path = "rate_limit_storm/testbed.rs"]
mod testbed;

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::client::Failure;
use crate::report::{exit_code, has_flag, print_end};

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
const QUICK: Workload = Workload { keys: 20, requests: 1_000, at_once: 4, half_down: 12, rate_limited: 300 };

/// The measured figures, and the missed targets.
#[derive(Default)]
struct Figures {
    json: Map<String, Value>,
    missed: Vec<String>,
}

/// The target of a figure, and whether it is reached.
#[derive(Clone, Copy)]
struct Target<'t>(&'t str, bool);

impl Figures {
    /// Prints and records one figure.
    fn line(&mut self, key: &str, title: &str, found: Value, target: Target<'_>) {
        let shown = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        let Target(target, reached) = target;
        println!("{title:<58} {shown:>22}   {target}");
        if !reached {
            self.missed.push(format!("{title}: {shown}, target: {target}"));
        }
        self.json.insert(key.to_owned(), found);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("rate_limit_storm", all(if has_flag("--quick") { QUICK } else { FULL }).await)
}

/// Runs all scenarios, prints the table, and returns whether all targets were reached.
async fn all(workload: Workload) -> Result<bool, Failure> {
    let mut figures = Figures::default();
    run(workload, &mut figures).await?;
    let Figures { mut json, missed } = figures;
    Ok(print_end(&missed, |reached| {
        json.insert("example".to_owned(), json!("rate_limit_storm"));
        json.insert("time".to_owned(), json!("virtual"));
        json.insert("ok".to_owned(), json!(reached));
        Value::Object(json)
    }))
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
