//! `Retry-After` (RFC 9110 §10.2.3), `retry-after-ms` and the vetoes of APIs: whether and when the origin allows
//! the next call.
//!
//! Owns: parsing of these fields, and of seconds in the forms that servers send. Never touches: the clock (`now`
//! is a parameter), the time that larder actually waits.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName};

use crate::semantics::date;

/// Maximum parsed time (136 years), so that it can be added to any time. Callers apply limits of their own.
pub const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// The same time in milliseconds (`OpenAI` and others). `Retry-After` beside it is its rounding.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// `Retry-After` in whole seconds exceeds the time in milliseconds by less than this.
const ROUNDING: Duration = Duration::from_secs(1);

/// The fields by which APIs tell their clients whether to repeat a call (`OpenAI`, Anthropic; Stripe).
const SHOULD_RETRY: [HeaderName; 2] =
    [HeaderName::from_static("x-should-retry"), HeaderName::from_static("stripe-should-retry")];

/// The time that a response requests before the next call, the longest of several fields. A past date or a
/// negative number counts as zero. A value that is neither seconds nor a date is ignored.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// # use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
/// use larder::semantics::retry_after::from_headers;
///
/// let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
/// let wait = |value: &'static str| {
///     from_headers(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]), now)
/// };
/// assert_eq!(wait("120"), Some(Duration::from_secs(120)));
/// assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
/// assert_eq!(wait("soon"), None);
/// ```
pub fn from_headers(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let stated = headers.get_all(RETRY_AFTER).iter().filter_map(|value| wait(value.as_bytes(), now)).max();
    let exact = headers.get_all(RETRY_AFTER_MS).iter().filter_map(|value| millis(value.as_bytes())).max();
    match (stated, exact) {
        (Some(stated), Some(exact)) if stated >= exact && stated.saturating_sub(exact) < ROUNDING => {
            Some(exact)
        }
        (stated, exact) => stated.max(exact),
    }
}

/// Whether the response forbids to repeat the call (`x-should-retry: false`). `true` permits nothing that the
/// operator's `retry` does not.
pub fn is_vetoed(headers: &HeaderMap) -> bool {
    let is_false = |value: &http::HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"false");
    SHOULD_RETRY.iter().any(|name| headers.get_all(name).iter().any(is_false))
}

/// Parses decimal milliseconds.
fn millis(value: &[u8]) -> Option<Duration> {
    seconds(value).map(|wait| (wait / 1000).min(LONGEST))
}

fn wait(value: &[u8], now: SystemTime) -> Option<Duration> {
    let wait = seconds(value).or_else(|| {
        let date = date::parse(value, now)?;
        Some(date.duration_since(now).unwrap_or_default())
    });
    wait.map(|wait| wait.min(LONGEST))
}

/// Parses decimal seconds. The RFC allows only whole seconds, but servers also send fractions and, after the
/// time has passed, negative numbers, which count as zero. A number that is too large is clamped.
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
    let duration = Duration::new(saturating(whole), nanos(fraction));
    is_number.then_some(if negative { Duration::ZERO } else { duration })
}

fn saturating(digits: &[u8]) -> u64 {
    let value = |digit: u8| u64::from(digit.wrapping_sub(b'0'));
    digits.iter().fold(0, |sum: u64, &digit| sum.saturating_mul(10).saturating_add(value(digit)))
}

/// The first nine digits after the decimal point.
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
    use crate::semantics::retry_after::{LONGEST, from_headers, seconds};

    fn now() -> SystemTime {
        date::parse_undated(b"Sun, 06 Nov 1994 08:49:37 GMT").unwrap()
    }

    fn parsed(lines: &[&'static str]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(RETRY_AFTER, HeaderValue::from_static(line));
        }
        from_headers(&headers, now())
    }

    #[test]
    fn ups_07_retry_after_is_parsed_to_a_wait_or_ignored() {
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
            assert_eq!(parsed(&[line]), expected, "{line:?}");
        }
    }

    fn of(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let named = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(named).collect()
    }

    #[test]
    fn milliseconds_are_more_exact_than_the_seconds_beside_them() {
        for (fields, expected) in [
            (&[("retry-after-ms", "300")][..], Some(300)),
            (&[("retry-after-ms", "300"), ("retry-after", "1")], Some(300)),
            (&[("retry-after-ms", "12.5")], Some(12)),
            (&[("retry-after-ms", "300"), ("retry-after", "0")], Some(300)),
            (&[("retry-after-ms", "300"), ("retry-after", "20")], Some(20_000)),
            (&[("retry-after-ms", "-1")], Some(0)),
            (&[("retry-after-ms", "soon"), ("retry-after", "2")], Some(2000)),
            (&[("retry-after-ms", "soon")], None),
        ] {
            let wait = from_headers(&of(fields), now()).map(|wait| wait.as_millis());
            assert_eq!(wait, expected, "{fields:?}");
        }
    }

    #[test]
    fn only_false_is_a_veto() {
        let vetoed = |name, value| super::is_vetoed(&of(&[(name, value)]));
        assert!(vetoed("x-should-retry", "false") && vetoed("stripe-should-retry", "False "));
        for value in ["true", "", "0", "no", "falsey"] {
            assert!(!vetoed("x-should-retry", value), "{value}");
        }
        assert!(!vetoed("retry-after", "false"));
    }

    #[test]
    fn the_longest_of_several_fields_applies() {
        assert_eq!(parsed(&[]), None);
        assert_eq!(parsed(&["1", "30", "2"]), Some(Duration::from_secs(30)));
        assert_eq!(parsed(&["abc", "2"]), Some(Duration::from_secs(2)));
        assert_eq!(parsed(&["5", "Sun, 06 Nov 1994 08:50:37 GMT"]), Some(Duration::from_secs(60)));
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
            prop_assert!(from_headers(&headers, now).is_none_or(|wait| wait <= LONGEST));
        }

        #[test]
        fn decimal_seconds_are_parsed_exactly(
            whole in any::<u64>(),
            nanos in 0u32..1_000_000_000,
        ) {
            let read = seconds(format!("{whole}.{nanos:09}").as_bytes());
            prop_assert_eq!(read, Some(Duration::new(whole, nanos)));
        }

        #[test]
        fn text_that_looks_like_a_number_never_panics(text in "-?[0-9]{0,40}\\.?[0-9]{0,40}") {
            prop_assert_eq!(
                seconds(text.as_bytes()).is_some(),
                text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit())
            );
        }

        #[test]
        fn a_date_is_parsed_to_the_time_until_then(ahead in 0u64..4_000_000_000) {
            let then = httpdate::fmt_http_date(now() + Duration::from_secs(ahead));
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(&then).unwrap());
            prop_assert_eq!(from_headers(&headers, now()), Some(Duration::from_secs(ahead)));
        }
    }
}
