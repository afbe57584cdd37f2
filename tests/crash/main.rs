//! The crash test: larder is killed again and again under a load of reads, writes and purges. After each
//! restart it must find the stored responses, byte for byte, and no purged response.
//!
//! `cargo test --test crash` kills it 100 times; `-- --full` 500 times, and then damages a file of the
//! store 200 times; `-- --kills N --damages N --seed N` sets the numbers. The test prints a table and a line
//! of JSON, and exits with 1 if a criterion is not met.
#![expect(clippy::print_stdout, reason = "the program reports its measurements")]
#![expect(unreachable_pub, reason = "a test program has no users; pub marks the interface of a module")]

mod client;
mod content;
mod damage;
mod expectations;
mod larder;
mod load;
mod origin;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::larder::clock::Clock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::client::Client;
use crate::expectations::{Counters, Expectations};
use crate::larder::{DataDir, Larder};
use crate::origin::Origin;

/// The maximum time of a start until the entries on disk are found.
const START: Duration = Duration::from_secs(5);

/// The numbers of kills and damages, and the seed.
#[derive(Debug, Clone, Copy)]
struct Plan {
    kills: u64,
    damages: u64,
    seed: u64,
}

impl Plan {
    /// Parses the arguments; `None` for `--list`: this program has no tests to list.
    fn from_args(arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut plan = Self { kills: 100, damages: 0, seed: 1 };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().and_then(|n| n.parse().ok()).expect("a number");
            match argument.as_str() {
                "--list" => return None,
                "--full" => (plan.kills, plan.damages) = (500, 200),
                "--kills" => plan.kills = number(),
                "--damages" => plan.damages = number(),
                "--seed" => plan.seed = number(),
                _ => {}
            }
        }
        Some(plan)
    }
}

fn main() -> ExitCode {
    let Some(plan) = Plan::from_args(std::env::args().skip(1)) else { return ExitCode::SUCCESS };
    let mut random = StdRng::seed_from_u64(plan.seed);
    let origin = Arc::new(Origin::start());
    let data_dir = DataDir::new(origin.addr);
    let expectations = Arc::new(Expectations::new());
    for round in 1..=plan.kills {
        let span = Duration::from_millis(random.random_range(20..700));
        run_once(&data_dir, &origin, &expectations, span, random.random());
        if round % 10 == 0 {
            println!("{round:>4} kills    {}", expectations.counters());
        }
    }
    let killed = expectations.counters();
    expectations.reset_counters();
    for round in 1..=plan.damages {
        run_once(&data_dir, &origin, &expectations, Duration::from_millis(100), random.random());
        damage::one_file(&data_dir.store(), &mut random);
        expectations.expect_nothing();
        if round % 10 == 0 {
            println!("{round:>4} damages  {}", expectations.counters());
        }
    }
    report(plan, &killed, &expectations.counters())
}

/// One run of larder: starts it, requests all stored entries, puts load on it and kills it.
fn run_once(
    data_dir: &DataDir,
    origin: &Arc<Origin>,
    expectations: &Arc<Expectations>,
    span: Duration,
    seed: u64,
) {
    let started = Clock::system().instant();
    let larder = Larder::start(data_dir);
    let mut client = Client::connect(larder.addr).expect("larder accepts");
    wait_for_the_store(&larder, expectations, started);
    expectations.record_start(since(started));
    for n in 0..content::URLS {
        expectations
            .record_lookup(n, &client.get_if_cached(n).expect("larder responds while it is not killed"));
    }
    let load = load::Load::start(&larder, origin, expectations, seed);
    std::thread::sleep(span);
    larder.kill();
    expectations.record_kill();
    load.stop();
}

/// Waits until the entries on disk can be found; only a gauge reports that.
fn wait_for_the_store(larder: &Larder, expectations: &Expectations, started: Instant) {
    while expectations.expects_anything() && larder.entries_on_disk() == 0 && since(started) < START {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn since(earlier: Instant) -> Duration {
    Clock::system().instant().saturating_duration_since(earlier)
}

fn report(plan: Plan, killed: &Counters, damaged: &Counters) -> ExitCode {
    println!("\n{:<44}{:>12}{:>12}", "", "killed", "damaged");
    let row = |name: &str, value: &dyn Fn(&Counters) -> String| {
        println!("{name:<44}{:>12}{:>12}", value(killed), value(damaged));
    };
    row("runs", &|t| t.lives.to_string());
    row("complete responses", &|t| t.answers.to_string());
    row("purges", &|t| t.purges.to_string());
    row("refused purges (0 in the kill phase)", &|t| t.refused.to_string());
    row("wrong bytes (0)", &|t| t.wrong.to_string());
    row("purged responses that came back (0)", &|t| t.resurrected.to_string());
    row("responses older than 2 s, expected", &|t| t.expected.to_string());
    row("share of these found (99 %)", &|t| format!("{:.2} %", 100.0 * t.found_share()));
    row("slowest start until the store is open (5 s)", &|t| format!("{:.2?}", t.slowest_start));
    let passed = killed.meets_criteria() && damaged.wrong == 0;
    println!(
        "{}",
        serde_json::json!({
            "kills": plan.kills, "damages": plan.damages, "seed": plan.seed, "good": passed,
            "killed": killed.json(), "damaged": damaged.json(),
        })
    );
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
