//! Limits as the fakes keep them: so many calls in a window that begins with the first of them.
//!
//! Owns: the windows. Never touches: the clock; what a caller beyond a limit is told.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// So many calls in so long a time: `50/s`, `30/1m`, `10000/10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls.
    pub limit: u64,
    /// The time from the first of them until all may be made again.
    pub window: Duration,
}

/// Why a text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no rate: say how many calls in what time, such as 50/s or 10000/10m")]
pub struct ParseRateError(String);

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let read = || {
            let (limit, window) = text.split_once('/')?;
            let counted = window.starts_with(|c: char| c.is_ascii_digit());
            let window = if counted { window.to_owned() } else { format!("1{window}") };
            let window = humantime::parse_duration(&window).ok()?;
            let limit = limit.parse().ok()?;
            (!window.is_zero()).then_some(Self { limit, window })
        };
        read().ok_or_else(|| ParseRateError(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// What a limit says to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acquired {
    /// Whether the call is within the limit.
    pub(super) within: bool,
    /// How many more are.
    pub(super) left: u64,
    /// When the window ends.
    pub(super) reset_after: Duration,
}

/// The windows of one limit, by whom or what it is kept apart.
#[derive(Debug, Clone)]
pub(super) struct Windows<K>(BTreeMap<K, Window>);

#[derive(Debug, Clone, Copy)]
struct Window {
    end: SystemTime,
    used: u64,
}

impl<K: Ord> Windows<K> {
    /// Takes one call out of the window of `key`; a call beyond the limit takes nothing.
    pub(super) fn take(&mut self, key: K, rate: Rate, now: SystemTime) -> Acquired {
        if self.0.len() >= MOST {
            self.0.retain(|_, window| window.end > now);
        }
        let fresh = Window { end: now.checked_add(rate.window).unwrap_or(now), used: 0 };
        let window = self.0.entry(key).or_insert(fresh);
        // A window that seems to last longer than it can: the clock was set back.
        if window.end <= now || window.end > fresh.end {
            *window = fresh;
        }
        let within = window.used < rate.limit;
        window.used += u64::from(within);
        Acquired {
            within,
            left: rate.limit.saturating_sub(window.used),
            reset_after: window.end.duration_since(now).unwrap_or_default(),
        }
    }

    /// How many calls the window of `key` has seen.
    pub(super) fn used(&self, key: &K, now: SystemTime) -> u64 {
        self.0.get(key).filter(|window| window.end > now).map_or(0, |window| window.used)
    }
}

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// With so many windows, those that are over are forgotten.
const MOST: usize = 10_000;

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
    fn a_window_begins_with_the_first_call_and_lets_the_limit_through() {
        let rate = "2/s".parse().unwrap();
        let mut windows = Windows::default();
        let told: Vec<_> = [0, 400, 999, 1_000]
            .map(|millis| windows.take("a", rate, at(millis)))
            .map(|taken| (taken.within, taken.left, taken.reset_after.as_millis()))
            .to_vec();
        assert_eq!(told, [(true, 1, 1_000), (true, 0, 600), (false, 0, 1), (true, 1, 1_000)]);
    }

    #[test]
    fn each_key_has_a_window_of_its_own() {
        let rate = "1/s".parse().unwrap();
        let mut windows = Windows::default();
        assert!(windows.take("a", rate, at(0)).within);
        assert!(windows.take("b", rate, at(500)).within);
        assert!(!windows.take("a", rate, at(500)).within);
        assert!(windows.take("a", rate, at(1_000)).within);
        assert_eq!((windows.used(&"b", at(1_000)), windows.used(&"b", at(1_500))), (1, 0));
    }

    #[test]
    fn a_clock_that_was_set_back_begins_a_new_window() {
        let rate = "1/s".parse().unwrap();
        let mut windows = Windows::default();
        assert!(windows.take("a", rate, at(10_000)).within);
        assert!(windows.take("a", rate, at(0)).within);
        assert_eq!(windows.take("a", rate, at(0)).reset_after, Duration::from_secs(1));
    }

    #[test]
    fn windows_that_are_over_are_forgotten() {
        let rate = "1/s".parse().unwrap();
        let mut windows = Windows::default();
        for key in 0..=MOST {
            windows.take(key, rate, at(0));
        }
        windows.take(usize::MAX, rate, at(2_000));
        assert_eq!(windows.0.len(), 1);
    }
}
