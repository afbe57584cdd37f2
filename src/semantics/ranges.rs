//! Parts of a stored complete body (RFC 9110 §14).
//!
//! Owns: `Range` with one range of bytes, `If-Range`, `Content-Range`.
//! Never touches: bodies; parts received from origins, which are not stored.

use http::HeaderMap;
use http::header::{HeaderValue, IF_RANGE, RANGE};

use crate::semantics::date;
use crate::semantics::said::Said;

/// How much of a body is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All of it: a 200.
    Whole,
    /// The bytes from `first` to `last`, both included and within the body: a 206.
    Part {
        /// The first byte's index.
        first: u64,
        /// The last byte's index.
        last: u64,
    },
    /// Nothing of it: a 416.
    Unsatisfiable,
}

/// Which part of a stored 200's body of `len` bytes a `GET` asks for. Several ranges at once, and
/// what is no range of bytes, get the whole (RFC 9110 §14.2 allows both).
pub fn evaluate(asked: &HeaderMap, said: &Said, len: u64) -> Cut {
    let mut lines = asked.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Cut::Whole };
    let Some(range) = parse(line.as_bytes()) else { return Cut::Whole };
    if !if_range_holds(asked, said) {
        return Cut::Whole;
    }
    match range {
        Range::From { first, last } if first < len => {
            Cut::Part { first, last: last.unwrap_or(u64::MAX).min(len - 1) }
        }
        Range::Last(n) if n > 0 && len > 0 => {
            Cut::Part { first: len.saturating_sub(n), last: len - 1 }
        }
        Range::From { .. } | Range::Last(_) => Cut::Unsatisfiable,
    }
}

/// `Content-Range` of a 206.
pub fn content_range(first: u64, last: u64, len: u64) -> HeaderValue {
    written(format!("bytes {first}-{last}/{len}"))
}

/// `Content-Range` of a 416.
pub fn unsatisfied_range(len: u64) -> HeaderValue {
    written(format!("bytes */{len}"))
}

fn written(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and punctuation are a field value")
}

enum Range {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

/// `bytes=a-b`, `bytes=a-` or `bytes=-n`. `None` for everything else, several ranges included.
fn parse(value: &[u8]) -> Option<Range> {
    let (unit, range) = value.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let range = range.trim_ascii();
    let dash = range.iter().position(|&b| b == b'-')?;
    match (&range[..dash], &range[dash + 1..]) {
        (b"", n) => Some(Range::Last(number(n)?)),
        (first, b"") => Some(Range::From { first: number(first)?, last: None }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Range::From { first, last: Some(last) })
        }
    }
}

/// A position; one too large for any body stays too large for any body.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

/// RFC 9110 §13.1.5: the client's part and the stored body must be of the same bytes, which only a
/// strong validator promises. No `If-Range` asks for nothing.
fn if_range_holds(asked: &HeaderMap, said: &Said) -> bool {
    let mut lines = asked.get_all(IF_RANGE).iter();
    let Some(line) = lines.next() else { return true };
    let line = line.as_bytes();
    if lines.next().is_some() {
        return false;
    }
    if line.starts_with(b"\"") {
        // A strong tag is written with nothing before its quote, so equal bytes are both strong.
        return said.etag.as_ref().is_some_and(|tag| tag.raw.as_bytes() == line);
    }
    let (Some(changed), Some(received)) = (&said.last_modified, said.date) else { return false };
    // §8.8.2.2: a date is a strong validator when nothing can have changed since within its second.
    changed.time < received && date::parse(line, received) == Some(changed.time)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::{any, proptest};

    use crate::semantics::ranges::{Cut, content_range, evaluate, unsatisfied_range};
    use crate::semantics::said::Said;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn cut(range: &'static str, len: u64) -> Cut {
        let said = Said::of(StatusCode::OK, &map(&[]));
        evaluate(&map(&[("range", range)]), &said, len)
    }

    #[test]
    fn one_range_of_bytes_is_cut() {
        // RFC 9110 §14.1.2.
        let part = |first, last| Cut::Part { first, last };
        for (range, len, expected) in [
            ("bytes=0-4", 10, part(0, 4)),
            ("BYTES=0-4", 10, part(0, 4)),
            ("bytes=9-9", 10, part(9, 9)),
            ("bytes=5-", 10, part(5, 9)),
            ("bytes=5-99", 10, part(5, 9)),
            ("bytes=0-99999999999999999999", 10, part(0, 9)),
            ("bytes=-3", 10, part(7, 9)),
            ("bytes=-99", 10, part(0, 9)),
            ("bytes=10-", 10, Cut::Unsatisfiable),
            ("bytes=99999999999999999999-", 10, Cut::Unsatisfiable),
            ("bytes=-0", 10, Cut::Unsatisfiable),
            ("bytes=0-", 0, Cut::Unsatisfiable),
            ("bytes=-1", 0, Cut::Unsatisfiable),
            ("bytes=0-1,3-4", 10, Cut::Whole),
            ("bytes=4-0", 10, Cut::Whole),
            ("bytes=a-b", 10, Cut::Whole),
            ("bytes=-", 10, Cut::Whole),
            ("bytes=+1-2", 10, Cut::Whole),
            ("bytes=0 - 4", 10, Cut::Whole),
            ("items=0-4", 10, Cut::Whole),
            ("bytes", 10, Cut::Whole),
            ("", 10, Cut::Whole),
        ] {
            assert_eq!(cut(range, len), expected, "{range:?} of {len}");
        }
        let two = map(&[("range", "bytes=0-1"), ("range", "bytes=0-1")]);
        assert_eq!(evaluate(&two, &Said::of(StatusCode::OK, &map(&[])), 10), Cut::Whole);
    }

    #[test]
    fn if_range_needs_a_strong_match() {
        // RFC 9110 §13.1.5, §8.8.2.2.
        const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const LATER: &str = "Sun, 06 Nov 1994 09:49:37 GMT";
        for (condition, stored, holds) in [
            ("\"a\"", vec![("etag", "\"a\"")], true),
            ("\"b\"", vec![("etag", "\"a\"")], false),
            ("\"a\"", vec![("etag", "W/\"a\"")], false),
            ("W/\"a\"", vec![("etag", "W/\"a\"")], false),
            ("\"a\"", vec![], false),
            (CHANGED, vec![("last-modified", CHANGED), ("date", LATER)], true),
            ("Sun Nov  6 08:49:37 1994", vec![("last-modified", CHANGED), ("date", LATER)], true),
            (CHANGED, vec![("last-modified", CHANGED), ("date", CHANGED)], false),
            (CHANGED, vec![("last-modified", CHANGED)], false),
            (LATER, vec![("last-modified", CHANGED), ("date", LATER)], false),
            ("junk", vec![("last-modified", CHANGED), ("date", LATER)], false),
        ] {
            let said = Said::of(StatusCode::OK, &map(&stored));
            let asked = map(&[("range", "bytes=0-1"), ("if-range", condition)]);
            let expected = if holds { Cut::Part { first: 0, last: 1 } } else { Cut::Whole };
            assert_eq!(evaluate(&asked, &said, 10), expected, "{condition} {stored:?}");
        }
    }

    #[test]
    fn content_range_is_written_as_in_rfc_9110_section_14_4() {
        assert_eq!(content_range(0, 4, 10), "bytes 0-4/10");
        assert_eq!(unsatisfied_range(10), "bytes */10");
    }

    proptest! {
        #[test]
        fn a_cut_never_exceeds_the_body(
            raw in any::<Vec<u8>>(),
            shaped in "bytes=[0-9]{0,21}-[0-9]{0,21}",
            len in any::<u64>(),
        ) {
            let said = Said::of(StatusCode::OK, &HeaderMap::new());
            for value in [HeaderValue::from_bytes(&raw), HeaderValue::from_str(&shaped)] {
                let Ok(value) = value else { continue };
                let mut asked = HeaderMap::new();
                asked.insert("range", value);
                if let Cut::Part { first, last } = evaluate(&asked, &said, len) {
                    assert!(first <= last && last < len);
                }
            }
        }
    }
}
