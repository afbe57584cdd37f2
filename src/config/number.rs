//! Decimal numbers: shares (`0.2`, `20%`), factors, credits, prices.
//!
//! Owns: their syntax and bounds. Never touches: their use.

use crate::config::diagnostics::ValueError;

const SHARE: &str = "a share such as `0.8` or `80%`";

/// `0.2` or `20%`: from 0 to 1.
pub fn share(text: &str) -> Result<f64, ValueError> {
    let text = text.trim();
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = decimal(number.trim_end()).ok_or_else(|| ValueError::is_not(SHARE))? / whole;
    if share <= 1.0 {
        return Ok(share);
    }
    let percent = whole < 2.0 && share <= 100.0;
    let fix = if percent { format!("did you mean `{text}%`?") } else { format!("write {SHARE}") };
    Err(ValueError::new(SHARE, "is more than 100%", fix))
}

/// The same, but at most one half: for reductions of a configured value.
pub fn share_up_to_half(text: &str) -> Result<f64, ValueError> {
    let share = share(text)?;
    if share <= 0.5 {
        return Ok(share);
    }
    let what = "would leave less than half of the lifetime";
    Err(ValueError::new("a share up to `50%`", what, "write a share from `0%` to `50%`"))
}

/// The same, but above zero.
pub fn positive_share(text: &str) -> Result<f64, ValueError> {
    let share = share(text)?;
    if share > 0.0 {
        return Ok(share);
    }
    let fix = "write a share above zero, up to `1` or `100%`";
    Err(ValueError::new(SHARE, "is zero: it would be reached before the first call", fix))
}

/// A parser for numbers from `from` to `to`.
pub(crate) fn between(from: f64, to: f64) -> impl Fn(&str) -> Result<f64, ValueError> {
    move |text| {
        let wanted = "a number in its bounds";
        let number = decimal(text.trim()).filter(|number| (from..=to).contains(number));
        let fix = || format!("write a number from {from} to {to}, without a unit");
        number.ok_or_else(|| ValueError::new(wanted, "is no number in the permitted range", fix()))
    }
}

/// A parser for whole numbers from `from` to `to`.
pub(crate) fn count(from: usize, to: usize) -> impl Fn(&str) -> Result<usize, ValueError> {
    move |text| {
        let number = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        number.filter(|number| (from..=to).contains(number)).ok_or_else(|| {
            let end = if to == usize::MAX { "on".to_owned() } else { format!("to {to}") };
            let fix = format!("write a whole number from {from} {end}, without a unit");
            ValueError::new("a whole number in its bounds", "is no number in the permitted range", fix)
        })
    }
}

/// Digits with at most one point: no sign, no exponent, no infinity.
pub(crate) fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let begins = text.starts_with(|first: char| first.is_ascii_digit());
    let number = text.parse().ok().filter(|_| plain && begins && text.len() <= 32);
    number.filter(|number: &f64| number.is_finite())
}

/// `20%`: a form that [`share`] accepts, rounded to a hundredth of a percent.
pub fn show_share(share: f64) -> String {
    let percent = format!("{:.2}", share * 100.0);
    format!("{}%", percent.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use crate::config::number::{between, positive_share, share, share_up_to_half, show_share};

    #[test]
    fn a_share_is_a_part_of_one_or_of_a_hundred() {
        let table = [
            ("0", 0.0),
            ("0.2", 0.2),
            ("20%", 0.2),
            ("2.5 %", 0.025),
            ("1", 1.0),
            ("1.0", 1.0),
            ("100%", 1.0),
        ];
        for (text, expected) in table {
            let read = share(text).unwrap();
            assert!((read - expected).abs() < 1e-12, "{text}: {read}");
        }
    }

    #[test]
    fn more_than_100_percent_is_refused_with_the_likely_value() {
        assert_eq!(share("20").unwrap_err().fix, "did you mean `20%`?");
        for text in ["101%", "1.01%%", "200", "-0.1", ".5", "1e-3", "half", "", "%", "NaN", "inf"] {
            assert!(share(text).is_err(), "{text}");
        }
        assert!(positive_share("0%").unwrap_err().what.contains("is zero"));
        assert!(share_up_to_half("50%").is_ok() && share_up_to_half("0").is_ok());
        assert!(share_up_to_half("50.1%").unwrap_err().what.contains("less than half"));
    }

    #[test]
    fn a_number_outside_its_bounds_is_refused_with_them() {
        assert!((between(1.0, 10.0)("2.5").unwrap() - 2.5).abs() < 1e-12);
        let error = between(1.0, 10.0)("0.5").unwrap_err();
        assert_eq!(error.fix, "write a number from 1 to 10, without a unit");
    }

    proptest! {
        #[test]
        fn a_printed_share_parses_to_itself(hundredths in 0_u32..=10_000) {
            let read = share(&format!("{}%", f64::from(hundredths) / 100.0)).unwrap();
            let again = share(&show_share(read)).unwrap();
            prop_assert!((read - again).abs() < 1e-12);
        }

        #[test]
        fn no_input_causes_a_panic(text in any::<String>()) {
            prop_assert_eq!(share(&text), share(&text));
            prop_assert!(share(&text).is_err() || (0.0..=1.0).contains(&share(&text).unwrap()));
        }
    }
}
