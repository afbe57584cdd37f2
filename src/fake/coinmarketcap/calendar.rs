//! UTC days and months, by which CoinMarketCap bills.
//!
//! Owns: names and starts of days and months, times in JSON. Never touches: the clock, nor larder's own
//! calendar code: tests compare the fake's bill with larder's cost accounting, so the two must be
//! independent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-10-01T12:00:00.000Z`.
pub(super) fn stamp(time: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, last)).to_string()
}

/// `2026-10-01`.
pub(super) fn day(time: SystemTime) -> String {
    stamp(time).chars().take("2026-10-01".len()).collect()
}

/// `2026-10`.
pub(super) fn month(time: SystemTime) -> String {
    stamp(time).chars().take("2026-10".len()).collect()
}

/// The start of the next day.
pub(super) fn next_day(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().min(LAST_SECOND);
    UNIX_EPOCH + Duration::from_secs((seconds / DAY + 1) * DAY)
}

/// The start of the next month.
pub(super) fn next_month(time: SystemTime) -> SystemTime {
    let this = month(time);
    let mut next = next_day(time);
    // The year 9999 has no next month, so the loop is limited: no month has more days.
    for _ in 0..31 {
        if month(next) != this {
            break;
        }
        next = next_day(next);
    }
    next
}

/// The last second of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;
const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn days_and_months_are_those_of_utc() {
        let table = [
            ("2026-02-28T23:59:59Z", "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            ("2026-12-31T12:00:00Z", "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("2026-10-01T00:00:00Z", "2026-10-02T00:00:00Z", "2026-11-01T00:00:00Z"),
        ];
        for (now, tomorrow, next) in table {
            assert_eq!(next_day(time(now)), time(tomorrow), "{now}");
            assert_eq!(next_month(time(now)), time(next), "{now}");
        }
        let noon = time("2026-10-01T12:00:00.5Z");
        assert_eq!(stamp(noon), "2026-10-01T12:00:00.500Z");
        assert_eq!((day(noon).as_str(), month(noon).as_str()), ("2026-10-01", "2026-10"));
    }

    #[test]
    fn the_end_of_year_9999_does_not_panic() {
        let end = UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
        assert_eq!(month(next_month(end)), "9999-12");
        assert_eq!(day(end + Duration::from_secs(9)), "9999-12-31");
    }
}
