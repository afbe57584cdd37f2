//! Durations in the configuration file: the humantime syntax without months and years.
//!
//! Owns: which durations are accepted, and the errors for the others. Never touches: the use of a duration.

use std::time::Duration;

use crate::config::diagnostics::ValueError;

const WANTED: &str = "a duration such as `30s`, `5m` or `24h`";

/// RFC 9111 §1.2.2: the largest value in seconds that HTTP can express, about 68 years.
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
        let fix = "write at most `24855d`, the longest duration that HTTP can express";
        return Err(ValueError::new(WANTED, "is longer than 68 years", fix));
    }
    Ok(duration)
}

/// The same, but zero is refused: for timeouts, which would expire at once.
pub fn parse_positive(text: &str) -> Result<Duration, ValueError> {
    let duration = parse(text)?;
    if duration.is_zero() {
        let what = "would expire immediately";
        return Err(ValueError::new(WANTED, what, "write a duration above zero"));
    }
    Ok(duration)
}

/// `5m`, `1h 30m`, `2d`: a form that [`parse`] accepts. humantime's own format uses months and years.
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    // One day is printed as hours, as in `stale_if_error: 24h`.
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
    let shown: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// Refuses months and years. humantime parses `5M` as five months, but users mean minutes.
fn refuse_calendar_units(text: &str) -> Result<(), ValueError> {
    let units = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|unit| !unit.is_empty());
    for unit in units {
        let number = text.split(unit).next().unwrap_or_default().trim();
        let number = number.rsplit(|c: char| !c.is_ascii_digit() && c != '.').next();
        let number = number.unwrap_or_default();
        let many = if number == "1" { "" } else { "s" };
        let what = |unit: &str| format!("means {number} {unit}{many}");
        let hint = "months and years are not accepted here";
        match unit {
            "M" => {
                let fix = format!("did you mean `{number}m` ({number} minutes)? {hint}");
                return Err(ValueError::new(WANTED, what("month"), fix));
            }
            "month" | "months" => {
                let fix = format!("{hint}: write days, such as `30d` for one month");
                return Err(ValueError::new(WANTED, what("month"), fix));
            }
            "y" | "yr" | "yrs" | "year" | "years" => {
                let fix = format!("{hint}: write days, such as `365d` for one year");
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
    fn months_and_years_are_refused_with_the_likely_unit() {
        let table = [
            ("5M", "means 5 months", "`5m` (5 minutes)"),
            ("1h 15M", "means 15 months", "`15m` (15 minutes)"),
            ("3months", "means 3 months", "30d"),
            ("1 month", "means 1 month", "30d"),
            ("2y", "means 2 years", "365d"),
            ("1year", "means 1 year", "365d"),
        ];
        for (text, what, fix) in table {
            let error = parse(text).expect_err(text);
            assert_eq!(error.what, what, "{text}");
            assert!(error.fix.contains(fix), "{text}: {}", error.fix);
        }
    }

    #[test]
    fn a_bare_number_is_refused_with_both_likely_units() {
        let error = parse("300").expect_err("no unit");
        assert_eq!(error.what, "has no unit");
        assert!(error.fix.contains("`300s`") && error.fix.contains("`300m`"), "{}", error.fix);
    }

    #[test]
    fn an_invalid_duration_is_refused() {
        for text in ["", "  ", "soon", "-5s", "5 parsecs", "1e3s", "9999999999999w", "25000d", "٥s"] {
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
        fn a_printed_duration_parses_to_itself(seconds in 0_u64..2_000_000_000, nanos in 0_u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse(&show(duration)), Ok(duration));
        }

        #[test]
        fn no_input_causes_a_panic(text in any::<String>()) {
            let once = parse(&text);
            prop_assert_eq!(once, parse(&text));
        }
    }
}
