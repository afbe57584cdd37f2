//! The forms of `ttl` combined with the origin's fields.

use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::select;

use crate::policy::cacheability::ResponseToStore;
use crate::policy::{FreshnessState, Lifetime, Policy, SetCookiePolicy, StatusMatch, Ttl};
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::status;
use crate::semantics::storability::{CacheKind, NotStoredReason};
use crate::semantics::target::Target;
use crate::semantics::test_headers::header_map;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const BOTH: [CacheKind; 2] = [CacheKind::Shared, CacheKind::Private];
const CLAMP: Ttl = Ttl::Clamp { min: secs(60), max: secs(600) };

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn with(ttl: Ttl) -> Policy {
    Policy { ttl, ..Policy::origin() }
}

fn code(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

fn get() -> ProxyRequest {
    ProxyRequest::get(Target::absolute("http://h/").unwrap())
}

fn lifetime(ttl: Ttl, line: &'static str) -> Lifetime {
    let metadata = CacheMetadata::from_response(StatusCode::OK, &header_map(&[("cache-control", line)]));
    with(ttl).freshness(&metadata, StatusCode::OK, CacheKind::Shared, NOW).lifetime
}

/// Why a response with this status and these fields is not stored; `None`: it is stored.
fn refused(
    policy: &Policy,
    kind: CacheKind,
    status: u16,
    fields: &[(&'static str, &'static str)],
) -> Option<NotStoredReason> {
    let headers = header_map(fields);
    let metadata = CacheMetadata::from_response(code(status), &headers);
    policy.storability(&get(), to_store(code(status), &headers, &metadata), kind).err()
}

fn to_store<'a>(
    status: StatusCode,
    headers: &'a HeaderMap,
    metadata: &'a CacheMetadata,
) -> ResponseToStore<'a> {
    ResponseToStore { status, headers, metadata }
}

#[test]
fn the_five_forms_of_ttl_set_the_lifetime_as_documented() {
    let lifetime_of = |n| Lifetime::For(secs(n));
    for (ttl, line, expected) in [
        (Ttl::Override(secs(30)), "max-age=5", lifetime_of(30)),
        (Ttl::Override(secs(30)), "no-store, private, max-age=0", lifetime_of(30)),
        (Ttl::Override(secs(30)), "no-cache, must-revalidate", lifetime_of(30)),
        (Ttl::Forever, "max-age=5", Lifetime::Forever),
        (Ttl::Fallback(secs(30)), "max-age=5", lifetime_of(5)),
        (Ttl::Fallback(secs(30)), "max-age=0", lifetime_of(0)),
        (Ttl::Fallback(secs(30)), "public", lifetime_of(30)),
        (CLAMP, "max-age=5", lifetime_of(60)),
        (CLAMP, "max-age=100", lifetime_of(100)),
        (CLAMP, "max-age=5000", lifetime_of(600)),
        (CLAMP, "public", lifetime_of(60)),
        (Ttl::Origin, "max-age=5", lifetime_of(5)),
        (Ttl::Origin, "public", lifetime_of(0)),
        (Ttl::Origin, "max-age=5, no-store", lifetime_of(0)),
        (Ttl::Fallback(secs(30)), "no-store", lifetime_of(0)),
        (CLAMP, "private", lifetime_of(0)),
    ] {
        assert_eq!(lifetime(ttl, line), expected, "{ttl:?} {line}");
    }
}

#[test]
fn ttl_by_status_wins_for_the_statuses_it_names() {
    let mut policy = with(Ttl::Override(secs(30)));
    policy.ttl_by_status = vec![
        (StatusMatch::Exact(code(404)), secs(5)),
        (StatusMatch::Class(4), secs(6)),
        (StatusMatch::Exact(code(200)), secs(7)),
    ];
    let metadata = CacheMetadata::from_response(code(404), &header_map(&[("cache-control", "max-age=99")]));
    for (status, expected) in [(404, 5), (403, 6), (429, 6), (200, 7), (203, 30), (500, 0), (413, 0)] {
        let freshness = policy.freshness(&metadata, code(status), CacheKind::Shared, NOW);
        assert_eq!(freshness.lifetime, Lifetime::For(secs(expected)), "{status}");
    }
    policy.ttl = Ttl::Origin;
    let freshness = policy.freshness(&metadata, code(404), CacheKind::Shared, NOW);
    assert_eq!(freshness.lifetime, Lifetime::For(secs(5)));
    assert_eq!(refused(&policy, CacheKind::Shared, 429, &[]), None);
    let no_store = [("cache-control", "no-store")];
    assert_eq!(refused(&policy, CacheKind::Shared, 404, &no_store), Some(NotStoredReason::NoStore));
}

#[test]
fn windows_come_from_route_then_origin_and_default_under_an_override() {
    const LINE: &str = "max-age=1, stale-while-revalidate=2, stale-if-error=3";
    let day = 86_400;
    let windows = |policy: &Policy, line: &'static str| {
        let metadata = CacheMetadata::from_response(StatusCode::OK, &header_map(&[("cache-control", line)]));
        let freshness = policy.freshness(&metadata, StatusCode::OK, CacheKind::Shared, NOW);
        (freshness.swr.as_secs(), freshness.sie.as_secs())
    };
    for (ttl, explicit, line, expected) in [
        (Ttl::Origin, None, LINE, (2, 3)),
        (Ttl::Origin, None, "max-age=1", (0, 0)),
        (Ttl::Origin, Some((8, 9)), LINE, (8, 9)),
        (Ttl::Fallback(secs(30)), None, "public", (0, 0)),
        (CLAMP, None, LINE, (2, 3)),
        (Ttl::Override(secs(30)), None, LINE, (0, day)),
        (Ttl::Override(secs(30)), Some((8, 9)), LINE, (8, 9)),
        (Ttl::Forever, None, LINE, (0, day)),
    ] {
        let mut policy = with(ttl);
        policy.stale_while_revalidate = explicit.map(|(swr, _)| secs(swr));
        policy.stale_if_error.window = explicit.map(|(_, sie)| secs(sie));
        assert_eq!(windows(&policy, line), expected, "{ttl:?} {explicit:?} {line}");
    }
}

#[test]
fn the_origins_prohibitions_apply_unless_ttl_overrides_them() {
    for (line, forbids_shared, forbids_private) in [
        ("max-age=9, must-revalidate", true, true),
        ("max-age=9, no-cache", true, true),
        ("max-age=9, proxy-revalidate", true, false),
        ("max-age=9, s-maxage=9", true, false),
        ("max-age=9", false, false),
    ] {
        for (kind, forbids) in BOTH.into_iter().zip([forbids_shared, forbids_private]) {
            let metadata =
                CacheMetadata::from_response(StatusCode::OK, &header_map(&[("cache-control", line)]));
            let freshness = |ttl| with(ttl).freshness(&metadata, StatusCode::OK, kind, NOW);
            for ttl in [Ttl::Origin, Ttl::Fallback(secs(30)), CLAMP] {
                assert_eq!(freshness(ttl).stale_allowed, !forbids, "{ttl:?} {line} {kind:?}");
                assert_eq!(freshness(ttl).revalidate_always, line.contains("no-cache"));
            }
            for ttl in [Ttl::Override(secs(30)), Ttl::Forever] {
                assert!(freshness(ttl).stale_allowed && !freshness(ttl).revalidate_always);
            }
        }
    }
}

#[test]
fn an_override_lifetime_starts_on_arrival_the_origins_on_generation() {
    let metadata =
        CacheMetadata::from_response(StatusCode::OK, &header_map(&[("cache-control", "max-age=30")]));
    let state = |ttl, now: u64| {
        let freshness = with(ttl).freshness(&metadata, StatusCode::OK, CacheKind::Shared, NOW);
        freshness.state(secs(20), NOW, NOW + secs(now))
    };
    assert_eq!(state(Ttl::Origin, 0), FreshnessState::Fresh(secs(10)));
    assert_eq!(state(Ttl::Origin, 12), FreshnessState::Stale(secs(2)));
    assert_eq!(state(Ttl::Override(secs(30)), 0), FreshnessState::Fresh(secs(30)));
    assert_eq!(state(Ttl::Override(secs(30)), 31), FreshnessState::Stale(secs(1)));
    assert!(matches!(state(Ttl::Forever, u64::from(u32::MAX)), FreshnessState::Fresh(_)));
}

#[test]
fn after_a_reload_a_response_of_another_user_is_not_reused() {
    let metadata_of = |fields: &[(&'static str, &'static str)]| {
        CacheMetadata::from_response(StatusCode::OK, &header_map(fields))
    };
    let private = CacheKind::Private;
    let shared = CacheKind::Shared;
    let plain = metadata_of(&[("cache-control", "max-age=9")]);
    let public = metadata_of(&[("cache-control", "max-age=9, public")]);
    let cookies = metadata_of(&[("set-cookie", "a=b")]);
    let cdn = metadata_of(&[("cache-control", "max-age=9"), ("cdn-cache-control", "max-age=9, public")]);
    let keep = Policy { set_cookie: SetCookiePolicy::Keep, ..with(Ttl::Origin) };
    for (policy, metadata, authorized, kind, usable) in [
        (with(Ttl::Override(secs(9))), &plain, true, shared, true),
        (with(Ttl::Origin), &plain, true, shared, false),
        (with(Ttl::Origin), &plain, true, private, true),
        (with(Ttl::Origin), &plain, false, shared, true),
        (with(Ttl::Origin), &public, true, shared, true),
        (with(Ttl::Origin), &cookies, false, shared, false),
        (with(Ttl::Origin), &cookies, false, private, false),
        (keep, &cookies, false, shared, true),
        (with_targeted(Ttl::Origin), &cdn, true, shared, true),
        (with(Ttl::Origin), &cdn, true, shared, false),
    ] {
        assert_eq!(policy.is_still_reusable(metadata, authorized, kind), usable, "{policy:?} {metadata:?}");
    }
}

#[test]
fn age_equal_to_lifetime_is_stale() {
    // RFC 9111 §4.2.
    let metadata =
        CacheMetadata::from_response(StatusCode::OK, &header_map(&[("cache-control", "max-age=30")]));
    let freshness = with(Ttl::Origin).freshness(&metadata, StatusCode::OK, CacheKind::Shared, NOW);
    let at = |millis| freshness.state(Duration::ZERO, NOW, NOW + Duration::from_millis(millis));
    assert_eq!(at(29_999), FreshnessState::Fresh(Duration::from_millis(1)));
    assert_eq!(at(30_000), FreshnessState::Stale(Duration::ZERO));
    assert_eq!((at(29_000).ttl(), at(29_001).ttl(), at(29_999).ttl()), (1, 1, 1));
    assert_eq!((at(30_000).ttl(), at(30_999).ttl(), at(31_000).ttl()), (0, 0, -1));
}

#[test]
fn an_override_ttl_covers_six_statuses_and_no_error() {
    for ttl in [Ttl::Override(secs(30)), Ttl::Forever] {
        for status in (200..600).map(code) {
            let expected =
                if status::is_covered_by_ttl(status) { None } else { Some(NotStoredReason::Status) };
            let fields = [("cache-control", "max-age=60"), ("etag", "\"a\"")];
            assert_eq!(
                refused(&with(ttl), CacheKind::Shared, status.as_u16(), &fields),
                expected,
                "{status}"
            );
        }
    }
}

#[test]
fn with_explicit_freshness_every_storable_status_is_stored() {
    // http-caching: 299 and 599 too; product: never 206 400 413 414 431.
    let fields = [("cache-control", "max-age=60")];
    for status in 100..1000 {
        let never = status::is_never_stored(code(status));
        let momentary = status::is_transient(code(status));
        let is_refused = |ttl| refused(&with(ttl), CacheKind::Shared, status, &fields).is_some();
        assert_eq!(is_refused(Ttl::Origin), never, "{status}");
        assert_eq!(is_refused(Ttl::Fallback(secs(30))), never || momentary, "{status}");
        assert_eq!(is_refused(CLAMP), never || momentary, "{status}");
    }
}

#[test]
fn without_explicit_freshness_only_reusable_statuses_are_stored() {
    let etag = [("etag", "\"a\"")];
    for (status, fields, expected) in [
        (200, &etag[..], None),
        (404, &etag, None),
        (200, &[], Some(NotStoredReason::NoFreshness)),
        (201, &etag, Some(NotStoredReason::NoFreshness)),
        (302, &etag, Some(NotStoredReason::NoFreshness)),
        (403, &etag, Some(NotStoredReason::Status)),
        (503, &etag, Some(NotStoredReason::Status)),
        (501, &etag, None),
        (503, &[("cache-control", "public"), ("etag", "\"a\"")], None),
        (429, &[("cache-control", "public"), ("etag", "\"a\"")], Some(NotStoredReason::Status)),
        (403, &[("cache-control", "public"), ("etag", "\"a\"")], Some(NotStoredReason::Status)),
        (206, &etag, Some(NotStoredReason::Status)),
        (200, &[("cache-control", "max-age=0")], Some(NotStoredReason::NoFreshness)),
        (200, &[("cache-control", "max-age=0, stale-if-error=9")], None),
        (
            200,
            &[("cache-control", "max-age=0, stale-if-error=9, must-revalidate")],
            Some(NotStoredReason::NoFreshness),
        ),
        (200, &[("cache-control", "max-age=60, no-cache")], Some(NotStoredReason::NoFreshness)),
        (200, &[("cache-control", "no-cache"), ("etag", "\"a\"")], None),
        (200, &[("expires", "Sun, 06 Nov 2044 08:49:37 GMT")], None),
        (200, &[("expires", "0")], Some(NotStoredReason::NoFreshness)),
    ] {
        assert_eq!(
            refused(&with(Ttl::Origin), CacheKind::Shared, status, fields),
            expected,
            "{status} {fields:?}"
        );
    }
    assert_eq!(refused(&with(Ttl::Fallback(secs(30))), CacheKind::Shared, 200, &[]), None);
    assert_eq!(refused(&with(CLAMP), CacheKind::Shared, 200, &[]), None);
    assert!(refused(&with(CLAMP), CacheKind::Shared, 404, &[]).is_some());
}

#[test]
fn only_an_override_ttl_overrides_prohibitions() {
    // CCH-03.
    for (line, shared, private) in [
        ("no-store, max-age=60", Some(NotStoredReason::NoStore), Some(NotStoredReason::NoStore)),
        ("private, max-age=60", Some(NotStoredReason::Private), None),
        ("must-understand, no-store, max-age=60", None, None),
    ] {
        let fields = [("cache-control", line)];
        for (kind, expected) in BOTH.into_iter().zip([shared, private]) {
            for ttl in [Ttl::Origin, Ttl::Fallback(secs(30)), CLAMP] {
                assert_eq!(refused(&with(ttl), kind, 200, &fields), expected, "{ttl:?} {line}");
            }
            for ttl in [Ttl::Override(secs(30)), Ttl::Forever] {
                assert_eq!(refused(&with(ttl), kind, 200, &fields), None, "{ttl:?} {line}");
            }
        }
    }
}

#[test]
fn unstorable_responses_are_refused_in_all_forms_of_ttl() {
    for ttl in [Ttl::Origin, Ttl::Fallback(secs(30)), CLAMP, Ttl::Override(secs(30)), Ttl::Forever] {
        for kind in BOTH {
            let refused =
                |status, field| refused(&with(ttl), kind, status, &[("cache-control", "max-age=60"), field]);
            assert_eq!(refused(200, ("vary", "x, *")), Some(NotStoredReason::VaryAny));
            assert_eq!(refused(200, ("set-cookie", "a=b")), Some(NotStoredReason::SetCookie));
            assert_eq!(
                refused(200, ("content-type", "text/event-stream")),
                Some(NotStoredReason::EventStream)
            );
            assert_eq!(refused(206, ("content-range", "bytes 0-1/9")), Some(NotStoredReason::Status));
            assert_eq!(refused(200, ("x-plain", "1")), None);
        }
    }
}

#[test]
fn the_request_can_forbid_storing() {
    let headers = header_map(&[("cache-control", "max-age=60")]);
    let metadata = CacheMetadata::from_response(StatusCode::OK, &headers);
    let policy = with(Ttl::Override(secs(30)));
    let refused = |request: &ProxyRequest, policy: &Policy, kind| {
        policy.storability(request, to_store(StatusCode::OK, &headers, &metadata), kind).err()
    };
    let mut request = get();
    request.headers = header_map(&[("cache-control", "no-store")]);
    assert_eq!(refused(&request, &policy, CacheKind::Shared), Some(NotStoredReason::RequestNoStore));
    request = get();
    request.method = Method::HEAD;
    assert_eq!(refused(&request, &policy, CacheKind::Shared), None);
    request.method = Method::POST;
    assert_eq!(refused(&request, &policy, CacheKind::Shared), Some(NotStoredReason::Method));
    request = get();
    request.headers = header_map(&[("authorization", "Bearer a")]);
    assert_eq!(refused(&request, &policy, CacheKind::Shared), None);
    let origin = Policy::origin();
    assert_eq!(refused(&request, &origin, CacheKind::Shared), Some(NotStoredReason::Authorization));
    assert_eq!(refused(&request, &origin, CacheKind::Private), None);
}

#[test]
fn cookies_are_refused_stripped_or_kept() {
    // CCH-02.
    let headers = header_map(&[("cache-control", "max-age=60"), ("set-cookie", "a=b"), ("x-a", "1")]);
    let metadata = CacheMetadata::from_response(StatusCode::OK, &headers);
    let kept = |set_cookie| {
        let policy = Policy { set_cookie, ..Policy::origin() };
        policy.storability(&get(), to_store(StatusCode::OK, &headers, &metadata), CacheKind::Shared)
    };
    assert_eq!(kept(SetCookiePolicy::Refuse), Err(NotStoredReason::SetCookie));
    assert_eq!(kept(SetCookiePolicy::Keep), Ok(headers.clone()));
    let mut stripped = headers.clone();
    stripped.remove("set-cookie");
    assert_eq!(kept(SetCookiePolicy::Strip), Ok(stripped));
}

fn any_ttl() -> impl Strategy<Value = Ttl> {
    let time = || prop_oneof![(0_u64..100).prop_map(secs), any::<Duration>()];
    prop_oneof![
        Just(Ttl::Origin),
        Just(Ttl::Forever),
        time().prop_map(Ttl::Override),
        time().prop_map(Ttl::Fallback),
        (time(), time()).prop_map(|(a, b)| Ttl::Clamp { min: a.min(b), max: a.max(b) }),
    ]
}

fn any_fields() -> impl Strategy<Value = HeaderMap> {
    let field = prop_oneof![
        (
            Just("cache-control"),
            "(max-age=[0-9]{1,12}|s-maxage=[0-9]{1,3}|public|no-cache|stale-if-error=9|[ -~]{0,9})"
        ),
        (Just("age"), "[0-9]{1,12}"),
        (Just("etag"), "\"[a-z]{0,3}\""),
        (Just("expires"), "(0|Sun, 06 Nov 20[0-9]{2} 08:49:37 GMT)"),
        (Just("last-modified"), "Sun, 06 Nov 19[0-9]{2} 08:49:37 GMT"),
        (Just("set-cookie"), "[a-z]=[a-z]"),
    ];
    vec(field, 0..6).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(&value).unwrap());
        }
        headers
    })
}

proptest! {
    #[test]
    fn no_store_and_private_are_never_stored_against_the_origin(
        ttl in any_ttl(),
        fields in any_fields(),
        status in 100_u16..1000,
        directive in select(vec!["no-store", "private", "No-Store", "PRIVATE"]),
    ) {
        let mut headers = fields;
        headers.append("cache-control", HeaderValue::from_static(directive));
        let metadata = CacheMetadata::from_response(code(status), &headers);
        let keeps =
            with(ttl).storability(&get(), to_store(code(status), &headers, &metadata), CacheKind::Shared).is_ok();
        assert!(!keeps || ttl.overrides_origin());
        let reuse = with(ttl).freshness(&metadata, code(status), CacheKind::Shared, NOW);
        assert!(reuse.revalidate_always || ttl.overrides_origin());
    }

    #[test]
    fn some_statuses_are_never_stored(
        ttl in any_ttl(),
        named in any::<bool>(),
        fields in any_fields(),
        status in select(vec![100, 103, 206, 304, 400, 413, 414, 431]),
    ) {
        let mut policy = with(ttl);
        policy.set_cookie = SetCookiePolicy::Keep;
        if named {
            policy.ttl_by_status = vec![(StatusMatch::Exact(code(status)), secs(9))];
        }
        let metadata = CacheMetadata::from_response(code(status), &fields);
        for kind in BOTH {
            assert!(policy.storability(&get(), to_store(code(status), &fields, &metadata), kind).is_err());
        }
    }

    #[test]
    fn a_stored_response_can_be_reused_or_revalidated(
        ttl in any_ttl(),
        fields in any_fields(),
        status in 100_u16..1000,
    ) {
        let metadata = CacheMetadata::from_response(code(status), &fields);
        let policy = with(ttl);
        if let Ok(kept) = policy.storability(&get(), to_store(code(status), &fields, &metadata), CacheKind::Shared) {
            assert!(!kept.contains_key("set-cookie"));
            let reuse = policy.freshness(&metadata, code(status), CacheKind::Shared, NOW);
            assert!(reuse.stale_allowed || !reuse.revalidate_always || metadata.has_validator());
        }
    }

    #[test]
    fn a_stale_response_never_becomes_fresh_again(
        ttl in any_ttl(),
        fields in any_fields(),
        initial in any::<Duration>(),
        now in 0_u64..1 << 40,
        later in 0_u64..1 << 40,
    ) {
        let metadata = CacheMetadata::from_response(StatusCode::OK, &fields);
        // If the clock is set back by more than this, ages are unknown until it reaches that time again.
        let arrival = NOW + secs(60);
        let freshness = with(ttl).freshness(&metadata, StatusCode::OK, CacheKind::Shared, arrival);
        let early = freshness.state(initial, arrival, NOW + secs(now));
        let late = freshness.state(initial, arrival, NOW + secs(now + later));
        assert!(matches!(early, FreshnessState::Fresh(_)) || matches!(late, FreshnessState::Stale(_)));
        assert!(early.ttl() >= late.ttl());
        assert_eq!(early.ttl() > 0, matches!(early, FreshnessState::Fresh(_)));
    }
}

const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

fn with_targeted(ttl: Ttl) -> Policy {
    Policy { targeted_cache_control: vec![CDN], ..with(ttl) }
}

#[test]
fn a_targeted_field_replaces_cache_control_unless_ttl_overrides() {
    // RFC 9213 §2.2.
    let lifetime = |policy: &Policy, fields: &[(&'static str, &'static str)]| {
        let metadata = CacheMetadata::from_response(StatusCode::OK, &header_map(fields));
        policy.freshness(&metadata, StatusCode::OK, CacheKind::Shared, NOW).lifetime
    };
    let long = &[("cache-control", "max-age=1"), ("cdn-cache-control", "max-age=300")];
    let long_only = &[("cdn-cache-control", "max-age=3000")];
    let none = &[("cdn-cache-control", "none")];
    for (ttl, fields, expected, untargeted) in [
        (Ttl::Origin, &long[..], secs(300), secs(1)),
        (Ttl::Fallback(secs(7)), long, secs(300), secs(1)),
        (Ttl::Fallback(secs(7)), long_only, secs(3000), secs(7)),
        (Ttl::Fallback(secs(7)), none, secs(7), secs(7)),
        (CLAMP, long, secs(300), secs(60)),
        (CLAMP, long_only, secs(600), secs(60)),
        (Ttl::Override(secs(9)), long, secs(9), secs(9)),
    ] {
        assert_eq!(lifetime(&with_targeted(ttl), fields), Lifetime::For(expected), "{ttl:?}");
        // The same stored response after a reload: freshness is not decided when it is stored.
        assert_eq!(lifetime(&with(ttl), fields), Lifetime::For(untargeted), "{ttl:?}");
    }
}

#[test]
fn the_directives_of_a_targeted_field_replace_those_of_cache_control() {
    // RFC 9213 §2.2.
    let policy = with_targeted(Ttl::Origin);
    for (fields, kind, expected) in [
        (&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")][..], None, None),
        (&[("cache-control", "no-store"), ("cdn-cache-control", "")], None, Some(NotStoredReason::NoStore)),
        (
            &[("cache-control", "max-age=60"), ("cdn-cache-control", "no-store")],
            None,
            Some(NotStoredReason::NoStore),
        ),
        (
            &[("cache-control", "max-age=60"), ("cdn-cache-control", "private, max-age=60")],
            Some(CacheKind::Shared),
            Some(NotStoredReason::Private),
        ),
        (
            &[("cache-control", "no-store"), ("cdn-cache-control", "private, max-age=60")],
            Some(CacheKind::Private),
            None,
        ),
        (
            &[("cache-control", "max-age=60"), ("cdn-cache-control", "none")],
            None,
            Some(NotStoredReason::NoFreshness),
        ),
    ] {
        for each in BOTH.into_iter().filter(|each| kind.is_none_or(|kind| kind == *each)) {
            assert_eq!(refused(&policy, each, 200, fields), expected, "{fields:?}");
        }
    }
    let mut request = get();
    request.headers.insert("authorization", HeaderValue::from_static("Bearer a"));
    for (line, allowed) in [("max-age=60", false), ("max-age=60, public", true)] {
        let headers = header_map(&[("cache-control", "public, max-age=60"), ("cdn-cache-control", line)]);
        let metadata = CacheMetadata::from_response(StatusCode::OK, &headers);
        let kept =
            policy.storability(&request, to_store(StatusCode::OK, &headers, &metadata), CacheKind::Shared);
        assert_eq!(kept.is_ok(), allowed, "{line}");
    }
}

#[test]
fn fields_that_either_field_names_are_left_out() {
    let headers = header_map(&[
        ("cache-control", "private=\"x-mine\", max-age=60"),
        ("cdn-cache-control", "no-cache=\"x-other\", max-age=60"),
        ("x-mine", "1"),
        ("x-other", "1"),
    ]);
    let metadata = CacheMetadata::from_response(StatusCode::OK, &headers);
    let kept = with_targeted(Ttl::Origin)
        .storability(&get(), to_store(StatusCode::OK, &headers, &metadata), CacheKind::Shared)
        .unwrap();
    assert!(!kept.contains_key("x-mine") && !kept.contains_key("x-other"));
    assert!(kept.contains_key(&CDN), "the field itself is kept");
}
