//! Parsing of valid and invalid directives (RFC 9111 §5.2).

use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, PRAGMA};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use crate::semantics::cache_control::{CacheControl, Directive, MAX_DELTA, RequestCacheControl};

fn fields(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(CACHE_CONTROL, HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    headers
}

fn response(line: &str) -> CacheControl {
    CacheControl::from_response(&fields(&[line]))
}

fn request(line: &str) -> RequestCacheControl {
    RequestCacheControl::from_request(&fields(&[line]))
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn directives_that_forbid_a_stored_response_are_named() {
    let named = |name: &'static str, line: &'static str| {
        let headers = [(HeaderName::from_static(name), HeaderValue::from_static(line))];
        RequestCacheControl::from_request(&headers.into_iter().collect()).restrictions().join(" ")
    };
    assert_eq!(named("cache-control", "max-age=0, no-store, min-fresh=5"), "no-store max-age=0 min-fresh=5");
    assert_eq!(named("pragma", "no-cache"), "no-cache");
    assert_eq!(named("cache-control", "only-if-cached, max-stale=9"), "");
}

#[test]
fn max_age_is_parsed_strictly_and_the_lower_of_two_values_applies() {
    // RFC 9111 §4.2.1, §5.2.2.1; CCH-22.
    for (line, expected) in [
        ("", None),
        ("max-age=60", Some(secs(60))),
        ("MAX-Age=60", Some(secs(60))),
        ("max-age=003600", Some(secs(3600))),
        ("max-age=\"60\"", Some(secs(60))),
        ("foo, max-age=60, bar=1", Some(secs(60))),
        ("max-age=2147483648", Some(MAX_DELTA)),
        ("max-age=99999999999999999999", Some(MAX_DELTA)),
        ("max-age=0", Some(secs(0))),
        ("max-age=-1", Some(secs(0))),
        ("max-age=+1", Some(secs(0))),
        ("max-age=1.5", Some(secs(0))),
        ("max-age=", Some(secs(0))),
        ("max-age", Some(secs(0))),
        ("max-age='60'", Some(secs(0))),
        ("max-age=\"60", Some(secs(0))),
        ("max-age =60", Some(secs(0))),
        ("max-age= 60", Some(secs(0))),
        ("max-age=60s", Some(secs(0))),
        ("max-age=\u{0663}", Some(secs(0))),
        ("max-age=0, max-age=60", Some(secs(0))),
        ("max-age=60, max-age=0", Some(secs(0))),
        ("max-age=60, max-age=abc", Some(secs(0))),
        ("x-max-age=60", None),
        ("ext=\"a, max-age=60, b\"", None),
        ("ext=\"open, max-age=60", None),
    ] {
        assert_eq!(response(line).max_age, expected, "{line:?}");
    }
    assert_eq!(CacheControl::from_response(&fields(&["max-age=9", "s-maxage=7"])).s_maxage, Some(secs(7)));
}

#[test]
fn flags_are_read_in_any_case_and_on_any_line() {
    let all = [
        ("no-store", Directive::NoStore),
        ("no-cache", Directive::NoCache),
        ("private", Directive::Private),
        ("public", Directive::Public),
        ("must-revalidate", Directive::MustRevalidate),
        ("proxy-revalidate", Directive::ProxyRevalidate),
        ("must-understand", Directive::MustUnderstand),
    ];
    for (text, directive) in all {
        let control = CacheControl::from_response(&fields(&["max-age=1", &text.to_uppercase()]));
        for (other, candidate) in all {
            assert_eq!(control.has(candidate), candidate == directive, "{text} {other}");
        }
    }
    // A meaningless argument does not weaken a prohibition.
    assert!(response("no-store=0").has(Directive::NoStore));
    assert!(!response("no-store-really").has(Directive::NoStore));
}

#[test]
fn a_list_of_fields_limits_private_and_no_cache() {
    // RFC 9111 §5.2.2.4, §5.2.2.7.
    let control = response("private=\"X-A, x-b\", no-cache=set-cookie");
    assert_eq!(control.private_fields, ["x-a", "x-b"]);
    assert_eq!(control.no_cache_fields, ["set-cookie"]);
    assert!(!control.has(Directive::Private) && !control.has(Directive::NoCache));
    for whole in
        ["private=\"\"", "private=", "private=\"a b\"", "private=\"x", "private=\"x, Content-Encoding\""]
    {
        assert!(response(whole).has(Directive::Private), "{whole}");
    }
    assert!(response("private=\"x\", private").has(Directive::Private));
}

#[test]
fn stale_windows_are_read() {
    let control = response("max-age=1, stale-while-revalidate=5, stale-if-error=x");
    assert_eq!(control.stale_while_revalidate, Some(secs(5)));
    assert_eq!(control.stale_if_error, Some(secs(0)));
}

#[test]
fn the_stricter_of_two_request_directives_applies() {
    // RFC 9111 §5.2.1.
    let request_control = request("no-cache, no-store, only-if-cached, max-age=5, min-fresh=7, max-stale=9");
    assert!(request_control.no_cache && request_control.no_store && request_control.only_if_cached);
    assert_eq!((request_control.max_age, request_control.min_fresh), (Some(secs(5)), Some(secs(7))));
    assert_eq!(request_control.max_stale, Some(secs(9)));
    assert_eq!(request("max-stale").max_stale, Some(MAX_DELTA));
    assert_eq!(request("max-stale, max-stale=3").max_stale, Some(secs(3)));
    assert_eq!(request("max-stale=3, max-stale").max_stale, Some(secs(3)));
    assert_eq!(request("max-stale=x").max_stale, Some(secs(0)));
    assert_eq!(request("min-fresh=3, min-fresh=8").min_fresh, Some(secs(8)));
    assert_eq!(request("min-fresh=8, min-fresh=3").min_fresh, Some(secs(8)));
    assert_eq!(request("min-fresh=x").min_fresh, Some(MAX_DELTA));
    assert_eq!(request("max-age=x").max_age, Some(secs(0)));
    assert_eq!(request("unknown, other=1"), RequestCacheControl::default());
}

#[test]
fn pragma_counts_only_without_cache_control() {
    // RFC 9111 §5.4.
    let mut headers = HeaderMap::new();
    headers.insert(PRAGMA, HeaderValue::from_static("foo, No-Cache"));
    assert!(RequestCacheControl::from_request(&headers).no_cache);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
    assert!(!RequestCacheControl::from_request(&headers).no_cache);
    headers.remove(CACHE_CONTROL);
    headers.insert(PRAGMA, HeaderValue::from_static("unrelated"));
    assert_eq!(RequestCacheControl::from_request(&headers), RequestCacheControl::default());
}

proptest! {
    #[test]
    fn any_bytes_are_read_and_no_value_exceeds_max_delta(
        lines in vec(vec(any::<u8>(), 0..60), 0..4),
        pieces in vec("(max-age|no-cache|private|max-stale|min-fresh)?[ =\",0-9a-z]{0,12}", 0..6),
    ) {
        let mut headers = HeaderMap::new();
        for line in lines.into_iter().chain([pieces.join(",").into_bytes()]) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                headers.append(CACHE_CONTROL, value);
            }
        }
        let control = CacheControl::from_response(&headers);
        let request_control = RequestCacheControl::from_request(&headers);
        for value in [control.max_age, control.s_maxage, request_control.max_age, request_control.min_fresh, request_control.max_stale] {
            assert!(value.is_none_or(|value| value <= MAX_DELTA));
        }
    }

    #[test]
    fn no_store_is_found_among_any_other_directives(
        before in "[a-z0-9=, -]{0,30}",
        after in "[a-z0-9=, -]{0,30}",
    ) {
        let line = format!("{before}, nO-StOrE ,{after}");
        assert!(response(&line).has(Directive::NoStore), "{}", line);
    }
}
