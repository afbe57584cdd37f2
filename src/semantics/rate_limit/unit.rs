//! The units in which APIs write times: seconds, dates, `6m0s` and others.
//!
//! Owns: parsing of a time in a given unit. Never touches: which field has which unit (`dialect`).

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::fmt::friendly::SpanParser;

use crate::semantics::rate_limit::x_ratelimit;
use crate::semantics::retry_after;

/// The unit of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Millis,
    /// Seconds since 1970.
    Epoch,
    /// Milliseconds since 1970.
    EpochMillis,
    /// A date: `2026-11-29T12:30Z`.
    Iso8601,
    /// A duration: `6m0s`, `12ms`, `10h17m5.7s`.
    GoDuration,
    /// Seconds from now, or seconds or milliseconds since 1970, or an HTTP date, whichever is plausible.
    Auto,
}

impl TimeUnit {
    /// All units with their names in configurations.
    pub const ALL: [(&'static str, Self); 7] = [
        ("s", Self::Seconds),
        ("ms", Self::Millis),
        ("epoch", Self::Epoch),
        ("epoch-ms", Self::EpochMillis),
        ("iso8601", Self::Iso8601),
        ("go-duration", Self::GoDuration),
        ("auto", Self::Auto),
    ];

    /// The time from `now` that `value` means. A negative number means that there is none (`-1`); a date that
    /// has passed recently is zero.
    pub(super) fn parse(self, value: &[u8], now: SystemTime) -> Option<Duration> {
        let number = || retry_after::seconds(value).filter(|_| !value.trim_ascii().starts_with(b"-"));
        let since_1970 = |since| x_ratelimit::until(SystemTime::UNIX_EPOCH.checked_add(since)?, now);
        let time = match self {
            Self::Seconds => number(),
            Self::Millis => number().map(|time| time / 1000),
            Self::Epoch => number().and_then(since_1970),
            Self::EpochMillis => number().and_then(|time| since_1970(time / 1000)),
            Self::Iso8601 => iso8601(value).and_then(|time| x_ratelimit::until(time, now)),
            Self::GoDuration => go_duration(value),
            Self::Auto => x_ratelimit::plausible_time(value, value, now),
        };
        time.filter(|time| *time <= super::MAX_TIME)
    }
}

/// A date without a zone is in UTC.
fn iso8601(value: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let read = |text: &str| text.parse::<Timestamp>().ok();
    read(text).or_else(|| read(&format!("{text}Z"))).and_then(|time| SystemTime::try_from(time).ok())
}

/// As Go writes durations. A number without a unit is in seconds.
fn go_duration(value: &[u8]) -> Option<Duration> {
    let value = value.trim_ascii();
    if value.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
        return retry_after::seconds(value);
    }
    let is_one_word = value.iter().all(|byte| !byte.is_ascii_whitespace());
    let time = is_one_word.then(|| SpanParser::new().parse_unsigned_duration(value).ok());
    time.flatten()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::semantics::date;
    use crate::semantics::rate_limit::MAX_TIME;

    fn now() -> SystemTime {
        date::parse_undated(b"Sun, 29 Nov 2026 12:00:00 GMT").unwrap()
    }

    fn millis(unit: TimeUnit, value: &str) -> Option<u128> {
        unit.parse(value.as_bytes(), now()).map(|time| time.as_millis())
    }

    #[test]
    fn times_are_read_in_their_units() {
        let half_an_hour = Some(1_800_000);
        for (unit, value, expected) in [
            (TimeUnit::Seconds, "60", Some(60_000)),
            (TimeUnit::Seconds, "1.5", Some(1500)),
            (TimeUnit::Seconds, "-1", None),
            (TimeUnit::Millis, "300", Some(300)),
            (TimeUnit::Epoch, "1795955400", half_an_hour),
            (TimeUnit::Epoch, "60", None),
            (TimeUnit::EpochMillis, "1795955400000", half_an_hour),
            (TimeUnit::Iso8601, "2026-11-29T12:30Z", half_an_hour),
            (TimeUnit::Iso8601, "2026-11-29T12:30:00Z", half_an_hour),
            (TimeUnit::Iso8601, "2026-11-29T12:30:00.000Z", half_an_hour),
            (TimeUnit::Iso8601, "2026-11-29T13:30:00+01:00", half_an_hour),
            (TimeUnit::Iso8601, "2026-11-29T12:30:00", half_an_hour),
            (TimeUnit::Iso8601, "2026-11-29T11:59Z", Some(0)),
            (TimeUnit::Iso8601, "1800", None),
            (TimeUnit::GoDuration, "6m0s", Some(360_000)),
            (TimeUnit::GoDuration, "12ms", Some(12)),
            (TimeUnit::GoDuration, "1s", Some(1000)),
            (TimeUnit::GoDuration, "1h2m3s", Some(3_723_000)),
            (TimeUnit::GoDuration, "10h17m5.7s", Some(37_025_700)),
            (TimeUnit::GoDuration, "1m26.4s", Some(86_400)),
            (TimeUnit::GoDuration, "500us", Some(0)),
            (TimeUnit::GoDuration, "34", Some(34_000)),
            (TimeUnit::GoDuration, "soon", None),
            (TimeUnit::GoDuration, "-5s", None),
            (TimeUnit::Auto, "60", Some(60_000)),
            (TimeUnit::Auto, "1795955400", half_an_hour),
            (TimeUnit::Auto, "1795955400000", half_an_hour),
        ] {
            assert_eq!(millis(unit, value), expected, "{unit:?} {value}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_bounded_time_or_none(value in vec(any::<u8>(), 0..40), place in 0usize..7) {
            let (_, unit) = TimeUnit::ALL[place];
            prop_assert!(unit.parse(&value, now()).is_none_or(|time| time <= MAX_TIME));
        }

        #[test]
        fn text_like_a_time_never_panics(text in "-?[0-9]{1,30}(\\.[0-9]{0,20})?(h|m|s|ms)?[0-9]{0,9}s?") {
            for (_, unit) in TimeUnit::ALL {
                prop_assert!(unit.parse(text.as_bytes(), now()).is_none_or(|time| time <= MAX_TIME));
            }
        }
    }
}
