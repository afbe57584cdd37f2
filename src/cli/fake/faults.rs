//! The fault-injection arguments, which are the same for all fakes.
//!
//! Owns: parsing faults, storms, outages and scripts. Never touches: their effect.

use std::fs;
use std::time::Duration;

use http::StatusCode;

use crate::fake::faults::{Fault, Faults, Percentage, RateLimited, final_status};
use crate::fake::script::{Phase, Script};

/// The fault-injection arguments.
#[derive(Debug, clap::Args)]
pub(super) struct FaultFlags {
    /// The minimum time for a response, such as 50ms.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s", value_name = "TIME")]
    latency: Duration,
    #[command(flatten)]
    fault: FaultArgs,
    /// The number of calls that the fault affects. Default: all calls.
    #[arg(long, value_name = "CALLS", requires = "FaultArgs")]
    times: Option<u64>,
    /// The share of calls that the fault affects, such as 0.5. Default: all calls.
    #[arg(long, value_parser = parse_share, value_name = "SHARE", requires = "FaultArgs")]
    share: Option<Percentage>,
    /// Respond 429 for this time after the start.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    #[arg(conflicts_with_all = ["FaultArgs", "script"])]
    storm: Option<Duration>,
    /// Respond 503 for this time after the start, or after the storm.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    #[arg(conflicts_with_all = ["FaultArgs", "script"])]
    outage: Option<Duration>,
    /// A sequence of phases, as a JSON list or a file with one.
    #[arg(long, value_parser = parse_script, value_name = "FILE|JSON")]
    #[arg(conflicts_with_all = ["FaultArgs", "latency"])]
    script: Option<Script>,
}

/// The fault; only one can be set.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct FaultArgs {
    /// Respond with this status.
    #[arg(long, value_parser = parse_status, value_name = "CODE")]
    status: Option<StatusCode>,
    /// Respond 429 with Retry-After: SECONDS.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    rate_limited: Option<u32>,
    /// Respond 429 without Retry-After.
    #[arg(long)]
    rate_limited_mutely: bool,
    /// Close the connection without a response.
    #[arg(long)]
    close: bool,
    /// Close the connection in the middle of the body.
    #[arg(long)]
    cut: bool,
}

impl FaultFlags {
    /// The faults that apply if there is no script.
    pub(super) fn behaviour(&self) -> Faults {
        let Self { latency, times, share, .. } = *self;
        let share = share.unwrap_or_default();
        Faults { latency, fault: self.fault.fault(), times, share, seed: None }
    }

    /// The script, if any. `retry_after` is the value that the API sends in a storm.
    pub(super) fn script(&self, retry_after: Option<u32>) -> Option<Script> {
        if self.script.is_some() {
            return self.script.clone();
        }
        let storm = self.storm.map(|length| Phase::storm(length, retry_after));
        let phases: Vec<_> = storm
            .into_iter()
            .chain(self.outage.map(Phase::outage))
            .map(|phase| Phase { latency: self.latency, ..phase })
            .collect();
        if phases.is_empty() { None } else { Script::try_from(phases).ok() }
    }
}

impl FaultArgs {
    fn fault(&self) -> Option<Fault> {
        let status = self.status.map(Fault::Status);
        let limited = self.rate_limited.map(Fault::rate_limited);
        let without_retry_after = Fault::RateLimited(RateLimited::default());
        let without_retry_after = self.rate_limited_mutely.then_some(without_retry_after);
        let close = self.close.then_some(Fault::Close);
        let cut = self.cut.then_some(Fault::Cut);
        status.or(limited).or(without_retry_after).or(close).or(cut)
    }
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    let status = text.parse().ok().and_then(final_status);
    status.ok_or_else(|| "a status is between 200 and 999".to_owned())
}

fn parse_share(text: &str) -> Result<Percentage, String> {
    let share = text.parse().ok().and_then(Percentage::from_fraction);
    share.ok_or_else(|| "a share is between 0 and 1, such as 0.5".to_owned())
}

/// Parses a JSON list; any other text is the name of a file with one.
fn parse_script(text: &str) -> Result<Script, String> {
    let read = |json: &str| serde_json::from_str(json).map_err(|error| error.to_string());
    if text.trim_start().starts_with('[') {
        return read(text);
    }
    let json = fs::read_to_string(text)
        .map_err(|error| format!("not a JSON list, and not a readable file: {error}"))?;
    read(&json)
}

/// The text about scripts in `--help`, shared by all fakes.
pub(super) const SCRIPTS: &str = "\
A script is a list of phases. Each ends after its time or its calls, whichever is first:
  [{\"name\": \"storm\",  \"for\": \"60s\", \"fault\": {\"rate_limited\": {\"retry_after\": 1}}},
   {\"name\": \"outage\", \"for\": \"10m\", \"fault\": {\"status\": 503}},
   {\"name\": \"flaky\",  \"calls\": 100, \"fault\": \"close\", \"share\": 0.5},
   {\"name\": \"down\",   \"for\": \"5s\", \"fault\": \"refuse\"}]
Faults: {\"status\": CODE}, {\"rate_limited\": {}}, \"close\", \"cut\", \"refuse\".

While it runs:
  GET  /_fake/calls     calls by endpoint, status and phase
  GET  /_fake/seconds   calls by second
  POST /_fake/behave    one fault: {\"fault\": {\"status\": 503}, \"times\": 3}
  POST /_fake/script    a script
  POST /_fake/reset     reset to the state at the start";
