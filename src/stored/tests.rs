//! A stored response: fields left out of a hit, changes by a 304.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use crate::semantics::test_headers::header_map;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::stored::{StoredResponse, is_withheld_from_hits};

const SENT: SystemTime = SystemTime::UNIX_EPOCH;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn stored(headers: &HeaderMap, body: &'static str) -> StoredResponse {
    let sole = (VaryFields::default(), VariantId::SOLE);
    let body = Bytes::from_static(body.as_bytes());
    StoredResponse::new(StatusCode::OK, headers, body, sole, (SENT, SENT + secs(1))).with_initial_age(secs(5))
}

#[test]
fn a_hit_leaves_out_fields_of_the_original_exchange() {
    let all = header_map(&[
        ("x-ratelimit-remaining", "4"),
        ("x-ratelimit-reset", "9"),
        ("ratelimit", "x;r=1"),
        ("ratelimit-policy", "x;q=1"),
        ("retry-after", "7"),
        ("age", "3"),
        ("cache-control", "max-age=9"),
        ("x-rate", "kept"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]);
    let stored = stored(&all.clone(), "");
    let hit = header_map(&[
        ("cache-control", "max-age=9"),
        ("x-rate", "kept"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]);
    assert_eq!(stored.hit_headers(), hit);
    assert_eq!(stored.all_headers(), all);
    assert_eq!(stored.metadata.age, Some(secs(3)));
    assert!(!is_withheld_from_hits(&HeaderName::from_static("x-rate-limiter")));
}

#[test]
fn age_counts_from_arrival_on_top_of_the_initial_age() {
    let stored = stored(&HeaderMap::new(), "");
    assert_eq!(stored.age(SENT + secs(1)), secs(5));
    assert_eq!(stored.age(SENT + secs(11)), secs(15));
    assert_eq!(stored.age(SENT), secs(5));
}

#[test]
fn a_304_updates_fields_and_times_and_keeps_the_body() {
    let old =
        stored(&header_map(&[("cache-control", "max-age=1"), ("age", "50"), ("etag", "\"a\"")]), "body");
    let update = header_map(&[("cache-control", "max-age=9"), ("x-ratelimit-remaining", "3")]);
    let fresh = old.freshened(&update, SENT + secs(60), SENT + secs(62));
    assert_eq!(fresh.hit_headers(), header_map(&[("etag", "\"a\""), ("cache-control", "max-age=9")]));
    assert_eq!(fresh.withheld, header_map(&[("x-ratelimit-remaining", "3")]));
    assert_eq!((fresh.body, fresh.variant), (old.body, old.variant));
    assert_eq!(fresh.metadata.cache_control.max_age, Some(secs(9)));
    // Not the 50 s of the first exchange: only the two that this one took.
    assert_eq!((fresh.initial_age, fresh.metadata.age), (secs(2), None));
    assert_eq!((fresh.request_time, fresh.response_time), (SENT + secs(60), SENT + secs(62)));
}

#[test]
fn removed_fields_are_removed_from_the_metadata_too() {
    let with_cookie = stored(&header_map(&[("set-cookie", "a=b"), ("retry-after", "1")]), "");
    assert!(with_cookie.metadata.has_set_cookie);
    let without = with_cookie.with_headers(&header_map(&[("retry-after", "1")]));
    assert!(!without.metadata.has_set_cookie && without.headers.is_empty());
    assert_eq!(without.all_headers(), header_map(&[("retry-after", "1")]));
}

#[test]
fn weight_grows_with_body_and_fields() {
    let light = stored(&HeaderMap::new(), "").weight();
    assert!(stored(&HeaderMap::new(), "0123456789").weight() == light + 10);
    assert!(stored(&header_map(&[("retry-after", "1")]), "").weight() > light + 12);
    assert!(stored(&header_map(&[("x-a", "1")]), "").weight() > light + 4);
}

#[test]
fn debug_shows_names_and_no_values() {
    let shown =
        format!("{:?}", stored(&header_map(&[("x-name", "s3cret"), ("retry-after", "s3cret")]), "s3cret"));
    assert!(shown.contains("x-name") && shown.contains("retry-after"), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

proptest! {
    #[test]
    fn no_field_is_lost_or_doubled(values in vec((0_usize..5, any::<u8>()), 0..12)) {
        let names = ["age", "retry-after", "x-a", "ratelimit", "x-b"];
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(names[name], HeaderValue::from(u16::from(value)));
        }
        let stored = stored(&headers, "");
        assert_eq!(stored.all_headers(), headers);
        assert!(stored.headers.keys().all(|name| !is_withheld_from_hits(name)));
    }
}

/// The metadata read from the fields counts too.
#[test]
fn directives_that_name_fields_count_with_their_size() {
    let weight = |directive: &str| {
        let names: Vec<_> = (0..10_000).map(|n| format!("a{n:04}")).collect();
        let value = format!("max-age=60, {directive}=\"{}\"", names.join(","));
        let headers = HeaderMap::from_iter([(CACHE_CONTROL, value.parse().unwrap())]);
        stored(&headers, "x").weight()
    };
    let plain = weight("ext");
    assert!(weight("no-cache") > plain + 10_000 * 100 && weight("private") > plain + 10_000 * 100);
}
