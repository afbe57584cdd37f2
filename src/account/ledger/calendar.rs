//! Days and months in UTC, as budgets count them.
//!
//! Owns: which day it is, where its month begins and ends. Never touches: the clock.

use std::time::{Duration, SystemTime};

use crate::policy::conduct::Period;

/// A day, counted from 1970-01-01. What was before is that day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Day(u32);

impl Day {
    /// The day of a time.
    pub(super) fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(since.as_secs() / DAY).unwrap_or(u32::MAX))
    }

    pub(super) const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    pub(super) const fn raw(self) -> u32 {
        self.0
    }

    /// The first day of the window that this day is in.
    pub(super) fn first(self, period: Period) -> Self {
        match period {
            Period::Day => self,
            Period::Month => Self(self.0 - (self.in_month().0 - 1)),
        }
    }

    /// The first day behind the window that this day is in.
    pub(super) fn next(self, period: Period) -> Self {
        match period {
            Period::Day => Self(self.0.saturating_add(1)),
            Period::Month => {
                let (_, length) = self.in_month();
                Self(self.first(period).0.saturating_add(length))
            }
        }
    }

    /// Midnight, when it begins.
    pub(super) fn begin(self) -> SystemTime {
        let since = Duration::from_secs(u64::from(self.0) * DAY);
        SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Which day of its month it is, from 1 on, and how many the month has. Years are counted from
    /// March, so that the leap day is a year's last and months follow one rule; the calendar repeats
    /// every 400 years.
    fn in_month(self) -> (u32, u32) {
        let day = (u64::from(self.0) + 719_468) % 146_097;
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let begins = (153 * month + 2) / 5;
        let march = year + 1;
        let leap =
            march.is_multiple_of(4) && (!march.is_multiple_of(100) || march.is_multiple_of(400));
        let ends = if month == 11 { 365 + u64::from(leap) } else { (153 * (month + 1) + 2) / 5 };
        let small = |days: u64| u32::try_from(days).unwrap_or(1);
        (small(day_of_year - begins + 1), small(ends - begins))
    }
}

const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::date;

    fn day(text: &str) -> Day {
        let text = format!("{text} 12:00:00 GMT");
        Day::of(date::parse_undated(text.as_bytes()).expect("a date"))
    }

    #[test]
    fn a_month_begins_at_its_first_and_ends_at_the_next() {
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
            assert_eq!(within.first(Period::Month), day(first));
            assert_eq!(within.next(Period::Month), day(next));
            assert_eq!(within.first(Period::Day), within);
        }
    }

    proptest! {
        #[test]
        fn every_day_is_in_its_month_and_the_next_month_begins_where_it_ends(raw in 0u32..4_000_000) {
            let day = Day::from_raw(raw);
            let (first, next) = (day.first(Period::Month), day.next(Period::Month));
            prop_assert!(first <= day && day < next);
            prop_assert_eq!(next.first(Period::Month), next);
            prop_assert!((28..=31).contains(&(next.raw() - first.raw())));
            prop_assert_eq!(Day::of(day.begin()), day);
        }
    }
}
