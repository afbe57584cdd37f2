//! Conditions, 304 responses and freshening (RFC 9110 §13, RFC 9111 §4.3).

use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use crate::semantics::hop_by_hop::HOP_BY_HOP;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::test_headers::header_map;
use crate::semantics::validation::{
    CONDITIONALS, PreconditionResult, applies_to, conditional_fields, evaluate, freshen, has_conditionals,
    not_modified_head,
};

const EARLY: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn metadata(fields: &[(&'static str, &'static str)]) -> CacheMetadata {
    CacheMetadata::from_response(StatusCode::OK, &header_map(fields))
}

fn matches(request: &[(&'static str, &'static str)], stored: &[(&'static str, &'static str)]) -> bool {
    evaluate(&header_map(request), &metadata(stored), StatusCode::OK) == PreconditionResult::NotModified
}

#[test]
fn if_none_match_compares_weakly_with_any_member() {
    // RFC 9110 §8.8.3.2, §13.1.2.
    for (list, stored, expected) in [
        ("\"a\"", "\"a\"", true),
        ("W/\"a\"", "\"a\"", true),
        ("\"a\"", "W/\"a\"", true),
        ("\"b\", \"a\"", "\"a\"", true),
        ("\"b\",,W/\"a\" ", "\"a\"", true),
        ("*", "\"a\"", true),
        (" * ", "\"a\"", true),
        ("\"a\\\", \"b\"", "\"b\"", true),
        ("\"a,b\"", "\"a,b\"", true),
        ("\"a,b\"", "\"b\"", false),
        ("\"A\"", "\"a\"", false),
        ("a", "\"a\"", false),
        ("a", "a", true),
        ("b, a", "a", true),
        ("\"*\"", "\"a\"", false),
        ("", "\"a\"", false),
        ("\"a", "\"a\"", false),
        (",", "\"a\"", false),
    ] {
        assert_eq!(matches(&[("if-none-match", list)], &[("etag", stored)]), expected, "{list:?}");
    }
    assert!(matches(&[("if-none-match", "*")], &[]));
    assert!(!matches(&[("if-none-match", "\"a\"")], &[]));
    assert!(matches(&[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")], &[("etag", "\"a\"")]));
}

#[test]
fn if_modified_since_counts_only_without_if_none_match() {
    // RFC 9110 §13.1.3.
    let stored = [("etag", "\"a\""), ("last-modified", CHANGED)];
    assert!(matches(&[("if-modified-since", LATE)], &stored));
    assert!(!matches(&[("if-modified-since", LATE), ("if-none-match", "\"b\"")], &stored));
    assert!(matches(&[("if-modified-since", EARLY), ("if-none-match", "\"a\"")], &stored));
}

#[test]
fn if_modified_since_compares_with_last_modified_else_with_date() {
    for (since, changed, received, expected) in [
        (CHANGED, Some(CHANGED), None, true),
        ("Sunday, 06-Nov-94 08:49:37 GMT", Some(CHANGED), None, true),
        ("Sun Nov  6 08:49:37 1994", Some(CHANGED), None, true),
        (LATE, Some(CHANGED), None, true),
        (EARLY, Some(CHANGED), None, false),
        (CHANGED, Some(CHANGED), Some(LATE), true),
        (CHANGED, None, Some(CHANGED), true),
        (EARLY, None, Some(CHANGED), false),
        (CHANGED, None, None, false),
        ("yesterday", Some(CHANGED), None, false),
    ] {
        let mut stored = Vec::new();
        stored.extend(changed.map(|date| ("last-modified", date)));
        stored.extend(received.map(|date| ("date", date)));
        assert_eq!(matches(&[("if-modified-since", since)], &stored), expected, "{since} {stored:?}");
    }
    let twice = [("if-modified-since", LATE), ("if-modified-since", LATE)];
    assert!(!matches(&twice, &[("last-modified", CHANGED)]));
}

#[test]
fn only_a_success_becomes_a_304() {
    let (request, metadata) = (header_map(&[("if-none-match", "*")]), metadata(&[("etag", "\"a\"")]));
    assert_eq!(evaluate(&request, &metadata, StatusCode::NOT_FOUND), PreconditionResult::Full);
    assert_eq!(evaluate(&header_map(&[]), &metadata, StatusCode::OK), PreconditionResult::Full);
}

#[test]
fn a_generated_304_has_the_fields_that_a_client_updates() {
    // RFC 9110 §15.4.5.
    let kept = [
        ("etag", "\"a\""),
        ("date", CHANGED),
        ("vary", "x"),
        ("vary", "y"),
        ("content-location", "/c"),
        ("cache-control", "max-age=9"),
        ("expires", LATE),
    ];
    let mut stored = kept.to_vec();
    stored.extend([("content-type", "a/b"), ("content-length", "3"), ("last-modified", EARLY)]);
    assert_eq!(not_modified_head(&header_map(&stored)), header_map(&kept));
    let dated = [("last-modified", EARLY)];
    assert_eq!(not_modified_head(&header_map(&dated)), header_map(&dated));
}

#[test]
fn revalidation_sends_the_stored_validators_as_received() {
    let stored = metadata(&[("etag", "W/\"a\""), ("last-modified", "Sun Nov  6 08:49:37 1994")]);
    let fields: HeaderMap = conditional_fields(&stored).into_iter().collect();
    let expected =
        header_map(&[("if-none-match", "W/\"a\""), ("if-modified-since", "Sun Nov  6 08:49:37 1994")]);
    assert_eq!(fields, expected);
    assert!(conditional_fields(&metadata(&[])).is_empty());
}

#[test]
fn all_five_conditional_fields_are_detected() {
    assert!(!has_conditionals(&header_map(&[("if-none", "x"), ("range", "bytes=0-1")])));
    for name in CONDITIONALS {
        let headers: HeaderMap = [(name, HeaderValue::from_static("x"))].into_iter().collect();
        assert!(has_conditionals(&headers));
    }
}

#[test]
fn a_304_replaces_all_fields_except_those_of_the_body() {
    // RFC 9111 §3.2.
    let stored = header_map(&[
        ("cache-control", "max-age=1"),
        ("content-length", "10"),
        ("content-encoding", "gzip"),
        ("content-type", "a/b"),
        ("x-list", "1"),
        ("x-list", "2"),
        ("x-stays", "1"),
        ("age", "50"),
        ("date", EARLY),
    ]);
    let update = header_map(&[
        ("cache-control", "max-age=9"),
        ("content-length", "0"),
        ("content-encoding", "br"),
        ("content-range", "bytes 0-1/2"),
        ("content-type", "c/d"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("x-list", "3"),
        ("x-new", "1"),
        ("x-new", "2"),
    ]);
    let expected = header_map(&[
        ("cache-control", "max-age=9"),
        ("content-length", "10"),
        ("content-encoding", "gzip"),
        ("content-type", "c/d"),
        ("x-list", "3"),
        ("x-stays", "1"),
        ("x-new", "1"),
        ("x-new", "2"),
    ]);
    assert_eq!(freshen(&stored, &update), expected);
    assert_eq!(freshen(&stored, &header_map(&[("age", "1"), ("date", LATE)]))["age"], "1");
}

#[test]
fn a_304_with_another_strong_tag_or_vary_does_not_apply() {
    // RFC 9111 §4.3.4.
    let stored = header_map(&[("etag", "\"a\""), ("vary", "X, Y")]);
    let metadata = CacheMetadata::from_response(StatusCode::OK, &stored);
    for (update, expected) in [
        (vec![], true),
        (vec![("etag", "\"a\"")], true),
        (vec![("etag", "W/\"b\"")], true),
        (vec![("etag", "\"b\"")], false),
        (vec![("vary", "y"), ("vary", "x")], true),
        (vec![("vary", "x")], false),
        (vec![("vary", "*")], false),
    ] {
        assert_eq!(applies_to(&header_map(&update), &stored, &metadata), expected, "{update:?}");
    }
}

proptest! {
    #[test]
    fn freshening_keeps_the_fields_that_describe_the_body(
        update in vec((0_usize..8, "[ -~]{0,20}"), 0..12),
    ) {
        let names = [
            "content-length", "content-encoding", "content-range", "connection", "etag", "age",
            "keep-alive", "x-other",
        ];
        let mut not_modified = HeaderMap::new();
        for (name, value) in &update {
            not_modified.append(names[*name], HeaderValue::from_str(value).unwrap());
        }
        let stored = header_map(&[("content-length", "10"), ("content-encoding", "gzip"), ("x-a", "1")]);
        let fresh = freshen(&stored, &not_modified);
        for name in ["content-length", "content-encoding", "content-range"] {
            assert!(fresh.get_all(name).iter().eq(stored.get_all(name).iter()));
        }
        assert!(fresh.keys().all(|name| !HOP_BY_HOP.contains(name)));
        assert_eq!(freshen(&fresh, &not_modified), fresh);
    }

    #[test]
    fn any_condition_has_a_result_and_a_tag_always_matches_itself(
        condition in any::<Vec<u8>>(),
        tag in "(W/)?\"[!#-~]{0,8}\"",
    ) {
        let mut stored = HeaderMap::new();
        stored.insert("etag", HeaderValue::from_str(&tag).unwrap());
        stored.insert("last-modified", HeaderValue::from_static(CHANGED));
        let metadata = CacheMetadata::from_response(StatusCode::OK, &stored);
        let mut request = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&condition) {
            request.insert("if-modified-since", value.clone());
            evaluate(&request, &metadata, StatusCode::OK);
            request.append("if-none-match", value);
            evaluate(&request, &metadata, StatusCode::OK);
        }
        request.append("if-none-match", HeaderValue::from_str(&tag).unwrap());
        assert_eq!(evaluate(&request, &metadata, StatusCode::OK), PreconditionResult::NotModified);
    }
}

/// A range with `If-Range` needs a strong tag (RFC 9110 §13.1.5). A 304 must not make a weak tag strong.
#[test]
fn a_304_does_not_make_a_weak_tag_strong() {
    for (stored, confirmed, kept) in [
        ("W/\"a\"", "\"a\"", "W/\"a\""),
        ("W/\"a\"", "W/\"a\"", "W/\"a\""),
        ("\"a\"", "W/\"a\"", "\"a\""),
        ("\"a\"", "\"a\"", "\"a\""),
        ("W/\"a\"", "W/\"b\"", "W/\"b\""),
        ("W/\"a\"", "\"b\"", "\"b\""),
    ] {
        let fresh = freshen(&header_map(&[("etag", stored)]), &header_map(&[("etag", confirmed)]));
        assert_eq!(fresh["etag"], kept, "{stored} confirmed by {confirmed}");
    }
}
