//! Sizes in the configuration file: `64KiB`, `8MB`, `2GiB`.
//!
//! Owns: which units are accepted, and the errors for the others. Never touches: the use of a size.

use crate::config::diagnostics::ValueError;

const WANTED: &str = "a size such as `64KiB`, `8MiB` or `2GiB`";

/// Powers of 1000 without an `i`, of 1024 with one.
const UNITS: [(&str, u64); 10] = [
    ("B", 1),
    ("KB", 1000),
    ("kB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// A whole number and a unit.
pub fn parse(text: &str) -> Result<u64, ValueError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err(ValueError::is_not(WANTED));
    }
    if unit.is_empty() {
        let fix = format!("write the unit too: `{number}B`, or {WANTED}");
        return Err(ValueError::new(WANTED, "has no unit", fix));
    }
    if unit.starts_with(['.', ',', '_']) {
        let fix = "use the next smaller unit: `1536MiB` is one and a half GiB";
        return Err(ValueError::new(WANTED, "is not a whole number", fix));
    }
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(unknown_unit(number, unit));
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
    bytes.ok_or_else(|| ValueError::new(WANTED, "is too large", "write a smaller size"))
}

/// The same, for sizes in memory.
pub fn parse_memory(text: &str) -> Result<usize, ValueError> {
    let too_much = "is more than this machine can address";
    usize::try_from(parse(text)?).map_err(|_| ValueError::new(WANTED, too_much, "write a smaller size"))
}

/// `64KiB`, `1500B`: a form that [`parse`] accepts, in the largest unit that gives a whole number.
pub fn show(bytes: u64) -> String {
    let binary = UNITS.iter().rev().filter(|(unit, _)| unit.contains('i') || *unit == "B");
    let fitting = binary.clone().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    fitting.map_or_else(|| format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// The same, for sizes in memory.
pub fn show_memory(bytes: usize) -> String {
    show(u64::try_from(bytes).unwrap_or(u64::MAX))
}

fn unknown_unit(number: &str, unit: &str) -> ValueError {
    let first = unit.chars().next().map(|c| c.to_ascii_uppercase());
    let Some(first) = first.filter(|first| "KMGT".contains(*first)) else {
        return ValueError::is_not(WANTED);
    };
    let fix = format!("did you mean `{number}{first}iB`? units are B, KiB, MiB, GiB, TiB, KB, MB, …");
    ValueError::new(WANTED, "has an unknown unit", fix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use crate::config::size::{parse, show};

    #[test]
    fn each_unit_is_read() {
        let table = [
            ("0B", 0),
            ("512B", 512),
            ("1KB", 1000),
            ("1kB", 1000),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("8MB", 8_000_000),
            ("8MiB", 8_388_608),
            ("2GiB", 2_147_483_648),
            ("1TB", 1_000_000_000_000),
        ];
        for (text, bytes) in table {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn the_likely_unit_is_suggested() {
        for (text, meant) in [("8M", "`8MiB`"), ("64k", "`64KiB`"), ("2gb", "`2GiB`"), ("8Mb", "`8MiB`")] {
            let error = parse(text).expect_err(text);
            assert!(error.fix.contains(meant), "{text}: {}", error.fix);
        }
    }

    #[test]
    fn an_invalid_size_is_refused() {
        for text in ["", "8", "MiB", "-1B", "1.5GiB", "1_000B", "big", "99999999999TiB", "٥B"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_size_parses_to_itself(bytes in any::<u64>()) {
            prop_assert_eq!(parse(&show(bytes)), Ok(bytes));
        }

        #[test]
        fn no_input_causes_a_panic(text in any::<String>()) {
            prop_assert_eq!(parse(&text), parse(&text));
        }
    }
}
