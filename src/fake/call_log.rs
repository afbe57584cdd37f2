//! The calls that a fake received.
//!
//! Owns: the counts. Never touches: the clock, the responses.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::StatusCode;
use serde::Serialize;

/// Counts of the calls since the fake started or was reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CallLog {
    /// All calls, including failed ones.
    pub total: u64,
    /// Bytes of the response bodies that were sent.
    pub bytes: u64,
    /// Calls by method and path pattern, such as `GET /guilds/{guild}/roles`.
    pub by_endpoint: BTreeMap<String, u64>,
    /// Responses by status; a call whose connection was closed has none.
    pub by_status: BTreeMap<u16, u64>,
    /// Calls by the phase of the script in which they arrived.
    pub by_phase: BTreeMap<String, u64>,
}

/// All counters.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) calls: CallLog,
    by_second: BTreeMap<u64, u64>,
}

impl Counts {
    /// Counts a call and returns its sequence number, from 0.
    pub(super) fn record_call(&mut self, endpoint: &str, phase: Option<&str>, now: SystemTime) -> u64 {
        let calls = &mut self.calls;
        let number = calls.total;
        calls.total += 1;
        *calls.by_endpoint.entry(endpoint.to_owned()).or_default() += 1;
        if let Some(phase) = phase {
            *calls.by_phase.entry(phase.to_owned()).or_default() += 1;
        }
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        *self.by_second.entry(since_epoch.as_secs()).or_default() += 1;
        if self.by_second.len() > MAX_SECONDS {
            self.by_second.pop_first();
        }
        number
    }

    /// Counts a response; without a status, the connection was closed before the client received one.
    pub(super) fn record_response(&mut self, status: Option<StatusCode>, bytes: usize) {
        if let Some(status) = status {
            *self.calls.by_status.entry(status.as_u16()).or_default() += 1;
        }
        self.calls.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// Calls by second since 1970: only seconds with calls, and only the last [`MAX_SECONDS`] of those.
    pub(super) fn by_second(&self) -> BTreeMap<u64, u64> {
        self.by_second.clone()
    }
}

/// The number of seconds that are kept: more than a day.
const MAX_SECONDS: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn calls_are_counted_by_endpoint_phase_and_second() {
        let mut counts = Counts::default();
        assert_eq!(counts.record_call("GET /a", None, at(5)), 0);
        assert_eq!(counts.record_call("GET /a", Some("storm"), at(7)), 1);
        assert_eq!(counts.record_call("GET /b", Some("storm"), at(7)), 2);
        assert_eq!(counts.calls.by_endpoint["GET /a"], 2);
        assert_eq!(counts.calls.by_phase, BTreeMap::from([("storm".to_owned(), 2)]));
        assert_eq!(counts.by_second(), BTreeMap::from([(5, 1), (7, 2)]));
    }

    #[test]
    fn a_closed_connection_has_no_status_and_its_bytes_count() {
        let mut counts = Counts::default();
        counts.record_response(Some(StatusCode::OK), 10);
        counts.record_response(None, 3);
        assert_eq!(counts.calls.by_status, BTreeMap::from([(200, 1)]));
        assert_eq!(counts.calls.bytes, 13);
    }

    #[test]
    fn the_oldest_seconds_are_dropped() {
        let mut counts = Counts::default();
        for second in 0..=MAX_SECONDS as u64 {
            counts.record_call("GET /a", None, at(second));
        }
        assert_eq!(counts.by_second().len(), MAX_SECONDS);
        assert_eq!(counts.by_second().first_key_value(), Some((&1, &1)));
    }
}
