//! Rate limits of the fakes: a number of calls in a fixed window that begins with the first call.
//!
//! Owns: the windows. Never touches: the clock; the response to a call beyond a limit.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// A number of calls per time: `50/s`, `30/1m`, `10000/10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The number of calls.
    pub limit: u64,
    /// The time from the first call until the full number is available again.
    pub window: Duration,
}

/// A text that is not a valid rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a rate: expected calls per time, such as 50/s or 10000/10m")]
pub struct ParseRateError(String);

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let parse = || {
            let (limit, window) = text.split_once('/')?;
            let has_count = window.starts_with(|c: char| c.is_ascii_digit());
            let window = if has_count { window.to_owned() } else { format!("1{window}") };
            let window = humantime::parse_duration(&window).ok()?;
            let limit = limit.parse().ok()?;
            (!window.is_zero()).then_some(Self { limit, window })
        };
        parse().ok_or_else(|| ParseRateError(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The result of counting a call against a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acquired {
    /// Whether the call is within the limit.
    pub(super) within: bool,
    /// The number of calls left in the window.
    pub(super) left: u64,
    /// The time until the window ends.
    pub(super) reset_after: Duration,
}

/// The windows of one limit, by key (such as a client or a resource).
#[derive(Debug, Clone)]
pub(super) struct Windows<K>(BTreeMap<K, Window>);

#[derive(Debug, Clone, Copy)]
struct Window {
    end: SystemTime,
    used: u64,
}

impl<K: Ord> Windows<K> {
    /// Counts one call in the window of `key`; a call beyond the limit is not counted.
    pub(super) fn acquire(&mut self, key: K, rate: Rate, now: SystemTime) -> Acquired {
        if self.0.len() >= MAX_WINDOWS {
            self.0.retain(|_, window| window.end > now);
        }
        let new_window = Window { end: now.checked_add(rate.window).unwrap_or(now), used: 0 };
        let window = self.0.entry(key).or_insert(new_window);
        // The window cannot last this long: the clock was set back.
        if window.end <= now || window.end > new_window.end {
            *window = new_window;
        }
        let within = window.used < rate.limit;
        window.used += u64::from(within);
        Acquired {
            within,
            left: rate.limit.saturating_sub(window.used),
            reset_after: window.end.duration_since(now).unwrap_or_default(),
        }
    }

    /// The number of calls that the window of `key` has counted.
    pub(super) fn used(&self, key: &K, now: SystemTime) -> u64 {
        self.0.get(key).filter(|window| window.end > now).map_or(0, |window| window.used)
    }
}

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// At this number of windows, expired ones are removed.
const MAX_WINDOWS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000) + Duration::from_millis(millis)
    }

    #[test]
    fn a_rate_is_written_as_calls_per_time() {
        let table = [
            ("50/s", 50, Duration::from_secs(1)),
            ("30/m", 30, Duration::from_secs(60)),
            ("10000/10m", 10_000, Duration::from_secs(600)),
            ("1/250ms", 1, Duration::from_millis(250)),
        ];
        for (text, limit, window) in table {
            assert_eq!(text.parse(), Ok(Rate { limit, window }), "{text}");
        }
        for text in ["50", "s", "/s", "50/", "50/0s", "-1/s", "50/parsec"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_begins_with_the_first_call_and_allows_the_limit() {
        let rate = "2/s".parse().unwrap();
        let mut windows = Windows::default();
        let results: Vec<_> = [0, 400, 999, 1_000]
            .map(|millis| windows.acquire("a", rate, at(millis)))
            .map(|taken| (taken.within, taken.left, taken.reset_after.as_millis()))
            .to_vec();
        assert_eq!(results, [(true, 1, 1_000), (true, 0, 600), (false, 0, 1), (true, 1, 1_000)]);
    }

    #[test]
    fn each_key_has_a_window_of_its_own() {
        let rate = "1/s".parse().unwrap();
        let mut windows = Windows::default();
        assert!(windows.acquire("a", rate, at(0)).within);
        assert!(windows.acquire("b", rate, at(500)).within);
        assert!(!windows.acquire("a", rate, at(500)).within);
        assert!(windows.acquire("a", rate, at(1_000)).within);
        assert_eq!((windows.used(&"b", at(1_000)), windows.used(&"b", at(1_500))), (1, 0));
    }

    #[test]
    fn setting_the_clock_back_begins_a_new_window() {
        let rate = "1/s".parse().unwrap();
        let mut windows = Windows::default();
        assert!(windows.acquire("a", rate, at(10_000)).within);
        assert!(windows.acquire("a", rate, at(0)).within);
        assert_eq!(windows.acquire("a", rate, at(0)).reset_after, Duration::from_secs(1));
    }

    #[test]
    fn expired_windows_are_removed() {
        let rate = "1/s".parse().unwrap();
        let mut windows = Windows::default();
        for key in 0..=MAX_WINDOWS {
            windows.acquire(key, rate, at(0));
        }
        windows.acquire(usize::MAX, rate, at(2_000));
        assert_eq!(windows.0.len(), 1);
    }
}
