//! HTTP-dates (RFC 9110 §5.6.7): all three forms, any letter case, nothing else.
//!
//! Owns: parsing of dates. It is strict on purpose, because callers treat an invalid date as a date in the
//! past. Never touches: the clock; the caller passes the reference time for two-digit years.

use std::time::{Duration, SystemTime};

use http::header::DATE;
use http::{HeaderMap, HeaderValue};

use crate::semantics::utc_calendar::{day_number, next_month_start};

const MONTHS: [&[u8]; 12] =
    [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
const DAYS: [&[u8]; 7] =
    [b"monday", b"tuesday", b"wednesday", b"thursday", b"friday", b"saturday", b"sunday"];
const DAY: i64 = 86_400;

/// Adds a `Date` field with the time of receipt to a message without one (RFC 9110 §6.6.1).
pub fn add_if_missing(headers: &mut HeaderMap, received: SystemTime) {
    if !headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(received))
    {
        headers.insert(DATE, date);
    }
}

/// Reads an HTTP-date. The two-digit year of the RFC 850 form is the latest one that is not more
/// than 50 years after `near`.
pub fn parse(value: &[u8], near: SystemTime) -> Option<SystemTime> {
    let value = value.trim_ascii();
    let civil = match value.iter().position(|&b| b == b',') {
        Some(3) => imf_fixdate(value)?,
        Some(comma) => rfc850(value, comma, near)?,
        None => asctime(value)?,
    };
    civil.time()
}

/// Like [`parse`], with two-digit years in 1970 to 2069, for fields without a reference date.
pub fn parse_undated(value: &[u8]) -> Option<SystemTime> {
    parse(value, SystemTime::UNIX_EPOCH + Duration::from_secs(49 * 31_557_600))
}

struct CivilDate {
    year: i64,
    month: i64,
    day: i64,
    seconds: i64,
}

impl CivilDate {
    fn time(&self) -> Option<SystemTime> {
        let seconds = day_number(self.year, self.month, self.day) * DAY + self.seconds;
        let distance = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        }
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn imf_fixdate(value: &[u8]) -> Option<CivilDate> {
    let (day_name, rest) = value.split_at_checked(5)?;
    let (date, rest) = rest.split_at_checked(12)?;
    if !day_name.ends_with(b", ") || !is_day(day_name.get(..3)?, false) || rest.len() != 12 {
        return None;
    }
    let [d1, d2, b' ', m1, m2, m3, b' ', y1, y2, y3, y4, b' '] = *date else { return None };
    let year = number(&[y1, y2, y3, y4])?;
    civil(year, month([m1, m2, m3])?, number(&[d1, d2])?, clock_gmt(rest)?)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`.
fn rfc850(value: &[u8], comma: usize, near: SystemTime) -> Option<CivilDate> {
    let (day_name, rest) = value.split_at_checked(comma)?;
    let (date, rest) = rest.split_at_checked(12)?;
    if !is_day(day_name, true) || rest.len() != 12 {
        return None;
    }
    let [b',', b' ', d1, d2, b'-', m1, m2, m3, b'-', y1, y2, b' '] = *date else { return None };
    let seconds = clock_gmt(rest)?;
    let (month, day, two_digits) = (month([m1, m2, m3])?, number(&[d1, d2])?, number(&[y1, y2])?);
    let latest = year_of(near) + 50;
    civil(latest - (latest - two_digits).rem_euclid(100), month, day, seconds)
}

/// `Sun Nov  6 08:49:37 1994`.
fn asctime(value: &[u8]) -> Option<CivilDate> {
    let (day_name, rest) = value.split_at_checked(4)?;
    let (date, rest) = rest.split_at_checked(7)?;
    let (time, year) = rest.split_at_checked(8)?;
    if !day_name.ends_with(b" ") || !is_day(day_name.get(..3)?, false) {
        return None;
    }
    let [m1, m2, m3, b' ', d1, d2, b' '] = *date else { return None };
    let day = if d1 == b' ' { number(&[d2])? } else { number(&[d1, d2])? };
    let [b' ', y1, y2, y3, y4] = *year else { return None };
    civil(number(&[y1, y2, y3, y4])?, month([m1, m2, m3])?, day, clock(time)?)
}

/// `08:49:37 GMT`. Other time zones are invalid in an HTTP-date, even equivalent ones.
fn clock_gmt(value: &[u8]) -> Option<i64> {
    let (time, zone) = value.split_at_checked(8)?;
    if zone.eq_ignore_ascii_case(b" GMT") { clock(time) } else { None }
}

/// Seconds since midnight. A leap second counts as the second before it, so the time rounds down.
fn clock(time: &[u8]) -> Option<i64> {
    let [h1, h2, b':', m1, m2, b':', s1, s2] = *time else { return None };
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[m1, m2])?, number(&[s1, s2])?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(hour * 3600 + minute * 60 + second.min(59))
}

fn civil(year: i64, month: i64, day: i64, seconds: i64) -> Option<CivilDate> {
    let first = day_number(year, month, 1);
    let length = next_month_start(first) - first;
    (1..=length).contains(&day).then_some(CivilDate { year, month, day, seconds })
}

fn is_day(name: &[u8], whole: bool) -> bool {
    DAYS.iter().any(|day| {
        let day = if whole { day } else { day.get(..3).unwrap_or(day) };
        name.eq_ignore_ascii_case(day)
    })
}

fn month(name: [u8; 3]) -> Option<i64> {
    let at = MONTHS.iter().position(|month| name.eq_ignore_ascii_case(month))?;
    i64::try_from(at + 1).ok()
}

fn number(digits: &[u8]) -> Option<i64> {
    digits
        .iter()
        .try_fold(0, |sum, &digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
}

/// The calendar year of a time. The result may be off by a day, which the 50-year rule tolerates.
fn year_of(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let days = i64::try_from(since.as_secs() / DAY.unsigned_abs()).unwrap_or(0);
    1970 + days * 400 / 146_097
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::{any, proptest};

    use crate::semantics::date::{parse, parse_undated};

    const EXAMPLE: u64 = 784_111_777;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn all_three_forms_in_any_case_mean_the_same() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "sun, 06 nov 1994 08:49:37 gmt",
            "SUN, 06 NOV 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "sUNDAY, 06-nOV-94 08:49:37 gmt",
            "Sun Nov  6 08:49:37 1994",
            "Sun Nov 06 08:49:37 1994",
            "  Sun, 06 Nov 1994 08:49:37 GMT ",
        ] {
            assert_eq!(parse_undated(text.as_bytes()), Some(at(EXAMPLE)), "{text}");
        }
    }

    #[test]
    fn any_other_text_is_not_a_date() {
        for text in [
            "0",
            "-1",
            "",
            "now",
            "784111777",
            ",",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 EST",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 06  Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 29 Feb 1900 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Foo, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nox 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06 Nov 1994 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov  6 08:49:37 94",
        ] {
            assert_eq!(parse_undated(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn dates_before_1970_and_past_2038_are_dates() {
        let old = parse_undated(b"Thu, 01 Jan 1601 00:00:00 GMT").unwrap();
        assert!(old < at(0));
        let far = parse_undated(b"Fri, 31 Dec 9999 23:59:59 GMT").unwrap();
        assert_eq!(far, at(253_402_300_799));
        assert_eq!(parse_undated(b"Tue, 29 Feb 2000 00:00:60 GMT"), Some(at(951_782_459)));
    }

    #[test]
    fn a_two_digit_year_is_at_most_50_years_ahead() {
        // RFC 9110 §5.6.7.
        let near = parse_undated(b"Wed, 01 Jul 2026 00:00:00 GMT").unwrap();
        let year = |two: &str, near| {
            let text = format!("Monday, 01-Jun-{two} 00:00:00 GMT");
            parse(text.as_bytes(), near).unwrap()
        };
        let plain =
            |four: &str| parse_undated(format!("Mon, 01 Jun {four} 00:00:00 GMT").as_bytes()).unwrap();
        assert_eq!(year("26", near), plain("2026"));
        assert_eq!(year("76", near), plain("2076"));
        assert_eq!(year("77", near), plain("1977"));
        assert_eq!(year("69", at(0)), plain("1969"));
        assert_eq!(year("19", at(0)), plain("2019"));
    }

    proptest! {
        #[test]
        fn dates_written_by_httpdate_are_read_back(seconds in 0u64..253_402_300_800) {
            let text = httpdate::fmt_http_date(at(seconds));
            assert_eq!(parse_undated(text.as_bytes()), Some(at(seconds)));
        }

        #[test]
        fn any_bytes_are_parsed_without_a_panic(value in any::<Vec<u8>>(), near in any::<u64>()) {
            let near = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(near));
            let near = near.unwrap_or(SystemTime::UNIX_EPOCH);
            let read = parse(&value, near);
            assert!(read.is_none() || value.iter().any(u8::is_ascii_digit));
        }

        #[test]
        fn text_in_the_shape_of_a_date_never_panics(
            text in "(Sun|Sunday),? [0-9 ]{2}[ -][A-Za-z]{3}[ -]([0-9]{2}|[0-9]{4}) [0-9:]{8} GMT",
        ) {
            if let Some(read) = parse_undated(text.as_bytes()) {
                assert!(read < at(253_402_300_800));
            }
        }
    }
}
