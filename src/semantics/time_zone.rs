//! Midnight in a time zone: when the daily limits of some APIs begin anew.
//!
//! Owns: the zone by its IANA name (`America/Los_Angeles`), with the rules that are compiled in. Never touches:
//! the clock (`now` is a parameter), the zone of this machine.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz;

use crate::semantics::utc_calendar;

/// A time zone.
#[derive(Clone, PartialEq, Eq)]
pub struct TimeZone(tz::TimeZone);

impl TimeZone {
    /// UTC.
    pub const UTC: Self = Self(tz::TimeZone::UTC);

    /// The zone with this IANA name. `None`: there is none.
    pub fn parse(name: &str) -> Option<Self> {
        tz::TimeZone::get(name).ok().map(Self)
    }

    /// The time until the next midnight there: more than zero, about a day at most.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// use larder::semantics::time_zone::TimeZone;
    ///
    /// let tokyo = TimeZone::parse("Asia/Tokyo").unwrap();
    /// assert_eq!(tokyo.until_midnight(SystemTime::UNIX_EPOCH), Duration::from_secs(15 * 3600));
    /// ```
    pub fn until_midnight(&self, now: SystemTime) -> Duration {
        self.next_midnight(now).unwrap_or_else(|| utc_calendar::until_midnight(now))
    }

    /// `None`: the time is beyond all calendars.
    fn next_midnight(&self, now: SystemTime) -> Option<Duration> {
        let here = Timestamp::try_from(now).ok()?.to_zoned_datetime(self.0.clone());
        let midnight = here.tomorrow().ok()?.start_of_day().ok()?;
        let left = SystemTime::try_from(midnight.timestamp()).ok()?.duration_since(now).ok()?;
        (!left.is_zero()).then_some(left)
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeZone({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::semantics::date;

    const HOUR: Duration = Duration::from_secs(3600);

    fn left(zone: &str, now: &str) -> Duration {
        let now = date::parse_undated(now.as_bytes()).expect(now);
        TimeZone::parse(zone).expect(zone).until_midnight(now)
    }

    #[test]
    fn midnight_is_that_of_the_zone() {
        let noon = "Tue, 01 Dec 2026 12:00:00 GMT";
        assert_eq!(left("UTC", noon), 12 * HOUR);
        assert_eq!(left("Europe/Berlin", noon), 11 * HOUR);
        assert_eq!(left("America/Los_Angeles", noon), 20 * HOUR);
        assert_eq!(left("UTC", "Tue, 01 Dec 2026 00:00:00 GMT"), 24 * HOUR);
    }

    #[test]
    fn days_of_a_clock_change_are_longer_or_shorter() {
        assert_eq!(left("Europe/Berlin", "Sat, 28 Mar 2026 23:00:00 GMT"), 23 * HOUR);
        assert_eq!(left("Europe/Berlin", "Sat, 24 Oct 2026 22:00:00 GMT"), 25 * HOUR);
    }

    #[test]
    fn names_that_are_no_zone_are_refused() {
        for name in ["", "Mars/Olympus", "Berlin", "+01:00"] {
            assert_eq!(TimeZone::parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn midnight_is_always_ahead(since in any::<u64>()) {
            let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since));
            let now = now.unwrap_or(SystemTime::UNIX_EPOCH);
            let left = TimeZone::parse("America/Los_Angeles").unwrap().until_midnight(now);
            prop_assert!(!left.is_zero() && left <= 26 * HOUR, "{left:?}");
        }
    }
}
