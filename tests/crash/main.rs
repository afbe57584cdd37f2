//! The crash test: a larder under write load and purges is killed again and again, and each time its
//! successor must find what was stored, byte for byte, and nothing that was purged.
//!
//! `cargo test --test crash` kills it 100 times; `-- --full` 500 times, and then damages a file of the
//! store 200 times; `-- --kills N --damages N --seed N` as you like. Ends with a table and a line of
//! JSON, and with 1 if a figure is missed.
#![expect(clippy::print_stdout, reason = "a program that reports what it measured")]
#![expect(
    unreachable_pub,
    reason = "nothing can reach into a test program; pub marks what a module offers"
)]

mod book;
mod client;
mod content;
mod damage;
mod larder;
mod load;
mod origin;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::larder::clock::monotonic;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::book::{Book, Tally};
use crate::client::Client;
use crate::larder::{House, Larder};
use crate::origin::Origin;

/// How long a start may take until what is on disk is found.
const START: Duration = Duration::from_secs(5);

/// How often what is done.
#[derive(Debug, Clone, Copy)]
struct Plan {
    kills: u64,
    damages: u64,
    seed: u64,
}

impl Plan {
    /// What the arguments say; `None`: only a listing of tests is wanted, and there are none.
    fn of(arguments: impl Iterator<Item = String>) -> Option<Self> {
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
    let Some(plan) = Plan::of(std::env::args().skip(1)) else { return ExitCode::SUCCESS };
    let mut random = StdRng::seed_from_u64(plan.seed);
    let origin = Arc::new(Origin::start());
    let house = House::new(origin.addr);
    let book = Arc::new(Book::new());
    for round in 1..=plan.kills {
        let span = Duration::from_millis(random.random_range(20..700));
        live(&house, &origin, &book, span, random.random());
        if round % 10 == 0 {
            println!("{round:>4} kills    {}", book.tally());
        }
    }
    let killed = book.tally();
    book.begin_anew();
    for round in 1..=plan.damages {
        live(&house, &origin, &book, Duration::from_millis(100), random.random());
        damage::one_file(&house.store(), &mut random);
        book.expect_nothing();
        if round % 10 == 0 {
            println!("{round:>4} damages  {}", book.tally());
        }
    }
    report(plan, &killed, &book.tally())
}

/// A larder's life: it starts, what was there before is looked at, it is used, it is killed.
fn live(house: &House, origin: &Arc<Origin>, book: &Arc<Book>, span: Duration, seed: u64) {
    let started = monotonic();
    let larder = Larder::start(house);
    let mut client = Client::connect(larder.addr).expect("larder accepts");
    wait_for_the_store(&larder, book, started);
    book.started(since(started));
    for n in 0..content::KINDS {
        book.looked(n, &client.look(n).expect("a larder that nobody kills answers"));
    }
    let load = load::Load::start(&larder, origin, book, seed);
    std::thread::sleep(span);
    larder.kill();
    book.killed();
    load.end();
}

/// Waits until what is on disk can be found: nothing tells of it but a gauge.
fn wait_for_the_store(larder: &Larder, book: &Book, started: Instant) {
    while book.expects_anything() && larder.entries_on_disk() == 0 && since(started) < START {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn since(earlier: Instant) -> Duration {
    monotonic().saturating_duration_since(earlier)
}

fn report(plan: Plan, killed: &Tally, damaged: &Tally) -> ExitCode {
    println!("\n{:<44}{:>12}{:>12}", "", "killed", "damaged");
    let row = |what: &str, of: &dyn Fn(&Tally) -> String| {
        println!("{what:<44}{:>12}{:>12}", of(killed), of(damaged));
    };
    row("lives", &|t| t.lives.to_string());
    row("whole answers", &|t| t.answers.to_string());
    row("purges", &|t| t.purges.to_string());
    row("purges that were refused (0 of the killed)", &|t| t.refused.to_string());
    row("wrong bytes (0)", &|t| t.wrong.to_string());
    row("purged answers that came back (0)", &|t| t.resurrected.to_string());
    row("older than 2 s and to be found", &|t| t.settled.to_string());
    row("of these found (99 %)", &|t| format!("{:.2} %", 100.0 * t.found_part()));
    row("slowest start until it is found (5 s)", &|t| format!("{:.2?}", t.slowest_start));
    let good = killed.is_good() && damaged.wrong == 0;
    println!(
        "{}",
        serde_json::json!({
            "kills": plan.kills, "damages": plan.damages, "seed": plan.seed, "good": good,
            "killed": killed.json(), "damaged": damaged.json(),
        })
    );
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
