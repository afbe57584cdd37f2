//! `Retry-After` (RFC 9110 §10.2.3): when the origin wants to be asked again.
//!
//! Owns: how it is read, and seconds as servers write them. Never touches: the clock (`now` is handed
//! in), how long is really waited.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::semantics::date;

/// No wait is read as longer (136 years), so that it can be added to any time. Whoever waits has a
/// bound of its own.
pub const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// How long the answer asks to be left alone; the longest of several fields. A time that is over, or
/// below zero, means now; what is neither seconds nor a date says nothing.
pub fn of(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    headers.get_all(RETRY_AFTER).iter().filter_map(|value| wait(value.as_bytes(), now)).max()
}

fn wait(value: &[u8], now: SystemTime) -> Option<Duration> {
    let told = seconds(value).or_else(|| {
        let date = date::parse(value, now)?;
        Some(date.duration_since(now).unwrap_or_default())
    });
    told.map(|told| told.min(LONGEST))
}

/// Seconds in decimal. The RFC has whole ones only, but servers also send fractions and, once the
/// time is over, less than nothing, which counts as zero. What is too large is as large as can be.
pub(super) fn seconds(value: &[u8]) -> Option<Duration> {
    let value = value.trim_ascii();
    let (negative, digits) = match value {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let point = digits.iter().position(|&byte| byte == b'.').unwrap_or(digits.len());
    let (whole, fraction) = digits.split_at(point);
    let fraction = fraction.strip_prefix(b".").unwrap_or_default();
    let is_number = !whole.is_empty() && whole.iter().chain(fraction).all(u8::is_ascii_digit);
    let told = Duration::new(saturating(whole), nanos(fraction));
    is_number.then_some(if negative { Duration::ZERO } else { told })
}

fn saturating(digits: &[u8]) -> u64 {
    let value = |digit: u8| u64::from(digit.wrapping_sub(b'0'));
    digits.iter().fold(0, |sum: u64, &digit| sum.saturating_mul(10).saturating_add(value(digit)))
}

/// The first nine digits behind the point.
fn nanos(digits: &[u8]) -> u32 {
    let digits = digits.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    digits.fold(0, |sum, digit| sum * 10 + u32::from(digit.wrapping_sub(b'0') % 10))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use crate::semantics::date;
    use crate::semantics::retry_after::{LONGEST, of, seconds};

    fn now() -> SystemTime {
        date::parse_undated(b"Sun, 06 Nov 1994 08:49:37 GMT").unwrap()
    }

    fn told(lines: &[&'static str]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(RETRY_AFTER, HeaderValue::from_static(line));
        }
        of(&headers, now())
    }

    #[test]
    fn ups_07_whatever_retry_after_says_is_a_time_to_wait_or_nothing() {
        // RFC 9110 §10.2.3.
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (line, expected) in [
            ("1", seconds(1)),
            ("120", seconds(120)),
            (" 7 ", seconds(7)),
            ("0", seconds(0)),
            ("-5", seconds(0)),
            ("-0.5", seconds(0)),
            ("-0", seconds(0)),
            ("1.5", Some(Duration::from_millis(1500))),
            ("0.0000000019", Some(Duration::from_nanos(1))),
            ("3.", seconds(3)),
            ("999999999", seconds(999_999_999)),
            ("9999999999", Some(LONGEST)),
            ("99999999999999999999999999999999", Some(LONGEST)),
            ("-99999999999999999999999999999999", seconds(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", seconds(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", seconds(10)),
            ("Sun Nov  6 08:49:47 1994", seconds(10)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", seconds(0)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", seconds(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", seconds(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(LONGEST)),
            ("abc", None),
            ("", None),
            ("-", None),
            (".", None),
            (".5", None),
            ("+5", None),
            ("--5", None),
            ("1.5.5", None),
            ("1,5", None),
            ("1e3", None),
            ("0x10", None),
            ("5s", None),
            ("5 seconds", None),
            ("inf", None),
            ("NaN", None),
            ("1994-11-06T08:49:47Z", None),
        ] {
            assert_eq!(told(&[line]), expected, "{line:?}");
        }
    }

    #[test]
    fn of_several_fields_the_longest_counts() {
        assert_eq!(told(&[]), None);
        assert_eq!(told(&["1", "30", "2"]), Some(Duration::from_secs(30)));
        assert_eq!(told(&["abc", "2"]), Some(Duration::from_secs(2)));
        assert_eq!(told(&["5", "Sun, 06 Nov 1994 08:50:37 GMT"]), Some(Duration::from_secs(60)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_bounded_wait_or_none(
            lines in vec(vec(any::<u8>(), 0..40), 0..4),
            since in any::<u64>(),
        ) {
            let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since));
            let now = now.unwrap_or(SystemTime::UNIX_EPOCH);
            let mut headers = HeaderMap::new();
            for line in lines {
                if let Ok(line) = HeaderValue::from_bytes(&line) {
                    headers.append(RETRY_AFTER, line);
                }
            }
            prop_assert!(of(&headers, now).is_none_or(|wait| wait <= LONGEST));
        }

        #[test]
        fn seconds_that_are_written_are_read_back(
            whole in any::<u64>(),
            nanos in 0u32..1_000_000_000,
        ) {
            let read = seconds(format!("{whole}.{nanos:09}").as_bytes());
            prop_assert_eq!(read, Some(Duration::new(whole, nanos)));
        }

        #[test]
        fn what_looks_like_a_number_never_panics(text in "-?[0-9]{0,40}\\.?[0-9]{0,40}") {
            prop_assert_eq!(
                seconds(text.as_bytes()).is_some(),
                text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit())
            );
        }

        #[test]
        fn a_date_means_the_time_until_then(ahead in 0u64..4_000_000_000) {
            let then = httpdate::fmt_http_date(now() + Duration::from_secs(ahead));
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(&then).unwrap());
            prop_assert_eq!(of(&headers, now()), Some(Duration::from_secs(ahead)));
        }
    }
}
