//! How a fake treats its callers: slowly, with errors, or by hanging up.
//!
//! Owns: the faults and how long they last; their form in JSON.
//! Never touches: how a fault looks on the wire.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// How a fake behaves. The default is at once and without fault. In JSON, as for
/// `POST /_fake/behave`: `{"latency": "50ms", "fault": {"status": 503}, "times": 3}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// The least time an answer takes.
    #[serde(deserialize_with = "latency")]
    pub latency: Duration,
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// How many calls the fault hits; `None`: all, until something else is asked for.
    pub times: Option<u64>,
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Answers with this status.
    #[serde(deserialize_with = "status")]
    Status(StatusCode),
    /// Answers 429 with `Retry-After` and Discord's body.
    RateLimited {
        /// Seconds.
        retry_after: u32,
    },
    /// Closes the connection without an answer.
    Close,
    /// Closes the connection in the middle of the body.
    Cut,
}

impl Behaviour {
    /// Shows `fault` to every call.
    pub fn always(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    /// Shows `fault` to the next `times` calls.
    pub fn next(times: u64, fault: Fault) -> Self {
        Self { times: Some(times), ..Self::always(fault) }
    }

    /// The fault for one call, which uses it up.
    pub(super) fn next_fault(&mut self) -> Option<Fault> {
        match &mut self.times {
            None => {}
            Some(0) => return None,
            Some(left) => *left -= 1,
        }
        self.fault
    }
}

fn latency<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(D::Error::custom)
}

fn status<'de, D: Deserializer<'de>>(from: D) -> Result<StatusCode, D::Error> {
    let code = u16::deserialize(from)?;
    final_status(code).ok_or_else(|| D::Error::custom("a status is between 200 and 999"))
}

/// A status that can end an exchange.
pub fn final_status(code: u16) -> Option<StatusCode> {
    StatusCode::from_u16(code).ok().filter(|status| !status.is_informational())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Behaviour {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn each_fault_has_its_form_in_json() {
        let table = [
            (r#"{"fault": {"status": 503}}"#, Fault::Status(StatusCode::SERVICE_UNAVAILABLE)),
            (
                r#"{"fault": {"rate_limited": {"retry_after": 2}}}"#,
                Fault::RateLimited { retry_after: 2 },
            ),
            (r#"{"fault": "close"}"#, Fault::Close),
            (r#"{"fault": "cut"}"#, Fault::Cut),
        ];
        for (json, fault) in table {
            assert_eq!(read(json), Behaviour::always(fault), "{json}");
        }
        assert_eq!(read("{}"), Behaviour::default());
        let slow = read(r#"{"latency": "50ms", "fault": "cut", "times": 3}"#);
        assert_eq!(slow.latency, Duration::from_millis(50));
        assert_eq!(slow.times, Some(3));
    }

    #[test]
    fn what_it_does_not_know_is_an_error() {
        for json in [
            r#"{"latency": "5 parsec"}"#,
            r#"{"fault": {"status": 100}}"#,
            r#"{"fault": {"status": 1000}}"#,
            r#"{"slow": true}"#,
            r#"{"fault": "no"}"#,
        ] {
            assert!(serde_json::from_str::<Behaviour>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_fault_for_two_calls_spares_the_third() {
        let mut behaviour = Behaviour::next(2, Fault::Close);
        let faults: Vec<_> = (0..3).map(|_| behaviour.next_fault()).collect();
        assert_eq!(faults, [Some(Fault::Close), Some(Fault::Close), None]);
    }
}
