//! Partial responses: validity, available ranges, joining.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use crate::semantics::ranges::ByteRange;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::stored::StoredResponse;
use crate::stored::partial::PartialResponse;

const BODY: &[u8] = b"0123456789";
const STRONG: (&str, &str) = ("etag", "\"a\"");
const CHANGED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
const LATER: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:38 GMT");
const AT_ONCE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

type Fields<'a> = &'a [(&'static str, &'a str)];

fn map(fields: Fields<'_>) -> HeaderMap {
    fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
}

fn stored(status: u16, fields: Fields<'_>, body: &[u8], at: u64) -> Arc<StoredResponse> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    Arc::new(StoredResponse::new(
        StatusCode::from_u16(status).unwrap(),
        &map(fields),
        Bytes::copy_from_slice(body),
        (VaryFields::default(), VariantId::SOLE),
        (time, time),
    ))
}

/// Bytes `first` to `last` of `body`, received at `at`.
fn part_of(body: &[u8], first: usize, last: usize, tag: (&'static str, &str), at: u64) -> PartialResponse {
    let range = format!("bytes {first}-{last}/{}", body.len());
    let fields = [("content-range", range.as_str()), tag];
    PartialResponse::from_stored(stored(206, &fields, &body[first..=last], at)).expect("a sound part")
}

fn part(first: usize, last: usize) -> PartialResponse {
    part_of(BODY, first, last, STRONG, 0)
}

fn has_range(part: &PartialResponse, fields: Fields<'_>) -> bool {
    part.available_range(&map(fields)).is_some()
}

#[test]
fn only_a_consistent_206_with_a_strong_validator_is_a_part() {
    let range = ("content-range", "bytes 2-4/10");
    for (status, fields, body, expected) in [
        (206, &[range, STRONG][..], "234", true),
        (206, &[range, CHANGED, LATER], "234", true),
        (200, &[range, STRONG], "234", false),
        (416, &[range, STRONG], "234", false),
        (206, &[range], "234", false),
        (206, &[range, ("etag", "W/\"a\"")], "234", false),
        (206, &[range, ("etag", "bare")], "234", false),
        (206, &[range, ("etag", "W/\"a\""), CHANGED, LATER], "234", false),
        (206, &[range, CHANGED, AT_ONCE], "234", false),
        (206, &[range, CHANGED], "234", false),
        (206, &[range, STRONG], "23", false),
        (206, &[range, STRONG], "2345", false),
        (206, &[("content-range", "bytes 2-4/*"), STRONG], "234", false),
        (206, &[STRONG], "234", false),
        (206, &[range, STRONG, ("content-type", "text/plain")], "234", true),
        (206, &[range, STRONG, ("content-type", "Multipart/byteranges; boundary=x")], "234", false),
    ] {
        let part = PartialResponse::from_stored(stored(status, fields, body.as_bytes(), 0));
        assert_eq!(part.is_some(), expected, "{status} {fields:?} {body}");
    }
}

#[test]
fn a_part_satisfies_only_one_range_that_lies_within_it() {
    let part = part(2, 6);
    for (range, expected) in [
        ("bytes=2-6", true),
        ("bytes=3-3", true),
        ("bytes=1-3", false),
        ("bytes=5-7", false),
        ("bytes=0-", false),
        ("bytes=-1", false),
        ("bytes=-8", false),
        ("bytes=99-", false),
        ("bytes=2-3,5-6", false),
        ("bytes=2-3,3-4", false),
        ("bytes=6-2", false),
        ("items=2-6", false),
    ] {
        assert_eq!(has_range(&part, &[("range", range)]), expected, "{range}");
    }
    assert!(!has_range(&part, &[]), "a request without a range is for the whole");
    let tail = part_of(BODY, 7, 9, STRONG, 0);
    for (range, expected) in [("bytes=-3", true), ("bytes=8-", true), ("bytes=-4", false)] {
        assert_eq!(has_range(&tail, &[("range", range)]), expected, "{range}");
    }
}

#[test]
fn if_range_must_match_the_response_of_the_part() {
    let range = ("range", "bytes=2-3");
    assert!(has_range(&part(2, 6), &[range, ("if-range", "\"a\"")]));
    assert!(!has_range(&part(2, 6), &[range, ("if-range", "\"b\"")]));
    assert!(!has_range(&part(2, 6), &[range, ("if-range", "W/\"a\"")]));
}

#[test]
fn parts_of_one_response_join_where_they_leave_no_gap() {
    for (one, other, expected) in [
        ((0, 4), (5, 9), Some("0123456789")),
        ((5, 9), (0, 4), Some("0123456789")),
        ((0, 4), (3, 6), Some("0123456")),
        ((2, 7), (3, 4), Some("234567")),
        ((3, 4), (2, 7), Some("234567")),
        ((0, 3), (5, 9), None),
    ] {
        let joined = part(one.0, one.1).joined(&part(other.0, other.1), 10);
        let body = joined.map(|part| part.stored.body.clone());
        assert_eq!(body.as_deref(), expected.map(str::as_bytes), "{one:?} {other:?}");
    }
    assert!(part(0, 4).joined(&part(5, 9), 9).is_none(), "longer than what is stored");
}

#[test]
fn parts_of_different_responses_never_join() {
    let one = part(0, 4);
    let other_tag = part_of(BODY, 5, 9, ("etag", "\"b\""), 0);
    let other_length = part_of(b"0123456789A", 5, 9, STRONG, 0);
    let other_bytes = part_of(b"abcdefghij", 4, 9, STRONG, 0);
    let range = ("content-range", "bytes 5-9/10");
    let dated = PartialResponse::from_stored(stored(206, &[range, CHANGED, LATER], b"56789", 0)).unwrap();
    let mut varied = (*part(5, 9).stored()).clone();
    varied.variant = VariantId(7);
    let varied = PartialResponse::from_stored(Arc::new(varied)).unwrap();
    for other in [other_tag, other_length, other_bytes, dated, varied] {
        assert!(one.joined(&other, 10).is_none(), "{other:?}");
        assert!(other.joined(&one, 10).is_none(), "{other:?}");
    }
}

#[test]
fn joined_parts_have_the_fields_and_times_of_the_latest() {
    let with = |first, last, at, note| {
        let range = format!("bytes {first}-{last}/10");
        let fields = [("content-range", range.as_str()), STRONG, ("x-note", note), ("retry-after", note)];
        PartialResponse::from_stored(stored(206, &fields, &BODY[first..=last], at)).unwrap()
    };
    let (old, new) = (with(0, 4, 1, "1"), with(4, 9, 2, "2"));
    for joined in [old.joined(&new, 10).unwrap(), new.joined(&old, 10).unwrap()] {
        let whole = joined.whole().unwrap();
        assert_eq!(whole.status, StatusCode::OK);
        assert_eq!(whole.body, BODY);
        assert_eq!(whole.response_time, new.stored.response_time);
        assert_eq!(whole.headers, map(&[STRONG, ("x-note", "2"), ("content-length", "10")]));
        assert_eq!(whole.withheld, map(&[("retry-after", "2")]));
    }
}

#[test]
fn only_all_bytes_form_the_whole() {
    assert!(part(0, 9).whole().is_some());
    for (first, last) in [(0, 8), (1, 9), (3, 3)] {
        assert!(part(first, last).whole().is_none(), "{first}-{last}");
    }
}

proptest! {
    #[test]
    fn every_join_is_a_slice_of_the_body(
        body in vec(any::<u8>(), 1..200),
        cuts in vec((any::<proptest::sample::Index>(), any::<proptest::sample::Index>()), 1..12),
        largest in 1..250_usize,
    ) {
        let mut joined: Option<PartialResponse> = None;
        for (at, (a, b)) in cuts.iter().enumerate() {
            let (a, b) = (a.index(body.len()), b.index(body.len()));
            let next = part_of(&body, a.min(b), a.max(b), STRONG, at as u64);
            let part = joined.as_ref().and_then(|joined| next.joined(joined, largest)).unwrap_or(next);
            let ByteRange { first, last } = part.span;
            let [first, last] = [first, last].map(|n| usize::try_from(n).unwrap());
            assert_eq!(part.stored.body, body[first..=last]);
            assert_eq!(part.cut(part.span).unwrap(), body[first..=last]);
            assert!(part.cut(ByteRange { first: 0, last: body.len() as u64 }).is_none());
            match part.whole() {
                Some(whole) => assert_eq!(whole.body, body),
                None => assert!(part.stored.body.len() < body.len()),
            }
            joined = Some(part);
        }
    }
}
