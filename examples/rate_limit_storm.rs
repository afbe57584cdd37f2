//! A 429 storm and an outage that the app never sees, and an API that is never hammered.
//!
//! An app asks a fake Discord through larder. Its answers are fresh for an hour and may be shown stale
//! for a day. Then the API says no: 60 seconds of 429, ten minutes of refused connections, ten of 503;
//! cold keys are met by 429; half of all calls fail; a limit of 50 calls a second is learned.
//!
//! Time is virtual: one hand turns the clocks of larder and of the fake, so that hours pass in moments
//! and every wait can be measured exactly. Sockets, clients and bytes are real.
//!
//! `cargo run --release --example rate_limit_storm`, with `-- --quick` for fewer requests. Everything
//! runs on loopback. Ends with 1 if a figure is missed.
#![expect(clippy::print_stdout, reason = "an example prints what it found")]

#[path = "rate_limit_storm/chapters.rs"]
mod chapters;
#[path = "support/client.rs"]
mod client;
#[path = "rate_limit_storm/cold.rs"]
mod cold;
#[path = "rate_limit_storm/scene.rs"]
mod scene;

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::client::Failure;

/// How much is asked.
#[derive(Clone, Copy)]
struct Story {
    /// Keys that are warm before anything goes wrong.
    keys: usize,
    /// Requests in the storm, and in each outage.
    requests: usize,
    /// Clients at the same time.
    at_once: usize,
    /// For how many virtual seconds half of the calls fail, 200 requests in each.
    half_down: u32,
    /// Calls under the learned limit.
    paced: usize,
}

const FULL: Story = Story { keys: 100, requests: 10_000, at_once: 8, half_down: 60, paced: 1000 };
const QUICK: Story = Story { keys: 20, requests: 1_000, at_once: 4, half_down: 12, paced: 300 };

/// What was found, and whether it is what it should be.
#[derive(Default)]
struct Figures {
    json: Map<String, Value>,
    missed: Vec<String>,
}

impl Figures {
    /// One line of the table; `good` says whether the figure is reached.
    fn line(&mut self, key: &str, what: &str, found: Value, wanted: &str, good: bool) {
        let shown = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        println!("{what:<58} {shown:>22}   {wanted}");
        if !good {
            self.missed.push(format!("{what}: {shown}, but {wanted}"));
        }
        self.json.insert(key.to_owned(), found);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let mut figures = Figures::default();
    if let Err(error) = told(if quick { QUICK } else { FULL }, &mut figures).await {
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

/// All chapters, one after the other; each has an API and a larder of its own.
async fn told(story: Story, figures: &mut Figures) -> Result<(), Failure> {
    println!("{:<58} {:>22}   should be (time is virtual)", "", "found");
    chapters::storm(story, figures).await?;
    chapters::outage(story, figures).await?;
    chapters::brownout(story, figures).await?;
    chapters::a_day(figures).await?;
    cold::waits(figures).await?;
    cold::always(figures).await?;
    chapters::half_down(story, figures).await?;
    chapters::learned(story, figures).await
}
