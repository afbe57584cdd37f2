//! Durations as they stand in the file: humantime, without its months and years.
//!
//! Owns: which durations are taken and what is said about the others.
//! Never touches: what a duration is for.

use std::time::Duration;

use crate::config::diagnostics::ValueError;

const WANTED: &str = "a duration such as `30s`, `5m` or `24h`";

/// RFC 9111 §1.2.2: the longest that HTTP can say in seconds, about 68 years.
const LONGEST: Duration = Duration::from_secs(i32::MAX as u64);

/// `30s`, `5m`, `1h 30m`, `250ms`, `7d`, `2w`.
pub fn parse(text: &str) -> Result<Duration, ValueError> {
    let text = text.trim();
    if text.len() > 64 {
        return Err(ValueError::is_not(WANTED));
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let fix = format!("write the unit too: `{text}s` is seconds, `{text}m` minutes");
        return Err(ValueError::new(WANTED, "has no unit", fix));
    }
    refuse_calendar_units(text)?;
    let duration = humantime::parse_duration(text).map_err(|_| ValueError::is_not(WANTED))?;
    if duration > LONGEST {
        let fix = "write at most `24855d`, the longest that HTTP can say";
        return Err(ValueError::new(WANTED, "is longer than 68 years", fix));
    }
    Ok(duration)
}

/// The same, but no zero: for deadlines, which would pass at once.
pub fn parse_positive(text: &str) -> Result<Duration, ValueError> {
    let duration = parse(text)?;
    if duration.is_zero() {
        let what = "would be over before anything can happen";
        return Err(ValueError::new(WANTED, what, "write a duration above zero"));
    }
    Ok(duration)
}

/// `5m`, `1h 30m`, `2d`: as [`parse`] reads it. humantime's own form has months and years.
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    // A day is told in hours, as `stale_if_error: 24h` is everywhere.
    let days = if seconds < 2 * 86_400 { 0 } else { seconds / 86_400 };
    let parts = [
        (days, "d"),
        ((seconds - days * 86_400) / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
        (u64::from(duration.subsec_micros() % 1000), "us"),
        (u64::from(duration.subsec_nanos() % 1000), "ns"),
    ];
    let shown: Vec<_> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// humantime reads `5M` as five months; whoever writes it means minutes.
fn refuse_calendar_units(text: &str) -> Result<(), ValueError> {
    let units = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|unit| !unit.is_empty());
    for unit in units {
        let number = text.split(unit).next().unwrap_or_default().trim();
        let number = number.rsplit(|c: char| !c.is_ascii_digit() && c != '.').next();
        let number = number.unwrap_or_default();
        let many = if number == "1" { "" } else { "s" };
        let what = |word: &str| format!("means {number} {word}{many}");
        let not_here = "months and years are not accepted here";
        match unit {
            "M" => {
                let fix = format!("did you mean `{number}m` ({number} minutes)? {not_here}");
                return Err(ValueError::new(WANTED, what("month"), fix));
            }
            "month" | "months" => {
                let fix = format!("{not_here}: write days, such as `30d` for one month");
                return Err(ValueError::new(WANTED, what("month"), fix));
            }
            "y" | "yr" | "yrs" | "year" | "years" => {
                let fix = format!("{not_here}: write days, such as `365d` for one year");
                return Err(ValueError::new(WANTED, what("year"), fix));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{any, prop_assert_eq, proptest};

    use crate::config::duration::{parse, parse_positive, show};

    #[test]
    fn each_usual_unit_is_read() {
        let table = [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("0s", 0),
            (" 30s ", 30_000),
        ];
        for (text, millis) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn months_and_years_are_refused_with_what_was_likely_meant() {
        let table = [
            ("5M", "means 5 months", "`5m` (5 minutes)"),
            ("1h 15M", "means 15 months", "`15m` (15 minutes)"),
            ("3months", "means 3 months", "30d"),
            ("1 month", "means 1 month", "30d"),
            ("2y", "means 2 years", "365d"),
            ("1year", "means 1 year", "365d"),
        ];
        for (text, what, fix) in table {
            let wrong = parse(text).expect_err(text);
            assert_eq!(wrong.what, what, "{text}");
            assert!(wrong.fix.contains(fix), "{text}: {}", wrong.fix);
        }
    }

    #[test]
    fn a_bare_number_is_refused_with_both_likely_units() {
        let wrong = parse("300").expect_err("no unit");
        assert_eq!(wrong.what, "has no unit");
        assert!(wrong.fix.contains("`300s`") && wrong.fix.contains("`300m`"), "{}", wrong.fix);
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "  ", "soon", "-5s", "5 parsecs", "1e3s", "9999999999999w", "25000d", "٥s"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"1".repeat(10_000)).is_err());
    }

    #[test]
    fn a_deadline_of_zero_is_refused() {
        assert!(parse_positive("0s").is_err());
        assert_eq!(parse_positive("1ms"), Ok(Duration::from_millis(1)));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(seconds in 0_u64..2_000_000_000, nanos in 0_u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse(&show(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let once = parse(&text);
            prop_assert_eq!(once, parse(&text));
        }
    }
}
