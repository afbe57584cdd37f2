//! Rates in the configuration file: `30/m`, `50/s`, `10000/10m`.
//!
//! Owns: which rates are accepted, and the errors for the others. Never touches: counting.

use std::time::Duration;

use crate::config::diagnostics::ValueError;
use crate::config::duration;
use crate::policy::upstream::Rate;

const WANTED: &str = "a rate such as `30/m`, `50/s` or `10000/10m`";

/// The largest count. Each call within the window is remembered: more would waste memory.
const MOST: u32 = 1_000_000;

/// The longest window: a longer one is a calendar quota (`cost.budget`).
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

const OF_THE_CALENDAR: &str = "for calendar days and months use `cost: { budget: { credits: 10000/month } }`";

/// A whole number, a slash, and a unit or a duration.
pub fn parse(text: &str) -> Result<Rate, ValueError> {
    let (count, per) = text.trim().split_once('/').ok_or_else(|| ValueError::is_not(WANTED))?;
    let count = number(count.trim_end())?;
    let per = per.trim_start();
    if ["M", "month", "months", "y", "year"].contains(&per) {
        let fix = format!("did you mean `{count}/m` (a minute)? {OF_THE_CALENDAR}");
        return Err(ValueError::new(WANTED, "counts over more than a week", fix));
    }
    // `30/m`: one minute.
    let bare = per.starts_with(|first: char| first.is_ascii_alphabetic());
    let one = if bare { format!("1{per}") } else { per.to_owned() };
    let per = duration::parse_positive(&one).map_err(|error| ValueError { wanted: WANTED, ..error })?;
    if per > LONGEST {
        return Err(ValueError::new(WANTED, "counts over more than a week", OF_THE_CALENDAR));
    }
    Ok(Rate { count, per })
}

fn number(text: &str) -> Result<u32, ValueError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ValueError::is_not(WANTED));
    }
    match text.parse() {
        Ok(0) => {
            let fix = "write at least `1`; `defaults: { mode: offline }` makes no call at all";
            Err(ValueError::new(WANTED, "would allow no calls", fix))
        }
        Ok(count) if count <= MOST => Ok(count),
        Ok(_) | Err(_) => {
            let fix = "write at most `1000000`, or count over a shorter time";
            Err(ValueError::new(WANTED, "is more calls than larder can count", fix))
        }
    }
}

/// `30/m`, `10000/10m`: a form that [`parse`] accepts.
pub fn show(rate: Rate) -> String {
    let units = [(1, "s"), (60, "m"), (3600, "h"), (86_400, "d")];
    let unit = units.iter().find(|(seconds, _)| rate.per == Duration::from_secs(*seconds));
    match unit {
        Some((_, unit)) => format!("{}/{unit}", rate.count),
        None => format!("{}/{}", rate.count, duration::show(rate.per)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{any, prop_assert_eq, proptest};

    use crate::config::rate::{parse, show};
    use crate::policy::upstream::Rate;

    #[test]
    fn a_rate_is_a_number_of_calls_in_a_duration() {
        let table = [
            ("30/m", 30, 60),
            ("50/s", 50, 1),
            ("50 / 1s", 50, 1),
            ("10000/10m", 10_000, 600),
            ("5/d", 5, 86_400),
            ("100/hour", 100, 3600),
            ("7/1h 30m", 7, 5400),
        ];
        for (text, count, seconds) in table {
            let expected = Rate { count, per: Duration::from_secs(seconds) };
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_invalid_rate_is_refused_with_the_reason() {
        let table = [
            ("30", "is not a rate"),
            ("m/30", "is not a rate"),
            ("-1/s", "is not a rate"),
            ("1.5/s", "is not a rate"),
            ("0/m", "would allow no calls"),
            ("30/0s", "would expire immediately"),
            ("30/60", "has no unit"),
            ("30/M", "more than a week"),
            ("30/month", "more than a week"),
            ("30/2M", "means 2 months"),
            ("30/8d", "more than a week"),
            ("1000001/s", "more calls than larder can count"),
            ("99999999999999999999/s", "more calls than larder can count"),
            ("30/", "is not a duration"),
            ("30/s/s", "is not a duration"),
        ];
        for (text, what) in table {
            let error = parse(text).expect_err(text);
            assert!(error.what.contains(what), "{text}: {}", error.what);
        }
    }

    proptest! {
        #[test]
        fn a_printed_rate_parses_to_itself(count in 1_u32..=1_000_000, millis in 1_u64..=604_800_000) {
            let rate = Rate { count, per: Duration::from_millis(millis) };
            prop_assert_eq!(parse(&show(rate)), Ok(rate));
        }

        #[test]
        fn no_input_causes_a_panic(text in any::<String>(), count in any::<u64>()) {
            prop_assert_eq!(parse(&text), parse(&text));
            let bounded = (1..=1_000_000).contains(&count);
            prop_assert_eq!(parse(&format!("{count}/s")).is_ok(), bounded);
        }
    }
}
