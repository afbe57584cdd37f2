//! The report of an example: its exit status, missed targets, and texts of figures.
//!
//! Owns: their form. Never touches: the figures of an example and their targets.
#![allow(dead_code, reason = "each example uses a part")]

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::client::Failure;

/// Whether a flag is on the command line.
pub(crate) fn has_flag(flag: &str) -> bool {
    std::env::args().any(|argument| argument == flag)
}

/// The exit status of the example `name`: 0 if all targets were reached. Prints an error.
pub(crate) fn exit_code(name: &str, outcome: Result<bool, Failure>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the missed targets, and the figures as one line of JSON; returns whether all targets were reached.
pub(crate) fn print_end(missed: &[String], json: impl FnOnce(bool) -> Value) -> bool {
    for figure in missed {
        println!("MISSED: {figure}");
    }
    let reached = missed.is_empty();
    println!("{}", json(reached));
    reached
}

/// The time that this percentage of `times` did not exceed.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

/// A time in milliseconds.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
