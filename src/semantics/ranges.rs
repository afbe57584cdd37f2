//! Byte ranges of a body (RFC 9110 §14): the ranges that a request selects, and the range of a 206.
//!
//! Owns: `Range` in bytes, `If-Range`, `Content-Range` in both directions.
//! Never touches: bodies; the multipart form of several ranges (`byteranges`).

use http::HeaderMap;
use http::header::{CONTENT_RANGE, HeaderValue, IF_RANGE, RANGE};

use crate::semantics::date;
use crate::semantics::response_metadata::CacheMetadata;

/// Maximum number of separate ranges in one response. Each part has its own header, so thousands of parts
/// would be larger than the body (RFC 9110 §17.15).
const MAX_PARTS: usize = 16;

/// Maximum number of ranges that are parsed from one request.
const MAX_REQUESTED: usize = 256;

/// The bytes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRange {
    /// The first byte's index.
    pub first: u64,
    /// The last byte's index, not below `first`.
    pub last: u64,
}

impl ByteRange {
    /// The number of bytes.
    pub fn length(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether this range contains every byte of `other`.
    pub fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether the two ranges overlap or are adjacent.
    pub fn touches(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }
}

/// The part of a body that a request selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeSelection {
    /// The whole body: a 200.
    Whole,
    /// One range within the body: a 206.
    Part(ByteRange),
    /// Two or more ranges within the body, in the order of the request: a multipart 206. The ranges do not
    /// overlap.
    Parts(Vec<ByteRange>),
    /// No range within the body: a 416.
    Unsatisfiable,
}

/// Selects the part of a stored 200's body of `len` bytes for a `GET`. An invalid range, another range unit,
/// or too many ranges select the whole body (RFC 9110 §14.2 allows this).
///
/// ```
/// # use http::{HeaderMap, HeaderValue, StatusCode, header::RANGE};
/// use larder::semantics::ranges::{ByteRange, RangeSelection, evaluate};
/// use larder::semantics::response_metadata::CacheMetadata;
///
/// let metadata = CacheMetadata::from_response(StatusCode::OK, &HeaderMap::new());
/// let select = |range: &'static str| {
///     let request = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
///     evaluate(&request, &metadata, 1000)
/// };
/// assert_eq!(select("bytes=-100"), RangeSelection::Part(ByteRange { first: 900, last: 999 }));
/// assert_eq!(select("bytes=1000-"), RangeSelection::Unsatisfiable);
/// assert_eq!(select("lines=1-2"), RangeSelection::Whole);
/// ```
pub fn evaluate(request: &HeaderMap, metadata: &CacheMetadata, len: u64) -> RangeSelection {
    let Some(ranges) = requested_ranges(request) else { return RangeSelection::Whole };
    if !if_range_matches(request, metadata) {
        return RangeSelection::Whole;
    }
    let within: Vec<ByteRange> = ranges.iter().filter_map(|range| range.within(len)).collect();
    let parts = merged(&within);
    match *parts {
        [] => RangeSelection::Unsatisfiable,
        [part] => RangeSelection::Part(part),
        _ if parts.len() > MAX_PARTS => RangeSelection::Whole,
        _ => RangeSelection::Parts(parts),
    }
}

/// Whether a request has exactly one byte range. Only such a request can be served from a partial body, and
/// only its response can be stored as one.
pub fn is_single(request: &HeaderMap) -> bool {
    requested_ranges(request).is_some_and(|ranges| ranges.len() == 1)
}

/// The byte range of a single-part 206, and the length of the whole body (RFC 9110 §14.4). `None` if
/// `Content-Range` is missing, repeated, invalid or contradictory.
pub fn parse_content_range(headers: &HeaderMap) -> Option<(ByteRange, u64)> {
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
    // A number that is too large for any body was clamped, so it is meaningless.
    (first <= last && last < total && total < u64::MAX).then_some((ByteRange { first, last }, total))
}

/// `Content-Range` of a 206.
pub fn content_range(part: ByteRange, len: u64) -> HeaderValue {
    header_value(format!("bytes {}-{}/{len}", part.first, part.last))
}

/// `Content-Range` of a 416.
pub fn unsatisfied_range(len: u64) -> HeaderValue {
    header_value(format!("bytes */{len}"))
}

fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and punctuation are a valid field value")
}

enum Range {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

impl Range {
    /// The bytes of this range in a body of `len` bytes, if it has any.
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

/// The byte ranges of a request, at least one. `None` if it has no `Range` that larder supports.
fn requested_ranges(request: &HeaderMap) -> Option<Vec<Range>> {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let (unit, set) = line.as_bytes().split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let members = set.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    let members = members.filter(|member| !member.is_empty()).take(MAX_REQUESTED + 1);
    let ranges: Vec<Range> = members.map(parse).collect::<Option<_>>()?;
    (1..=MAX_REQUESTED).contains(&ranges.len()).then_some(ranges)
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

/// Merges ranges that overlap or are adjacent (RFC 9110 §15.3.7.2). A merged range takes the position of its
/// first member. Ranges with a gap between them stay separate, so a client finds the ranges that it
/// requested.
fn merged(ranges: &[ByteRange]) -> Vec<ByteRange> {
    let mut order: Vec<(ByteRange, usize)> = ranges.iter().copied().zip(0..).collect();
    order.sort_unstable();
    let mut merged: Vec<(usize, ByteRange)> = Vec::with_capacity(order.len());
    for (range, position) in order {
        match merged.last_mut() {
            Some((first_position, known)) if known.touches(range) => {
                known.last = known.last.max(range.last);
                *first_position = position.min(*first_position);
            }
            Some(_) | None => merged.push((position, range)),
        }
    }
    merged.sort_unstable();
    merged.into_iter().map(|(_, range)| range).collect()
}

/// Parses a position. A position that is too large is clamped to a value that is too large for any body.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

/// RFC 9110 §13.1.5: the client's part and the stored body must have the same bytes, which only a strong
/// validator guarantees. Without `If-Range` there is no such condition.
fn if_range_matches(request: &HeaderMap, metadata: &CacheMetadata) -> bool {
    let mut lines = request.get_all(IF_RANGE).iter();
    let Some(line) = lines.next() else { return true };
    let line = line.as_bytes();
    if lines.next().is_some() {
        return false;
    }
    if line.starts_with(b"\"") {
        // A strong tag has nothing before its quote, so if the bytes are equal, both tags are strong.
        return metadata.etag.as_ref().is_some_and(|tag| tag.raw.as_bytes() == line);
    }
    let (Some(changed), Some(received)) = (&metadata.last_modified, metadata.date) else {
        return false;
    };
    metadata.has_strong_date() && date::parse(line, received) == Some(changed.time)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::{HeaderMap, HeaderValue};
    use proptest::prelude::{any, prop_oneof, proptest};

    use crate::semantics::ranges::{
        ByteRange, MAX_REQUESTED, RangeSelection, content_range, evaluate, is_single, parse_content_range,
        unsatisfied_range,
    };
    use crate::semantics::response_metadata::CacheMetadata;
    use crate::semantics::test_headers::header_map;

    fn select(range: &'static str, len: u64) -> RangeSelection {
        let metadata = CacheMetadata::from_response(StatusCode::OK, &header_map(&[]));
        evaluate(&header_map(&[("range", range)]), &metadata, len)
    }

    #[test]
    fn one_byte_range_selects_its_part() {
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
            assert_eq!(select(range, len), expected, "{range:?} of {len}");
        }
        let two = header_map(&[("range", "bytes=0-1"), ("range", "bytes=0-1")]);
        assert_eq!(
            evaluate(&two, &CacheMetadata::from_response(StatusCode::OK, &header_map(&[])), 10),
            RangeSelection::Whole
        );
    }

    #[test]
    fn if_range_needs_a_strong_match() {
        // RFC 9110 §13.1.5, §8.8.2.2.
        const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const LATER: &str = "Sun, 06 Nov 1994 09:49:37 GMT";
        for (condition, stored, matches) in [
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
            let metadata = CacheMetadata::from_response(StatusCode::OK, &header_map(&stored));
            let request = header_map(&[("range", "bytes=0-1"), ("if-range", condition)]);
            let part = RangeSelection::Part(ByteRange { first: 0, last: 1 });
            let expected = if matches { part } else { RangeSelection::Whole };
            assert_eq!(evaluate(&request, &metadata, 10), expected, "{condition} {stored:?}");
        }
    }

    #[test]
    fn content_range_is_written_as_in_rfc_9110_section_14_4() {
        assert_eq!(content_range(ByteRange { first: 0, last: 4 }, 10), "bytes 0-4/10");
        assert_eq!(unsatisfied_range(10), "bytes */10");
    }

    #[test]
    fn several_ranges_keep_their_order_and_are_merged_where_they_touch() {
        // RFC 9110 §14.2, §15.3.7.2.
        let parts = |ranges: &[(u64, u64)]| match *ranges {
            [] => RangeSelection::Unsatisfiable,
            [(first, last)] => RangeSelection::Part(ByteRange { first, last }),
            _ => {
                RangeSelection::Parts(ranges.iter().map(|&(first, last)| ByteRange { first, last }).collect())
            }
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
            assert_eq!(select(range, 10), parts(expected), "{range}");
        }
        for range in ["bytes=0-1,5-4", "bytes=0-1,x", "bytes=0-1;5-6", "bytes=0-1,5 -6"] {
            assert_eq!(select(range, 10), RangeSelection::Whole, "{range}");
        }
    }

    #[test]
    fn too_many_ranges_select_the_whole_body() {
        // CVE-2011-3192: a request of a kilobyte that causes a response of a gigabyte.
        let ranges = |n: u64| {
            let list: Vec<_> = (0..n).map(|i| format!("{}-{}", i * 3, i * 3)).collect();
            let mut request = HeaderMap::new();
            let value = HeaderValue::from_str(&format!("bytes={}", list.join(",")));
            request.insert("range", value.unwrap());
            evaluate(&request, &CacheMetadata::from_response(StatusCode::OK, &HeaderMap::new()), 1 << 20)
        };
        assert!(matches!(ranges(16), RangeSelection::Parts(parts) if parts.len() == 16));
        assert_eq!(ranges(17), RangeSelection::Whole);
        let same = "bytes=".to_owned() + &"0-,".repeat(MAX_REQUESTED + 1);
        let mut request = HeaderMap::new();
        request.insert("range", HeaderValue::from_str(&same).unwrap());
        assert_eq!(
            evaluate(&request, &CacheMetadata::from_response(StatusCode::OK, &HeaderMap::new()), 9),
            RangeSelection::Whole
        );
    }

    #[test]
    fn is_single_accepts_exactly_one_byte_range() {
        for (range, expected) in [
            ("bytes=0-1", true),
            ("bytes=-1", true),
            ("bytes=99-", true),
            ("bytes=0-1,3-4", false),
            ("bytes=0-1,0-1", false),
            ("items=0-1", false),
            ("bytes=1-0", false),
        ] {
            assert_eq!(is_single(&header_map(&[("range", range)])), expected, "{range}");
        }
        assert!(!is_single(&header_map(&[])));
    }

    #[test]
    fn an_invalid_or_contradictory_content_range_is_ignored() {
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
            assert_eq!(parse_content_range(&header_map(&[("content-range", value)])), expected, "{value:?}");
        }
        let twice = header_map(&[("content-range", "bytes 0-4/10"), ("content-range", "bytes 0-4/10")]);
        assert_eq!(parse_content_range(&twice), None);
    }

    proptest! {
        #[test]
        fn a_selection_never_exceeds_the_body(
            raw in any::<Vec<u8>>(),
            shaped in "bytes=[0-9]{0,21}-[0-9]{0,21}(,[0-9]{0,3}-[0-9]{0,3}){0,20}",
            len in prop_oneof![any::<u64>(), 0_u64..1000],
        ) {
            let metadata = CacheMetadata::from_response(StatusCode::OK, &HeaderMap::new());
            for value in [HeaderValue::from_bytes(&raw), HeaderValue::from_str(&shaped)] {
                let Ok(value) = value else { continue };
                let mut request = HeaderMap::new();
                request.insert("range", value);
                let mut parts = match evaluate(&request, &metadata, len) {
                    RangeSelection::Part(part) => vec![part],
                    RangeSelection::Parts(parts) => parts,
                    RangeSelection::Whole | RangeSelection::Unsatisfiable => continue,
                };
                assert!(parts.len() <= 16);
                assert!(parts.iter().all(|part| part.first <= part.last && part.last < len));
                // The parts do not overlap, so the response is never larger than the body.
                parts.sort_unstable();
                assert!(parts.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
            }
        }
    }
}
