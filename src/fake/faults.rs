//! The faults that a fake injects: latency, errors, closed connections.
//!
//! Owns: the faults, their duration and the calls that they affect; their format in JSON.
//! Never touches: the bytes of a fault on the connection.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The behaviour of a fake. By default it responds at once and without faults. In JSON, as for `POST
/// /_fake/behave`: `{"latency": "50ms", "fault": {"status": 503}, "times": 3}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// The minimum time of a response.
    #[serde(deserialize_with = "latency")]
    pub latency: Duration,
    /// The fault to inject.
    pub fault: Option<Fault>,
    /// The number of calls that the fault affects; `None`: all, until other faults are set.
    pub times: Option<u64>,
    /// The share of the calls that the fault affects.
    pub share: Percentage,
    /// Selects the calls of the share. `None`: they are evenly spread, every second call for one half.
    /// Otherwise the selection is pseudo-random, and the same seed always selects the same calls.
    pub seed: Option<u64>,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Responds with this status.
    #[serde(deserialize_with = "status")]
    Status(StatusCode),
    /// Responds with 429 in the API's own format.
    RateLimited(RateLimited),
    /// Closes the connection without a response.
    Close,
    /// Closes the connection in the middle of the body.
    Cut,
    /// Refuses connections, and closes open connections at their next call. The listener applies it
    /// within moments; [`Fault::Close`] applies to the very next call, which is counted.
    Refuse,
}

/// The content of a 429.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimited {
    /// Seconds in `Retry-After`; `None`: the response contains no time at all.
    pub retry_after: Option<u32>,
    /// Discord: the scope of the limit.
    pub scope: Scope,
    /// CoinMarketCap: the `error_code`, 1008 (minute), 1009 (day), 1010 (month) or 1011 (address).
    pub code: Option<u32>,
}

/// The scope of the exceeded limit, in Discord's terms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The caller's limit for one bucket.
    #[default]
    User,
    /// The caller's limit for all calls.
    Global,
    /// The limit of a resource, shared by all callers.
    Shared,
}

impl Scope {
    /// The value of `X-RateLimit-Scope`.
    pub fn token(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Global => "global",
            Self::Shared => "shared",
        }
    }
}

/// A share of all calls, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentage(u32);

impl Percentage {
    /// All calls.
    pub const ALL: Self = Self(MILLION);

    /// From a fraction between 0 (none) and 1 (all).
    pub fn from_fraction(fraction: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a million"
        )]
        (0.0..=1.0).contains(&fraction).then(|| Self((fraction * f64::from(MILLION)).round() as u32))
    }

    /// Whether the share covers the call of this number, counted from 0.
    fn covers(self, number: u64, seed: Option<u64>) -> bool {
        let (share, all) = (u128::from(self.0), u128::from(MILLION));
        if let Some(seed) = seed {
            let chance = u128::from(xxh3_64_with_seed(&number.to_le_bytes(), seed));
            return chance * all < share << u64::BITS;
        }
        let affected_until = |number: u128| number * share / all;
        affected_until(u128::from(number) + 1) > affected_until(u128::from(number))
    }
}

impl Default for Percentage {
    fn default() -> Self {
        Self::ALL
    }
}

impl<'de> Deserialize<'de> for Percentage {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let fraction = f64::deserialize(from)?;
        Self::from_fraction(fraction)
            .ok_or_else(|| D::Error::custom("a share is between 0 and 1, such as 0.5"))
    }
}

impl Fault {
    /// 429 with this number of seconds in `Retry-After`.
    pub fn rate_limited(retry_after: u32) -> Self {
        Self::RateLimited(RateLimited { retry_after: Some(retry_after), ..RateLimited::default() })
    }
}

impl Faults {
    /// Injects `fault` into every call.
    pub fn always(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    /// Injects `fault` into the next `times` calls.
    pub fn next(times: u64, fault: Fault) -> Self {
        Self { times: Some(times), ..Self::always(fault) }
    }

    /// The fault for the call of this number, where `hit` calls were affected before.
    pub(super) fn fault_for(&self, number: u64, hit: u64) -> Option<Fault> {
        let exhausted = self.times.is_some_and(|times| hit >= times);
        self.fault.filter(|_| !exhausted && self.share.covers(number, self.seed))
    }
}

pub(super) fn latency<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(D::Error::custom)
}

fn status<'de, D: Deserializer<'de>>(from: D) -> Result<StatusCode, D::Error> {
    let code = u16::deserialize(from)?;
    final_status(code).ok_or_else(|| D::Error::custom("a status is between 200 and 999"))
}

/// A final status: one that can end an exchange.
pub fn final_status(code: u16) -> Option<StatusCode> {
    StatusCode::from_u16(code).ok().filter(|status| !status.is_informational())
}

const MILLION: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Faults {
        serde_json::from_str(json).unwrap()
    }

    /// The numbers of the first calls that are affected.
    fn hits(behaviour: &Faults, calls: u64) -> Vec<u64> {
        let mut hit = Vec::new();
        for number in 0..calls {
            if behaviour.fault_for(number, hit.len() as u64).is_some() {
                hit.push(number);
            }
        }
        hit
    }

    #[test]
    fn each_fault_has_a_json_format() {
        let global = RateLimited { scope: Scope::Global, ..RateLimited::default() };
        let day = RateLimited { code: Some(1009), ..RateLimited::default() };
        let table = [
            (r#"{"fault": {"status": 503}}"#, Fault::Status(StatusCode::SERVICE_UNAVAILABLE)),
            (r#"{"fault": {"rate_limited": {"retry_after": 2}}}"#, Fault::rate_limited(2)),
            (r#"{"fault": {"rate_limited": {}}}"#, Fault::RateLimited(RateLimited::default())),
            (r#"{"fault": {"rate_limited": {"scope": "global"}}}"#, Fault::RateLimited(global)),
            (r#"{"fault": {"rate_limited": {"code": 1009}}}"#, Fault::RateLimited(day)),
            (r#"{"fault": "close"}"#, Fault::Close),
            (r#"{"fault": "cut"}"#, Fault::Cut),
            (r#"{"fault": "refuse"}"#, Fault::Refuse),
        ];
        for (json, fault) in table {
            assert_eq!(read(json), Faults::always(fault), "{json}");
        }
        assert_eq!(read("{}"), Faults::default());
        assert_eq!(read(r#"{"fault": null}"#), Faults::default());
        let slow = read(r#"{"latency": "50ms", "fault": "cut", "times": 3}"#);
        assert_eq!(slow.latency, Duration::from_millis(50));
        assert_eq!(slow.times, Some(3));
    }

    #[test]
    fn unknown_or_invalid_values_are_errors() {
        for json in [
            r#"{"latency": "5 parsec"}"#,
            r#"{"fault": {"status": 100}}"#,
            r#"{"fault": {"status": 1000}}"#,
            r#"{"fault": {"rate_limited": {"after": 1}}}"#,
            r#"{"share": 1.5}"#,
            r#"{"slow": true}"#,
            r#"{"fault": "no"}"#,
        ] {
            assert!(serde_json::from_str::<Faults>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_fault_for_two_calls_does_not_affect_the_third() {
        assert_eq!(hits(&Faults::next(2, Fault::Close), 5), [0, 1]);
        let half = Faults { share: Percentage::from_fraction(0.5).unwrap(), ..Faults::next(2, Fault::Cut) };
        assert_eq!(hits(&half, 9), [1, 3], "unaffected calls do not count");
    }

    #[test]
    fn a_share_is_spread_evenly_over_the_calls() {
        let with_share = |share| Faults {
            share: Percentage::from_fraction(share).unwrap(),
            ..Faults::always(Fault::Close)
        };
        assert_eq!(hits(&with_share(0.5), 6), [1, 3, 5]);
        assert_eq!(hits(&with_share(0.25), 8), [3, 7]);
        assert_eq!(hits(&with_share(0.1), 1_000).len(), 100);
        assert_eq!(hits(&with_share(0.0), 1_000).len(), 0);
        assert_eq!(hits(&with_share(1.0), 10).len(), 10);
    }

    #[test]
    fn a_seeded_share_is_pseudo_random_and_reproducible() {
        let half = |seed| Faults {
            share: Percentage::from_fraction(0.5).unwrap(),
            seed: Some(seed),
            ..Faults::always(Fault::Close)
        };
        let first = hits(&half(1), 1_000);
        assert_eq!(first, hits(&half(1), 1_000));
        assert_ne!(first, hits(&half(2), 1_000));
        assert!((400..600).contains(&first.len()), "{}", first.len());
        assert!(first.windows(2).any(|pair| pair[1] == pair[0] + 1), "two in a row");
    }
}
