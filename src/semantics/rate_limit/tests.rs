//! The fields of real origins, and of the versions of the draft.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::semantics::rate_limit::{Bucket, LimitScope, RateLimitState, read};

/// 2016-08-02 20:50:18 UTC, with half a second.
const NOW: Duration = Duration::from_millis(1_470_171_018_500);

fn read_fields(fields: &[(&'static str, &'static str)]) -> Option<RateLimitState> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    read(&headers, SystemTime::UNIX_EPOCH + NOW)
}

/// A limit from its four numbers; times are in seconds.
fn quota(limit: u64, window: Option<u64>, remaining: u64, resets_in: f64) -> RateLimitState {
    RateLimitState {
        limit: Some(limit),
        window: window.map(Duration::from_secs),
        remaining: Some(remaining),
        resets_in: Some(Duration::from_secs_f64(resets_in)),
        ..RateLimitState::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is the value of a field")]
fn bucket(name: &str, per_resource: bool) -> Option<Bucket> {
    Some(Bucket { name: name.into(), per_resource })
}

#[test]
fn discord_names_a_bucket_per_resource_and_counts_from_now() {
    let state = read_fields(&[
        ("x-ratelimit-limit", "5"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "1470173023.123"),
        ("x-ratelimit-reset-after", "64.57"),
        ("x-ratelimit-bucket", "abcd1234"),
    ]);
    let bucket = bucket("abcd1234", true);
    assert_eq!(state, Some(RateLimitState { bucket, ..quota(5, None, 0, 64.57) }));
}

#[test]
fn discord_specifies_the_scope_of_the_limit() {
    for (field, value, limit_scope) in [
        ("x-ratelimit-scope", "user", LimitScope::Caller),
        ("x-ratelimit-scope", "global", LimitScope::Global),
        ("x-ratelimit-global", "true", LimitScope::Global),
        ("x-ratelimit-global", "false", LimitScope::Caller),
        ("x-ratelimit-scope", "shared", LimitScope::Shared),
        ("x-ratelimit-scope", "SHARED", LimitScope::Shared),
        ("x-ratelimit-scope", "sharedish", LimitScope::Caller),
    ] {
        let state = read_fields(&[("x-ratelimit-bucket", "a"), (field, value)]);
        let expected =
            RateLimitState { bucket: bucket("a", true), scope: limit_scope, ..RateLimitState::default() };
        assert_eq!(state, Some(expected), "{field}: {value}");
    }
    assert_eq!(
        read_fields(&[("x-ratelimit-global", "true"), ("x-ratelimit-scope", "global")]),
        Some(RateLimitState { scope: LimitScope::Global, ..RateLimitState::default() })
    );
}

#[test]
fn github_names_a_resource_and_the_time_of_its_reset() {
    let state = read_fields(&[
        ("x-ratelimit-limit", "5000"),
        ("x-ratelimit-remaining", "4987"),
        ("x-ratelimit-used", "13"),
        ("x-ratelimit-reset", "1470173018"),
        ("x-ratelimit-resource", "core"),
    ]);
    let expected = RateLimitState { bucket: bucket("core", false), ..quota(5000, None, 4987, 1999.5) };
    assert_eq!(state, Some(expected));
}

#[test]
fn the_dialects_of_other_origins_are_read() {
    let none = RateLimitState::default();
    for (origin, fields, expected) in [
        (
            "Twitter",
            &[
                ("x-rate-limit-limit", "900"),
                ("x-rate-limit-remaining", "899"),
                ("x-rate-limit-reset", "1470171918"),
            ][..],
            Some(quota(900, None, 899, 899.5)),
        ),
        (
            "Reddit",
            &[("x-ratelimit-used", "1"), ("x-ratelimit-remaining", "599.0"), ("x-ratelimit-reset", "34")],
            Some(RateLimitState { limit: None, ..quota(0, None, 599, 34.0) }),
        ),
        (
            "GitLab",
            &[
                ("ratelimit-limit", "60"),
                ("ratelimit-name", "throttle_authenticated_web"),
                ("ratelimit-observed", "67"),
                ("ratelimit-remaining", "0"),
                ("ratelimit-reset", "1470171060"),
            ],
            Some(quota(60, None, 0, 41.5)),
        ),
        (
            "Envoy",
            &[
                ("x-ratelimit-limit", "10, 10;w=1;name=\"a\", 50;w=60"),
                ("x-ratelimit-remaining", "9"),
                ("x-ratelimit-reset", "1"),
            ],
            Some(quota(10, Some(1), 9, 1.0)),
        ),
        (
            "milliseconds",
            &[("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", "1470171019500")],
            Some(RateLimitState { limit: None, ..quota(0, None, 7, 1.0) }),
        ),
        (
            "a date",
            &[("x-ratelimit-reset", "Tue, 02 Aug 2016 20:50:28 GMT")],
            Some(RateLimitState { resets_in: Some(Duration::from_millis(9500)), ..none.clone() }),
        ),
        ("Shopify", &[("x-shopify-shop-api-call-limit", "32/40")], None),
        ("an unrelated response", &[("content-type", "application/json"), ("retry-after", "5")], None),
    ] {
        assert_eq!(read_fields(fields), expected, "{origin}");
    }
}

#[test]
fn the_draft_is_read_in_all_its_versions() {
    for (version, fields, expected) in [
        (
            "10",
            &[
                ("ratelimit", "\"default\";r=50;t=30"),
                ("ratelimit-policy", "\"default\";q=100;w=60;pk=:dHJ1ZQ==:"),
            ][..],
            Some(quota(100, Some(60), 50, 30.0)),
        ),
        (
            "08",
            &[("ratelimit", "default;r=50;t=30"), ("ratelimit-policy", "default;q=100;w=60")],
            Some(quota(100, Some(60), 50, 30.0)),
        ),
        (
            "07",
            &[
                ("ratelimit", "limit=100, remaining=50, reset=5"),
                ("ratelimit-policy", "100;w=60, 1000;w=3600"),
            ],
            Some(quota(100, Some(60), 50, 5.0)),
        ),
        (
            "06",
            &[
                ("ratelimit-limit", "100"),
                ("ratelimit-remaining", "50"),
                ("ratelimit-reset", "5"),
                ("ratelimit-policy", "100;w=60"),
            ],
            Some(quota(100, Some(60), 50, 5.0)),
        ),
        (
            "03",
            &[("ratelimit-limit", "100, 100;w=60"), ("ratelimit-remaining", "50"), ("ratelimit-reset", "5")],
            Some(quota(100, Some(60), 50, 5.0)),
        ),
        (
            "a policy alone",
            &[("ratelimit-policy", "\"day\";q=1000;w=86400, \"burst\";q=10;w=1")],
            Some(RateLimitState { remaining: None, resets_in: None, ..quota(10, Some(1), 0, 0.0) }),
        ),
    ] {
        assert_eq!(read_fields(fields), expected, "{version}");
    }
}

#[test]
fn the_limit_that_is_reached_first_applies() {
    let policy = "\"burst\";q=100;w=60, \"day\";q=1000;w=86400";
    for (limits, expected) in [
        ("\"burst\";r=50;t=30, \"day\";r=400;t=9000", quota(100, Some(60), 50, 30.0)),
        ("\"burst\";r=50;t=30, \"day\";r=3;t=9000", quota(1000, Some(86_400), 3, 9000.0)),
        ("\"burst\";r=0;t=30, \"day\";r=0;t=9000", quota(1000, Some(86_400), 0, 9000.0)),
        ("\"day\";t=9000, \"burst\";r=50;t=30", quota(100, Some(60), 50, 30.0)),
    ] {
        let state = read_fields(&[("ratelimit", limits), ("ratelimit-policy", policy)]);
        assert_eq!(state, Some(expected), "{limits}");
    }
    let listed = read_fields(&[
        ("x-ratelimit-limit", "10, 50"),
        ("x-ratelimit-remaining", "9, 3"),
        ("x-ratelimit-reset", "1, 60"),
    ]);
    assert_eq!(listed, Some(quota(50, None, 3, 60.0)));
    let mixed = read_fields(&[
        ("x-ratelimit-remaining", "9"),
        ("x-ratelimit-resource", "core"),
        ("ratelimit", "\"default\";r=2;t=5"),
    ]);
    assert_eq!(mixed, Some(RateLimitState { limit: None, ..quota(0, None, 2, 5.0) }));
}

#[test]
fn limits_of_other_units_than_calls_are_ignored() {
    let policy = "\"bytes\";q=9;w=60;qu=\"content-bytes\", \"calls\";q=100;w=60;qu=\"requests\"";
    let state = read_fields(&[
        ("ratelimit", "\"bytes\";r=1;t=30, \"calls\";r=50;t=30"),
        ("ratelimit-policy", policy),
    ]);
    assert_eq!(state, Some(quota(100, Some(60), 50, 30.0)));
}

#[test]
fn an_implausible_reset_is_ignored() {
    for (reset, expected) in [
        ("0", Some(0.0)),
        ("-3", Some(0.0)),
        ("59.5", Some(59.5)),
        ("2764800", Some(2_764_800.0)),
        ("2764801", None),
        ("999999999", None),
        ("1470171018", Some(0.0)),
        ("1470171000", Some(0.0)),
        ("1400000000", None),
        ("1470171020.5", Some(2.0)),
        ("1570171018", None),
        ("1470171018000", Some(0.0)),
        ("1570171018000", None),
        ("18446744073709551615", None),
        ("99999999999999999999999999", None),
        ("Tue, 02 Aug 2016 20:50:00 GMT", Some(0.0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
        ("soon", None),
        ("", None),
    ] {
        let state = read_fields(&[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", reset)]);
        let resets_in = state.expect("one is left").resets_in;
        assert_eq!(resets_in, expected.map(Duration::from_secs_f64), "{reset}");
    }
}

#[test]
fn an_invalid_number_is_ignored() {
    for (value, expected) in [
        ("60", Some(60)),
        ("60;w=9", Some(60)),
        (" 60 ", Some(60)),
        ("60.9", Some(60)),
        ("0", Some(0)),
        ("99999999999999999999999", Some(u64::MAX)),
        ("-1", None),
        ("unlimited", None),
        ("6e1", None),
        ("", None),
        (";w=60", None),
    ] {
        let state = read_fields(&[("x-ratelimit-remaining", value)]);
        assert_eq!(state.and_then(|quota| quota.remaining), expected, "{value}");
    }
}

#[test]
fn an_invalid_structured_field_is_ignored() {
    for value in ["", "  ", "\"default", "default;r", "50;t=", "limit=100 remaining=5", "(1 2)", "\"a\";r=-1"]
    {
        assert_eq!(read_fields(&[("ratelimit", value)]), None, "{value}");
    }
}
