//! Ranges of a body (RFC 9110 §14): which of them a request asks for, and which one a part is.
//!
//! Owns: `Range` in bytes, `If-Range`, `Content-Range` in both directions.
//! Never touches: bodies; the multipart form of several ranges (`byteranges`).

use http::HeaderMap;
use http::header::{CONTENT_RANGE, HeaderValue, IF_RANGE, RANGE};

use crate::semantics::date;
use crate::semantics::response_metadata::CacheMetadata;

/// How many separate ranges one answer carries at most. Each costs a head of its own: asked for in
/// thousands they cost more than the body (RFC 9110 §17.15).
const MOST_PARTS: usize = 16;

/// How many ranges are read of one request at most.
const MOST_ASKED: usize = 256;

/// The bytes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRange {
    /// The first byte's index.
    pub first: u64,
    /// The last byte's index, not below `first`.
    pub last: u64,
}

impl ByteRange {
    /// How many bytes.
    pub fn length(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether every byte of `other` is one of these.
    pub fn holds(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether the two have bytes in common or lie next to each other.
    pub fn touches(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }
}

/// How much of a body is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeSelection {
    /// All of it: a 200.
    Whole,
    /// This, within the body: a 206.
    Part(ByteRange),
    /// These, two or more, within the body, in the order they were asked for: a 206 in several parts.
    /// No byte is in two of them.
    Parts(Vec<ByteRange>),
    /// Nothing of it: a 416.
    Unsatisfiable,
}

/// Which part of a stored 200's body of `len` bytes a `GET` asks for. What is no range of bytes gets
/// the whole, and so do more ranges than an answer should carry (RFC 9110 §14.2 allows both).
pub fn evaluate(asked: &HeaderMap, said: &CacheMetadata, len: u64) -> RangeSelection {
    let Some(ranges) = asked_for(asked) else { return RangeSelection::Whole };
    if !if_range_holds(asked, said) {
        return RangeSelection::Whole;
    }
    let within: Vec<ByteRange> = ranges.iter().filter_map(|range| range.within(len)).collect();
    let parts = joined(&within);
    match *parts {
        [] => RangeSelection::Unsatisfiable,
        [part] => RangeSelection::Part(part),
        _ if parts.len() > MOST_PARTS => RangeSelection::Whole,
        _ => RangeSelection::Parts(parts),
    }
}

/// Whether a request asks for exactly one range of bytes: the only kind that a part of a body can
/// answer, and whose answer can be kept as one.
pub fn is_single(asked: &HeaderMap) -> bool {
    asked_for(asked).is_some_and(|ranges| ranges.len() == 1)
}

/// Which bytes of how many a 206 of one part holds (RFC 9110 §14.4); `None` where it does not say,
/// says it twice, or contradicts itself.
pub fn held(headers: &HeaderMap) -> Option<(ByteRange, u64)> {
    let mut lines = headers.get_all(CONTENT_RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let (unit, range) = line.as_bytes().split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes ") {
        return None;
    }
    let dash = range.iter().position(|&b| b == b'-')?;
    let slash = range.iter().position(|&b| b == b'/')?;
    let first = number(range.get(..dash)?)?;
    let last = number(range.get(dash + 1..slash)?)?;
    let total = number(range.get(slash + 1..)?)?;
    // A number too large for any body was clamped: then it says nothing.
    (first <= last && last < total && total < u64::MAX)
        .then_some((ByteRange { first, last }, total))
}

/// `Content-Range` of a 206.
pub fn content_range(part: ByteRange, len: u64) -> HeaderValue {
    written(format!("bytes {}-{}/{len}", part.first, part.last))
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

impl Range {
    /// Its bytes of a body of `len`, if it has any.
    fn within(&self, len: u64) -> Option<ByteRange> {
        match *self {
            Self::From { first, last } if first < len => {
                Some(ByteRange { first, last: last.unwrap_or(u64::MAX).min(len - 1) })
            }
            Self::Last(n) if n > 0 && len > 0 => {
                Some(ByteRange { first: len.saturating_sub(n), last: len - 1 })
            }
            Self::From { .. } | Self::Last(_) => None,
        }
    }
}

/// The ranges of bytes of a request, one at least; `None` where it asks for none that larder reads.
fn asked_for(asked: &HeaderMap) -> Option<Vec<Range>> {
    let mut lines = asked.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let (unit, set) = line.as_bytes().split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let members = set.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    let members = members.filter(|member| !member.is_empty()).take(MOST_ASKED + 1);
    let ranges: Vec<Range> = members.map(parse).collect::<Option<_>>()?;
    (1..=MOST_ASKED).contains(&ranges.len()).then_some(ranges)
}

/// `a-b`, `a-` or `-n`.
fn parse(range: &[u8]) -> Option<Range> {
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

/// The ranges with those that overlap or adjoin made one (RFC 9110 §15.3.7.2), each where the first
/// of its members stood. Those with a gap between them stay apart: a client finds what it asked for.
fn joined(spans: &[ByteRange]) -> Vec<ByteRange> {
    let mut order: Vec<(ByteRange, usize)> = spans.iter().copied().zip(0..).collect();
    order.sort_unstable();
    let mut joined: Vec<(usize, ByteRange)> = Vec::with_capacity(order.len());
    for (span, place) in order {
        match joined.last_mut() {
            Some((first_place, known)) if known.touches(span) => {
                known.last = known.last.max(span.last);
                *first_place = place.min(*first_place);
            }
            Some(_) | None => joined.push((place, span)),
        }
    }
    joined.sort_unstable();
    joined.into_iter().map(|(_, span)| span).collect()
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
fn if_range_holds(asked: &HeaderMap, said: &CacheMetadata) -> bool {
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
    said.has_strong_date() && date::parse(line, received) == Some(changed.time)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::{any, prop_oneof, proptest};

    use crate::semantics::ranges::{
        ByteRange, MOST_ASKED, RangeSelection, content_range, evaluate, held, is_single,
        unsatisfied_range,
    };
    use crate::semantics::response_metadata::CacheMetadata;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn cut(range: &'static str, len: u64) -> RangeSelection {
        let said = CacheMetadata::of(StatusCode::OK, &map(&[]));
        evaluate(&map(&[("range", range)]), &said, len)
    }

    #[test]
    fn one_range_of_bytes_is_cut() {
        // RFC 9110 §14.1.2.
        let part = |first, last| RangeSelection::Part(ByteRange { first, last });
        for (range, len, expected) in [
            ("bytes=0-4", 10, part(0, 4)),
            ("BYTES=0-4", 10, part(0, 4)),
            ("bytes=9-9", 10, part(9, 9)),
            ("bytes=5-", 10, part(5, 9)),
            ("bytes=5-99", 10, part(5, 9)),
            ("bytes=0-99999999999999999999", 10, part(0, 9)),
            ("bytes=-3", 10, part(7, 9)),
            ("bytes=-99", 10, part(0, 9)),
            ("bytes=10-", 10, RangeSelection::Unsatisfiable),
            ("bytes=99999999999999999999-", 10, RangeSelection::Unsatisfiable),
            ("bytes=-0", 10, RangeSelection::Unsatisfiable),
            ("bytes=0-", 0, RangeSelection::Unsatisfiable),
            ("bytes=-1", 0, RangeSelection::Unsatisfiable),
            ("bytes=0-4,", 10, part(0, 4)),
            ("bytes=, ,0-4", 10, part(0, 4)),
            ("bytes=4-0", 10, RangeSelection::Whole),
            ("bytes=a-b", 10, RangeSelection::Whole),
            ("bytes=-", 10, RangeSelection::Whole),
            ("bytes=+1-2", 10, RangeSelection::Whole),
            ("bytes=0 - 4", 10, RangeSelection::Whole),
            ("bytes=,", 10, RangeSelection::Whole),
            ("items=0-4", 10, RangeSelection::Whole),
            ("bytes", 10, RangeSelection::Whole),
            ("", 10, RangeSelection::Whole),
        ] {
            assert_eq!(cut(range, len), expected, "{range:?} of {len}");
        }
        let two = map(&[("range", "bytes=0-1"), ("range", "bytes=0-1")]);
        assert_eq!(
            evaluate(&two, &CacheMetadata::of(StatusCode::OK, &map(&[])), 10),
            RangeSelection::Whole
        );
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
            let said = CacheMetadata::of(StatusCode::OK, &map(&stored));
            let asked = map(&[("range", "bytes=0-1"), ("if-range", condition)]);
            let part = RangeSelection::Part(ByteRange { first: 0, last: 1 });
            let expected = if holds { part } else { RangeSelection::Whole };
            assert_eq!(evaluate(&asked, &said, 10), expected, "{condition} {stored:?}");
        }
    }

    #[test]
    fn content_range_is_written_as_in_rfc_9110_section_14_4() {
        assert_eq!(content_range(ByteRange { first: 0, last: 4 }, 10), "bytes 0-4/10");
        assert_eq!(unsatisfied_range(10), "bytes */10");
    }

    #[test]
    fn several_ranges_are_cut_in_their_order_and_joined_where_they_touch() {
        // RFC 9110 §14.2, §15.3.7.2.
        let parts = |spans: &[(u64, u64)]| match *spans {
            [] => RangeSelection::Unsatisfiable,
            [(first, last)] => RangeSelection::Part(ByteRange { first, last }),
            _ => RangeSelection::Parts(
                spans.iter().map(|&(first, last)| ByteRange { first, last }).collect(),
            ),
        };
        for (range, expected) in [
            ("bytes=0-1,5-6", &[(0, 1), (5, 6)][..]),
            ("bytes=0-1 , 5-6", &[(0, 1), (5, 6)]),
            ("bytes=5-6,0-1", &[(5, 6), (0, 1)]),
            ("bytes=0-1,2-3", &[(0, 3)]),
            ("bytes=0-1,1-3", &[(0, 3)]),
            ("bytes=0-1,3-4", &[(0, 1), (3, 4)]),
            ("bytes=8-,0-1,7-7", &[(7, 9), (0, 1)]),
            ("bytes=-1,0-0,-3", &[(7, 9), (0, 0)]),
            ("bytes=0-,0-,0-", &[(0, 9)]),
            ("bytes=0-1,10-", &[(0, 1)]),
            ("bytes=10-,11-12,-0", &[]),
            ("bytes=4-5,0-9,7-8", &[(0, 9)]),
        ] {
            assert_eq!(cut(range, 10), parts(expected), "{range}");
        }
        for range in ["bytes=0-1,5-4", "bytes=0-1,x", "bytes=0-1;5-6", "bytes=0-1,5 -6"] {
            assert_eq!(cut(range, 10), RangeSelection::Whole, "{range}");
        }
    }

    #[test]
    fn more_ranges_than_an_answer_should_carry_get_the_whole() {
        // CVE-2011-3192: a kilobyte of request for a gigabyte of answer.
        let ranges = |n: u64| {
            let list: Vec<_> = (0..n).map(|i| format!("{}-{}", i * 3, i * 3)).collect();
            let mut asked = HeaderMap::new();
            let value = HeaderValue::from_str(&format!("bytes={}", list.join(",")));
            asked.insert("range", value.unwrap());
            evaluate(&asked, &CacheMetadata::of(StatusCode::OK, &HeaderMap::new()), 1 << 20)
        };
        assert!(matches!(ranges(16), RangeSelection::Parts(parts) if parts.len() == 16));
        assert_eq!(ranges(17), RangeSelection::Whole);
        let same = "bytes=".to_owned() + &"0-,".repeat(MOST_ASKED + 1);
        let mut asked = HeaderMap::new();
        asked.insert("range", HeaderValue::from_str(&same).unwrap());
        assert_eq!(
            evaluate(&asked, &CacheMetadata::of(StatusCode::OK, &HeaderMap::new()), 9),
            RangeSelection::Whole
        );
    }

    #[test]
    fn only_one_range_of_bytes_is_single() {
        for (range, expected) in [
            ("bytes=0-1", true),
            ("bytes=-1", true),
            ("bytes=99-", true),
            ("bytes=0-1,3-4", false),
            ("bytes=0-1,0-1", false),
            ("items=0-1", false),
            ("bytes=1-0", false),
        ] {
            assert_eq!(is_single(&map(&[("range", range)])), expected, "{range}");
        }
        assert!(!is_single(&map(&[])));
    }

    #[test]
    fn a_content_range_that_contradicts_itself_says_nothing() {
        // RFC 9110 §14.4.
        let some = |first, last, total| Some((ByteRange { first, last }, total));
        for (value, expected) in [
            ("bytes 0-4/10", some(0, 4, 10)),
            ("Bytes 9-9/10", some(9, 9, 10)),
            ("bytes 0-9/10", some(0, 9, 10)),
            ("bytes 0-10/10", None),
            ("bytes 5-4/10", None),
            ("bytes 0-4/*", None),
            ("bytes */10", None),
            ("bytes=0-4/10", None),
            ("bytes 0-4", None),
            ("bytes 0/4-10", None),
            ("bytes 0-4/10 ", None),
            ("bytes 0-4/99999999999999999999", None),
            ("items 0-4/10", None),
            ("", None),
        ] {
            assert_eq!(held(&map(&[("content-range", value)])), expected, "{value:?}");
        }
        let twice = map(&[("content-range", "bytes 0-4/10"), ("content-range", "bytes 0-4/10")]);
        assert_eq!(held(&twice), None);
    }

    proptest! {
        #[test]
        fn a_cut_never_exceeds_the_body(
            raw in any::<Vec<u8>>(),
            shaped in "bytes=[0-9]{0,21}-[0-9]{0,21}(,[0-9]{0,3}-[0-9]{0,3}){0,20}",
            len in prop_oneof![any::<u64>(), 0_u64..1000],
        ) {
            let said = CacheMetadata::of(StatusCode::OK, &HeaderMap::new());
            for value in [HeaderValue::from_bytes(&raw), HeaderValue::from_str(&shaped)] {
                let Ok(value) = value else { continue };
                let mut asked = HeaderMap::new();
                asked.insert("range", value);
                let mut parts = match evaluate(&asked, &said, len) {
                    RangeSelection::Part(part) => vec![part],
                    RangeSelection::Parts(parts) => parts,
                    RangeSelection::Whole | RangeSelection::Unsatisfiable => continue,
                };
                assert!(parts.len() <= 16);
                assert!(parts.iter().all(|part| part.first <= part.last && part.last < len));
                // Never more than the body: no byte is sent twice.
                parts.sort_unstable();
                assert!(parts.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
            }
        }
    }
}
