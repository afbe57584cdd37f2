//! The ends of days and months in UTC.
//!
//! Owns: the time until midnight and until the next month, the number of days between dates. Never touches: the clock; `now` is a parameter.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

/// The days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

/// The days in 400 years.
const CYCLE: i64 = 146_097;

/// The time until the next midnight: more than zero, at most a day.
pub fn until_midnight(now: SystemTime) -> Duration {
    let (_, into_day) = days_and_rest(now);
    DAY.saturating_sub(into_day)
}

/// The time until the first day of the next month: more than zero, at most 31 days.
pub fn until_next_month(now: SystemTime) -> Duration {
    let (day, into_day) = days_and_rest(now);
    let days_left = u32::try_from(next_month_start(day) - day).unwrap_or(1);
    (DAY * days_left).saturating_sub(into_day)
}

/// The first day of the month that contains this day. Days count from 1970-01-01.
pub fn month_start(day: i64) -> i64 {
    let (year, month) = month_of(day);
    day_number(year, month, 1)
}

/// The first day of the next month.
pub fn next_month_start(day: i64) -> i64 {
    let (year, month) = month_of(day);
    if month == 12 { day_number(year + 1, 1, 1) } else { day_number(year, month + 1, 1) }
}

/// The days from 1970-01-01 to a date of the proleptic Gregorian calendar. Years start in March here, so the
/// leap day is the last day of a year and one rule covers all months.
pub fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + day_of_year - EPOCH
}

/// Whole days since 1970-01-01, rounded down, and the time since midnight.
fn days_and_rest(now: SystemTime) -> (i64, Duration) {
    let split = |time: Duration| {
        let days = i64::try_from(time.as_secs() / DAY.as_secs()).unwrap_or(i64::MAX);
        (days, Duration::new(time.as_secs() % DAY.as_secs(), time.subsec_nanos()))
    };
    match now.duration_since(SystemTime::UNIX_EPOCH).map_err(|before| split(before.duration())) {
        Ok(since) => split(since),
        Err((days, Duration::ZERO)) => (-days, Duration::ZERO),
        Err((days, rest)) => (-days - 1, DAY.saturating_sub(rest)),
    }
}

/// The year and month (1 to 12) that contain this day. The calendar repeats every 400 years.
fn month_of(day: i64) -> (i64, i64) {
    let (cycle, day) = ((day + EPOCH).div_euclid(CYCLE), (day + EPOCH).rem_euclid(CYCLE));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = ((5 * day_of_year + 2) / 153 + 2) % 12 + 1;
    (400 * cycle + year + i64::from(month <= 2), month)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use crate::semantics::date;
    use crate::semantics::utc_calendar::{DAY, until_midnight, until_next_month};

    fn at(date: &str) -> SystemTime {
        date::parse_undated(date.as_bytes()).expect(date)
    }

    #[test]
    fn days_and_months_end_at_the_calendar_boundaries() {
        for (now, midnight, month) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994", "Thu, 01 Dec 1994"),
            ("Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 02 Jan 1970", "Sun, 01 Feb 1970"),
            ("Wed, 31 Dec 1969 23:59:59 GMT", "Thu, 01 Jan 1970", "Thu, 01 Jan 1970"),
            ("Mon, 01 Dec 1969 00:00:00 GMT", "Tue, 02 Dec 1969", "Thu, 01 Jan 1970"),
            ("Tue, 31 Dec 2024 23:59:59 GMT", "Wed, 01 Jan 2025", "Wed, 01 Jan 2025"),
            ("Wed, 28 Feb 2024 12:00:00 GMT", "Thu, 29 Feb 2024", "Fri, 01 Mar 2024"),
            ("Thu, 29 Feb 2024 12:00:00 GMT", "Fri, 01 Mar 2024", "Fri, 01 Mar 2024"),
            ("Tue, 28 Feb 2023 12:00:00 GMT", "Wed, 01 Mar 2023", "Wed, 01 Mar 2023"),
            ("Sun, 28 Feb 2100 12:00:00 GMT", "Mon, 01 Mar 2100", "Mon, 01 Mar 2100"),
            ("Mon, 28 Feb 2000 12:00:00 GMT", "Tue, 29 Feb 2000", "Wed, 01 Mar 2000"),
            ("Sat, 01 Aug 2026 00:00:00 GMT", "Sun, 02 Aug 2026", "Tue, 01 Sep 2026"),
        ] {
            let end = |day: &str| at(&format!("{day} 00:00:00 GMT"));
            assert_eq!(at(now) + until_midnight(at(now)), end(midnight), "{now}");
            assert_eq!(at(now) + until_next_month(at(now)), end(month), "{now}");
        }
    }

    #[test]
    fn parts_of_a_second_count_on_both_sides_of_1970() {
        let half = Duration::from_millis(500);
        let but_half = Duration::from_millis(86_399_500);
        assert_eq!(until_midnight(SystemTime::UNIX_EPOCH + half), but_half);
        assert_eq!(until_midnight(SystemTime::UNIX_EPOCH - half), half);
    }

    proptest! {
        #[test]
        fn a_month_ends_at_the_next_first_and_not_before(
            seconds in 0u64..250_000_000_000,
            nanos in 0u32..1_000_000_000,
        ) {
            let now = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
            let end = now + until_next_month(now);
            let (now, end) = (httpdate::fmt_http_date(now), (end, httpdate::fmt_http_date(end)));
            prop_assert!(end.1.contains(", 01 ") && end.1.ends_with(" 00:00:00 GMT"), "{}", end.1);
            let last = httpdate::fmt_http_date(end.0 - Duration::from_secs(1));
            prop_assert_eq!(last.get(7..16), now.get(7..16));
        }

        #[test]
        fn a_day_ends_at_the_next_midnight(seconds in any::<i32>(), nanos in 0u32..1_000_000_000) {
            let distance = Duration::new(u64::from(seconds.unsigned_abs()), nanos);
            let epoch = SystemTime::UNIX_EPOCH;
            let now = if seconds < 0 { epoch - distance } else { epoch + distance };
            let left = until_midnight(now);
            prop_assert!(!left.is_zero() && left <= DAY);
            let end = now + left;
            let from_epoch = end.duration_since(epoch).unwrap_or_else(|error| error.duration());
            prop_assert_eq!(from_epoch.as_nanos() % DAY.as_nanos(), 0);
        }

        #[test]
        fn any_time_has_a_next_month(seconds in any::<u64>(), before in any::<bool>()) {
            let (epoch, distance) = (SystemTime::UNIX_EPOCH, Duration::from_secs(seconds));
            let now = if before { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
            let left = until_next_month(now.unwrap_or(epoch));
            prop_assert!(!left.is_zero() && left <= 31 * DAY);
        }
    }
}
