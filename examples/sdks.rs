//! Real SDKs with their own retries, direct and through `larder exec`, while their API is dead, hangs, limits or
//! fails them: larder may cost its first round of retries, and nothing else. With a stored response, no SDK sees
//! an error.
//!
//! `make sdks` installs the SDKs and runs it; or `cargo build --release && cargo run --release --example sdks`,
//! with `-- --quick` for two SDKs. SDKs that are not installed are named. Everything runs on loopback.
//!
//! Prints the table of `docs/clients.md`. The exit status is 1 if a bound was exceeded.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "the SDKs are separate programs: only Failure is used")]
mod client;
#[path = "sdks/faults.rs"]
mod faults;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "support/program.rs"]
mod program;
#[path = "support/report.rs"]
mod report;
#[path = "sdks/run.rs"]
mod run;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use crate::client::Failure;
use crate::faults::{Api, Fault};
use crate::report::{exit_code, has_flag, print_end};
use crate::run::{ALL, Run, Sdk, Testbed, Way};

/// The first round of larder's retries: at most three calls in fifteen seconds.
const FIRST_CALLS: usize = 3;
const FIRST_TIME: Duration = Duration::from_secs(15);

/// The SDKs of a quick run.
const QUICK: usize = 2;

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("sdks", table(has_flag("--quick")).await)
}

async fn table(quick: bool) -> Result<bool, Failure> {
    let testbed = Testbed::new(Api::start().await?)?;
    let (mut missed, mut skipped, mut runs) = (Vec::new(), Vec::new(), 0);
    println!("| {:<27} | API  | direct            | with larder       | with larder, stored |", "SDK");
    println!("|-{0:-<27}-|------|-------------------|-------------------|---------------------|", "");
    for sdk in ALL.iter().take(if quick { QUICK } else { ALL.len() }) {
        let Some(version) = testbed.version(sdk).await else {
            skipped.push(sdk.title);
            continue;
        };
        for fault in Fault::ALL {
            let title = format!("{} {version}", sdk.title);
            row(&testbed, sdk, &title, fault, &mut missed).await?;
            runs += 1;
        }
    }
    println!();
    for title in &skipped {
        println!("SKIPPED {title}: it is not installed");
    }
    Ok(print_end(
        &missed,
        |reached| json!({ "example": "sdks", "runs": runs, "skipped": skipped, "missed": missed.len(), "reached": reached }),
    ))
}

/// One SDK and one fault: direct, with an empty store, and with a stored response.
async fn row(
    testbed: &Testbed,
    sdk: &Sdk,
    title: &str,
    fault: Fault,
    missed: &mut Vec<String>,
) -> Result<(), Failure> {
    testbed.api.set(fault);
    let direct = testbed.run(sdk, Way::Direct).await?;
    let store = tempfile::tempdir()?;
    testbed.api.set(fault);
    let cold = testbed.run(sdk, Way::Larder(store.path())).await?;
    testbed.api.set(Fault::None);
    let warming = testbed.run(sdk, Way::Larder(store.path())).await?;
    testbed.api.set(fault);
    let warm = testbed.run(sdk, Way::Larder(store.path())).await?;
    let stored = if sdk.is_get { warm.result.as_str() } else { "not stored: POST" };
    println!("| {title:<27} | {:<4} | {} | {} | {stored:<19} |", fault.name(), cell(&direct), cell(&cold));
    let mut check = |holds: bool, what: String| {
        if !holds {
            missed.push(format!("{title}, {}: {what}", fault.name()));
        }
    };
    check(warming.result == "OK", format!("a working API: {}", warming.result));
    check(warm.result == "OK" || !sdk.is_get, format!("with a stored response: {}", warm.result));
    let calls = direct.calls * 12 / 10 + FIRST_CALLS;
    check(cold.calls <= calls, format!("{} calls, direct {}", cold.calls, direct.calls));
    let time = direct.time * 12 / 10 + Duration::from_secs(1) + FIRST_TIME;
    check(cold.time <= time, format!("{:.1?}, direct {:.1?}", cold.time, direct.time));
    Ok(())
}

fn cell(run: &Run) -> String {
    let result = if run.result == "OK" { "ok" } else { "error" };
    format!("{result:<5} {:>5.1} s {:>3}", run.time.as_secs_f64(), run.calls)
}
