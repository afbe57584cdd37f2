//! How a fake behaves, in arguments that are the same for all of them.
//!
//! Owns: faults, storms, outages and scripts as they are typed. Never touches: what they do.

use std::fs;
use std::time::Duration;

use http::StatusCode;

use crate::fake::faults::{Fault, Faults, Percentage, RateLimited, final_status};
use crate::fake::script::{Phase, Script};

/// How it behaves.
#[derive(Debug, clap::Args)]
pub(super) struct FaultFlags {
    /// The least time an answer takes, such as 50ms.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s", value_name = "TIME")]
    latency: Duration,
    #[command(flatten)]
    fault: FaultArgs,
    /// How many calls the fault hits; all of them if left out.
    #[arg(long, value_name = "CALLS", requires = "FaultArgs")]
    times: Option<u64>,
    /// Which part of the calls the fault hits, such as 0.5; all of them if left out.
    #[arg(long, value_parser = parse_share, value_name = "PART", requires = "FaultArgs")]
    share: Option<Percentage>,
    /// Answer 429 for so long, from the start on.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    #[arg(conflicts_with_all = ["FaultArgs", "script"])]
    storm: Option<Duration>,
    /// Answer 503 for so long, from the start on or after the storm.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    #[arg(conflicts_with_all = ["FaultArgs", "script"])]
    outage: Option<Duration>,
    /// Phases that follow one another, as a list in JSON or a file with one.
    #[arg(long, value_parser = parse_script, value_name = "FILE|JSON")]
    #[arg(conflicts_with_all = ["FaultArgs", "latency"])]
    script: Option<Script>,
}

/// What goes wrong; one thing at a time.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct FaultArgs {
    /// Answer with this status.
    #[arg(long, value_parser = parse_status, value_name = "CODE")]
    status: Option<StatusCode>,
    /// Answer 429, with Retry-After: SECONDS.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    rate_limited: Option<u32>,
    /// Answer 429 without a Retry-After.
    #[arg(long)]
    rate_limited_mutely: bool,
    /// Close the connection without an answer.
    #[arg(long)]
    close: bool,
    /// Close the connection in the middle of the body.
    #[arg(long)]
    cut: bool,
}

impl FaultFlags {
    /// How it behaves where no script is given.
    pub(super) fn behaviour(&self) -> Faults {
        let Self { latency, times, share, .. } = *self;
        let share = share.unwrap_or_default();
        Faults { latency, fault: self.fault.fault(), times, share, seed: None }
    }

    /// The script; `retry_after`: what the API says in a storm.
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
        let mute = Fault::RateLimited(RateLimited::default());
        let mute = self.rate_limited_mutely.then_some(mute);
        let close = self.close.then_some(Fault::Close);
        let cut = self.cut.then_some(Fault::Cut);
        status.or(limited).or(mute).or(close).or(cut)
    }
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    let status = text.parse().ok().and_then(final_status);
    status.ok_or_else(|| "a status is between 200 and 999".to_owned())
}

fn parse_share(text: &str) -> Result<Percentage, String> {
    let share = text.parse().ok().and_then(Percentage::of);
    share.ok_or_else(|| "a part is between 0 and 1, such as 0.5".to_owned())
}

/// A list is taken as it is; anything else is the name of a file.
fn parse_script(text: &str) -> Result<Script, String> {
    let read = |json: &str| serde_json::from_str(json).map_err(|error| error.to_string());
    if text.trim_start().starts_with('[') {
        return read(text);
    }
    let json = fs::read_to_string(text)
        .map_err(|error| format!("no list in JSON, and as a file: {error}"))?;
    read(&json)
}

/// What both say about scripts, for `--help`.
pub(super) const SCRIPTS: &str = "\
A script is a list of phases. Each ends after its time or its calls, whichever comes first:
  [{\"name\": \"storm\",  \"for\": \"60s\", \"fault\": {\"rate_limited\": {\"retry_after\": 1}}},
   {\"name\": \"outage\", \"for\": \"10m\", \"fault\": {\"status\": 503}},
   {\"name\": \"flaky\",  \"calls\": 100, \"fault\": \"close\", \"share\": 0.5},
   {\"name\": \"down\",   \"for\": \"5s\", \"fault\": \"refuse\"}]
Faults: {\"status\": CODE}, {\"rate_limited\": {}}, \"close\", \"cut\", \"refuse\".

While it runs:
  GET  /_fake/calls     what was asked, by endpoint, status and phase
  GET  /_fake/seconds   calls by second
  POST /_fake/behave    one fault: {\"fault\": {\"status\": 503}, \"times\": 3}
  POST /_fake/script    a script
  POST /_fake/reset     as at the start";
