//! Lifetimes and ages (RFC 9111 §4.2), and the absence of overflows.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::{any, proptest};

use crate::semantics::cache_control::MAX_DELTA;
use crate::semantics::freshness::{
    current_age, explicit_lifetime, heuristic_lifetime, initial_age, may_be_served_stale,
};
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::storability::CacheKind;

const NOON: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn metadata(fields: &[(&'static str, String)]) -> CacheMetadata {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    CacheMetadata::from_response(StatusCode::OK, &headers)
}

fn date(seconds: u64) -> String {
    httpdate::fmt_http_date(at(seconds))
}

fn directives(line: &str) -> CacheMetadata {
    metadata(&[("cache-control", line.to_owned())])
}

#[test]
fn shared_caches_prefer_s_maxage_then_max_age_then_expires() {
    // RFC 9111 §4.2.1.
    let expires = ("expires", date(NOON + 30));
    for (line, shared, private) in [
        ("s-maxage=5, max-age=9", Some(5), Some(9)),
        ("max-age=9, s-maxage=50", Some(50), Some(9)),
        ("s-maxage=5", Some(5), Some(30)),
        ("max-age=0", Some(0), Some(0)),
        ("max-age=junk", Some(0), Some(0)),
        ("foo", Some(30), Some(30)),
    ] {
        let metadata = metadata(&[("cache-control", line.to_owned()), expires.clone()]);
        let lifetime = |kind| explicit_lifetime(&metadata, kind, at(NOON));
        assert_eq!(lifetime(CacheKind::Shared), shared.map(secs), "{line}");
        assert_eq!(lifetime(CacheKind::Private), private.map(secs), "{line}");
    }
    assert_eq!(explicit_lifetime(&metadata(&[]), CacheKind::Shared, at(NOON)), None);
}

#[test]
fn expires_counts_from_the_responses_own_date() {
    // RFC 9111 §4.2.1: origin clocks run fast and slow.
    for (fields, expected) in [
        (vec![("date", date(NOON - 500)), ("expires", date(NOON - 440))], 60),
        (vec![("date", date(NOON + 500)), ("expires", date(NOON + 560))], 60),
        (vec![("date", date(NOON)), ("expires", date(NOON))], 0),
        (vec![("date", date(NOON)), ("expires", date(NOON - 60))], 0),
        (vec![("date", "junk".to_owned()), ("expires", date(NOON + 60))], 60),
        (vec![("expires", date(NOON + 60))], 60),
        (vec![("expires", "0".to_owned())], 0),
        (vec![("date", date(0)), ("expires", date(200_000_000_000))], MAX_DELTA.as_secs()),
    ] {
        let lifetime = explicit_lifetime(&metadata(&fields), CacheKind::Shared, at(NOON));
        assert_eq!(lifetime, Some(secs(expected)), "{fields:?}");
    }
}

#[test]
fn initial_age_is_the_greater_of_the_ages_by_date_and_by_age() {
    // RFC 9111 §4.2.3.
    for (fields, delay, expected) in [
        (vec![], 0, 0),
        (vec![], 3, 3),
        (vec![("age", "10".to_owned())], 3, 13),
        (vec![("date", date(NOON - 20)), ("age", "10".to_owned())], 3, 20),
        (vec![("date", date(NOON + 20)), ("age", "10".to_owned())], 3, 13),
        (vec![("age", "99999999999".to_owned())], 3, MAX_DELTA.as_secs()),
    ] {
        let age = initial_age(&metadata(&fields), at(NOON - delay), at(NOON));
        assert_eq!(age, secs(expected), "{fields:?}");
    }
}

#[test]
fn age_grows_with_the_clock_and_never_shrinks_below_its_start() {
    assert_eq!(current_age(secs(5), at(NOON), at(NOON + 10)), secs(15));
    assert_eq!(current_age(secs(5), at(NOON), at(NOON - 10)), secs(5));
    assert_eq!(current_age(MAX_DELTA, at(0), at(u64::from(u32::MAX) * 2)), MAX_DELTA);
}

#[test]
fn the_heuristic_is_a_tenth_of_the_time_unchanged_for_allowed_codes() {
    // RFC 9111 §4.2.2.
    let fields = [("date", date(NOON)), ("last-modified", date(NOON - 1000))];
    let guess = |code: u16, metadata: &CacheMetadata| {
        heuristic_lifetime(metadata, StatusCode::from_u16(code).unwrap(), at(NOON))
    };
    let plain = metadata(&fields);
    for code in [200, 203, 204, 300, 301, 308, 404, 405, 410, 501] {
        assert_eq!(guess(code, &plain), Some(secs(100)), "{code}");
    }
    for code in [201, 202, 206, 302, 307, 400, 403, 414, 429, 502, 503, 504, 599, 999] {
        assert_eq!(guess(code, &plain), None, "{code}");
    }
    let mut public = fields.to_vec();
    public.push(("cache-control", "public".to_owned()));
    assert_eq!(guess(201, &metadata(&public)), Some(secs(100)));
    assert_eq!(guess(206, &metadata(&public)), None);
    assert_eq!(guess(200, &metadata(&[("date", date(NOON))])), None);
    let old = metadata(&[("date", date(NOON)), ("last-modified", date(0))]);
    assert_eq!(guess(200, &old), Some(secs(86_400)));
    let future = metadata(&[("date", date(NOON)), ("last-modified", date(NOON + 9))]);
    assert_eq!(guess(200, &future), Some(secs(0)));
}

#[test]
fn the_origin_can_forbid_serving_stale() {
    // RFC 9111 §4.2.4.
    for (line, shared, private) in [
        ("max-age=1", true, true),
        ("must-revalidate", false, false),
        ("no-cache", false, false),
        ("no-cache=\"x\"", true, true),
        ("proxy-revalidate", false, true),
        ("s-maxage=5", false, true),
    ] {
        let metadata = directives(line);
        assert_eq!(may_be_served_stale(&metadata, CacheKind::Shared), shared, "{line}");
        assert_eq!(may_be_served_stale(&metadata, CacheKind::Private), private, "{line}");
    }
}

#[test]
fn sto_07_a_response_received_in_the_future_counts_as_old() {
    let age = |ahead: u64| current_age(secs(5), at(NOON + ahead), at(NOON));
    assert_eq!([age(0), age(1), age(60)], [secs(5); 3]);
    assert_eq!([age(61), age(10 * 365 * 86_400)], [MAX_DELTA; 2]);
}

proptest! {
    #[test]
    fn age_never_shrinks_as_time_passes(
        initial in any::<Duration>(),
        response in 0u64..1 << 40,
        now in 0u64..1 << 40,
        later in 0u64..1 << 40,
    ) {
        let age = current_age(initial, at(response), at(now));
        assert!(age <= current_age(initial, at(response), at(now + later)));
        assert!(age <= MAX_DELTA && age >= initial.min(MAX_DELTA));
    }

    #[test]
    fn nothing_overflows(
        age in any::<u64>(),
        date_at in 0u64..253_402_300_800,
        expires in 0u64..253_402_300_800,
        request in 0u64..1 << 60,
        response in 0u64..1 << 60,
    ) {
        let metadata = metadata(&[
            ("age", age.to_string()),
            ("date", date(date_at)),
            ("expires", date(expires)),
            ("last-modified", date(expires)),
        ]);
        assert!(initial_age(&metadata, at(request), at(response)) <= MAX_DELTA);
        let lifetime = explicit_lifetime(&metadata, CacheKind::Shared, at(response)).unwrap();
        assert!(lifetime <= MAX_DELTA);
        assert!(heuristic_lifetime(&metadata, StatusCode::OK, at(response)).unwrap() <= MAX_DELTA);
    }
}
