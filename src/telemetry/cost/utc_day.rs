//! UTC days and their months, for the usage history.
//!
//! Owns: the number of a day, the first day of its period and of the next one. Never touches: the clock.

use std::time::{Duration, SystemTime};

use crate::policy::upstream::Period;
use crate::semantics::utc_calendar::{month_start, next_month_start};

/// A day, as the number of days since 1970-01-01. Earlier times become that day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Day(u32);

impl Day {
    /// The day of a time.
    pub(super) fn from_time(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(since.as_secs() / DAY_SECONDS).unwrap_or(u32::MAX))
    }

    pub(super) const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    pub(super) const fn raw(self) -> u32 {
        self.0
    }

    /// The first day of the period that contains this day.
    pub(super) fn period_start(self, period: Period) -> Self {
        match period {
            Period::Day => self,
            Period::Month => Self::from_number(month_start(i64::from(self.0))),
        }
    }

    /// The first day of the next period.
    pub(super) fn next_period_start(self, period: Period) -> Self {
        match period {
            Period::Day => Self(self.0.saturating_add(1)),
            Period::Month => Self::from_number(next_month_start(i64::from(self.0))),
        }
    }

    fn from_number(day: i64) -> Self {
        Self(u32::try_from(day).unwrap_or(u32::MAX))
    }

    /// The start of the day (midnight UTC).
    pub(super) fn start_time(self) -> SystemTime {
        let since = Duration::from_secs(u64::from(self.0) * DAY_SECONDS);
        SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

const DAY_SECONDS: u64 = 86_400;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::date;

    fn day(text: &str) -> Day {
        let text = format!("{text} 12:00:00 GMT");
        Day::from_time(date::parse_undated(text.as_bytes()).expect("a date"))
    }

    #[test]
    fn a_month_starts_on_its_first_day_and_ends_at_the_next() {
        for (within, first, next) in [
            ("Thu, 01 Jan 1970", "Thu, 01 Jan 1970", "Sun, 01 Feb 1970"),
            ("Sat, 31 Jan 2026", "Thu, 01 Jan 2026", "Sun, 01 Feb 2026"),
            ("Wed, 28 Feb 2024", "Thu, 01 Feb 2024", "Fri, 01 Mar 2024"),
            ("Thu, 29 Feb 2024", "Thu, 01 Feb 2024", "Fri, 01 Mar 2024"),
            ("Tue, 28 Feb 2023", "Wed, 01 Feb 2023", "Wed, 01 Mar 2023"),
            ("Sun, 28 Feb 2100", "Mon, 01 Feb 2100", "Mon, 01 Mar 2100"),
            ("Tue, 29 Feb 2000", "Tue, 01 Feb 2000", "Wed, 01 Mar 2000"),
            ("Thu, 31 Dec 2026", "Tue, 01 Dec 2026", "Fri, 01 Jan 2027"),
        ] {
            let within = day(within);
            assert_eq!(within.period_start(Period::Month), day(first));
            assert_eq!(within.next_period_start(Period::Month), day(next));
            assert_eq!(within.period_start(Period::Day), within);
        }
    }

    proptest! {
        #[test]
        fn every_day_is_in_its_month_and_months_are_contiguous(raw in 0u32..4_000_000) {
            let day = Day::from_raw(raw);
            let (first, next) = (day.period_start(Period::Month), day.next_period_start(Period::Month));
            prop_assert!(first <= day && day < next);
            prop_assert_eq!(next.period_start(Period::Month), next);
            prop_assert!((28..=31).contains(&(next.raw() - first.raw())));
            prop_assert_eq!(Day::from_time(day.start_time()), day);
        }
    }
}
