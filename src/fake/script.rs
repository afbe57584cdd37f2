//! A script: the faults of a fake over time, phase by phase, such as a storm of 429, then an outage,
//! then normal operation.
//!
//! Owns: the phases and their format in JSON. Never touches: the clock; how a fault is injected.

pub(super) mod playback;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde::de::Deserializer;

use crate::fake::faults::{Fault, Faults, Percentage, RateLimited, latency};

/// Phases that follow one another from the moment the script is set; after the last one there are no
/// faults. In JSON: `[{"for": "60s", "fault": {"rate_limited": {"retry_after": 1}}}, {"fault": null}]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Phase>")]
pub struct Script(Vec<ActivePhase>);

/// A phase, ready for playback.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ActivePhase {
    // Faults that were set without a script have no name: there are no other phases to distinguish their
    // calls from.
    name: Option<Arc<str>>,
    length: Option<Duration>,
    calls: Option<u64>,
    behaviour: Faults,
}

/// One phase of a script. It ends after its time or after its number of calls, whichever comes first;
/// with neither it never ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Phase {
    /// The name under which its calls are counted; `phase 1`, `phase 2`, … if omitted.
    pub name: Option<String>,
    /// Its duration.
    #[serde(rename = "for", deserialize_with = "length")]
    pub length: Option<Duration>,
    /// The number of calls after which it ends.
    pub calls: Option<u64>,
    /// The minimum time of a response.
    #[serde(deserialize_with = "latency")]
    pub latency: Duration,
    /// The fault to inject.
    pub fault: Option<Fault>,
    /// The share of its calls that the fault affects.
    pub share: Percentage,
    /// Selects the calls of the share; see [`Faults::seed`].
    pub seed: Option<u64>,
}

/// Why a list of phases is not a valid script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// A phase follows one that never ends.
    #[error("phase {0} has neither `for` nor `calls`, so that the next phase would never begin")]
    Endless(usize),
    /// A phase refuses connections without a time limit, so that no `/_fake/` request could end it.
    #[error("phase {0} refuses connections, also those to /_fake: limit its duration with `for`")]
    LockedOut(usize),
}

impl Phase {
    /// A phase with this name and duration that injects `fault` into every call.
    pub fn lasting(name: &str, length: Duration, fault: Option<Fault>) -> Self {
        Self { name: Some(name.to_owned()), length: Some(length), fault, ..Self::default() }
    }

    /// `storm`: every call gets 429, with this number of seconds in `Retry-After`, or without that field.
    pub fn storm(length: Duration, retry_after: Option<u32>) -> Self {
        let limited = RateLimited { retry_after, ..RateLimited::default() };
        Self::lasting("storm", length, Some(Fault::RateLimited(limited)))
    }

    /// `outage`: every call gets 503.
    pub fn outage(length: Duration) -> Self {
        Self::lasting("outage", length, Some(Fault::Status(StatusCode::SERVICE_UNAVAILABLE)))
    }

    fn into_active(self, number: usize) -> ActivePhase {
        let Self { name, length, calls, latency, fault, share, seed } = self;
        let name = name.unwrap_or_else(|| format!("phase {number}"));
        let behaviour = Faults { latency, fault, times: None, share, seed };
        ActivePhase { name: Some(name.into()), length, calls, behaviour }
    }
}

impl TryFrom<Vec<Phase>> for Script {
    type Error = ScriptError;

    fn try_from(phases: Vec<Phase>) -> Result<Self, ScriptError> {
        let last = phases.len();
        for (number, phase) in (1..).zip(&phases) {
            if number < last && phase.length.is_none() && phase.calls.is_none() {
                return Err(ScriptError::Endless(number));
            }
            if phase.fault == Some(Fault::Refuse) && phase.length.is_none() {
                return Err(ScriptError::LockedOut(number));
            }
        }
        Ok(Self((1..).zip(phases).map(|(number, phase)| phase.into_active(number)).collect()))
    }
}

impl From<Faults> for Script {
    fn from(behaviour: Faults) -> Self {
        Self(vec![ActivePhase { name: None, length: None, calls: None, behaviour }])
    }
}

impl Script {
    /// Whether any phase refuses connections: only then the listener has to watch the clock.
    pub(super) fn has_refusing_phase(&self) -> bool {
        self.0.iter().any(|phase| phase.behaviour.fault == Some(Fault::Refuse))
    }
}

fn length<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    latency(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Script, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_script_is_a_list_of_phases() {
        let json = r#"[
            {"name": "storm", "for": "60s", "fault": {"rate_limited": {"retry_after": 1}}},
            {"name": "outage", "for": "10m", "fault": {"status": 503}},
            {"calls": 3, "latency": "5ms", "share": 0.5, "seed": 7, "fault": "close"},
            {"fault": null}
        ]"#;
        let flaky = Phase {
            calls: Some(3),
            latency: Duration::from_millis(5),
            share: Percentage::from_fraction(0.5).unwrap(),
            seed: Some(7),
            fault: Some(Fault::Close),
            ..Phase::default()
        };
        let phases = vec![
            Phase::storm(Duration::from_secs(60), Some(1)),
            Phase::outage(Duration::from_secs(600)),
            flaky,
            Phase::default(),
        ];
        assert_eq!(read(json), Ok(Script::try_from(phases).unwrap()));
        assert_eq!(read("[]"), Ok(Script::default()));
    }

    #[test]
    fn an_invalid_script_is_rejected_and_the_error_contains_the_phase() {
        for (json, part) in [
            (r#"[{"fault": "cut"}, {"for": "1s"}]"#, "phase 1 has neither `for` nor `calls`"),
            (r#"[{"for": "1s"}, {"calls": 2, "fault": "refuse"}]"#, "phase 2 refuses connections"),
            (r#"[{"during": "1s"}]"#, "during"),
            (r#"[{"for": "soon"}]"#, "expected number"),
        ] {
            let message = read(json).unwrap_err();
            assert!(message.contains(part), "{json}: {message}");
        }
    }
}
