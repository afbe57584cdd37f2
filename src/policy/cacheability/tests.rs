//! The forms of `ttl` against the origin's word.

use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::select;

use crate::policy::{FreshnessState, Lifetime, Policy, SetCookiePolicy, StatusMatch, Ttl};
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::status;
use crate::semantics::storability::{CacheKind, NotStoredReason};
use crate::semantics::target::Target;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const BOTH: [CacheKind; 2] = [CacheKind::Shared, CacheKind::Private];
const CLAMP: Ttl = Ttl::Clamp { min: secs(60), max: secs(600) };

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn with(ttl: Ttl) -> Policy {
    Policy { ttl, ..Policy::origin() }
}

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

fn code(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

fn get() -> ProxyRequest {
    ProxyRequest::get(Target::absolute("http://h/").unwrap())
}

fn lifetime(ttl: Ttl, line: &'static str) -> Lifetime {
    let said = CacheMetadata::of(StatusCode::OK, &map(&[("cache-control", line)]));
    with(ttl).freshness(&said, StatusCode::OK, CacheKind::Shared, NOW).lifetime
}

/// Why a 200 (or another status) with these fields is not stored; `None`: it is.
fn refused(
    policy: &Policy,
    kind: CacheKind,
    status: u16,
    fields: &[(&'static str, &'static str)],
) -> Option<NotStoredReason> {
    let headers = map(fields);
    let said = CacheMetadata::of(code(status), &headers);
    policy.storability(&get(), code(status), &headers, &said, kind).err()
}

#[test]
fn the_five_forms_of_ttl_set_the_lifetime_as_documented() {
    let says = |n| Lifetime::For(secs(n));
    for (ttl, line, expected) in [
        (Ttl::Override(secs(30)), "max-age=5", says(30)),
        (Ttl::Override(secs(30)), "no-store, private, max-age=0", says(30)),
        (Ttl::Override(secs(30)), "no-cache, must-revalidate", says(30)),
        (Ttl::Forever, "max-age=5", Lifetime::Forever),
        (Ttl::Fallback(secs(30)), "max-age=5", says(5)),
        (Ttl::Fallback(secs(30)), "max-age=0", says(0)),
        (Ttl::Fallback(secs(30)), "public", says(30)),
        (CLAMP, "max-age=5", says(60)),
        (CLAMP, "max-age=100", says(100)),
        (CLAMP, "max-age=5000", says(600)),
        (CLAMP, "public", says(60)),
        (Ttl::Origin, "max-age=5", says(5)),
        (Ttl::Origin, "public", says(0)),
        (Ttl::Origin, "max-age=5, no-store", says(0)),
        (Ttl::Fallback(secs(30)), "no-store", says(0)),
        (CLAMP, "private", says(0)),
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
    let said = CacheMetadata::of(code(404), &map(&[("cache-control", "max-age=99")]));
    for (status, expected) in
        [(404, 5), (403, 6), (429, 6), (200, 7), (203, 30), (500, 0), (413, 0)]
    {
        let freshness = policy.freshness(&said, code(status), CacheKind::Shared, NOW);
        assert_eq!(freshness.lifetime, Lifetime::For(secs(expected)), "{status}");
    }
    policy.ttl = Ttl::Origin;
    let freshness = policy.freshness(&said, code(404), CacheKind::Shared, NOW);
    assert_eq!(freshness.lifetime, Lifetime::For(secs(5)));
    assert_eq!(refused(&policy, CacheKind::Shared, 429, &[]), None);
    let no_store = [("cache-control", "no-store")];
    assert_eq!(refused(&policy, CacheKind::Shared, 404, &no_store), Some(NotStoredReason::NoStore));
}

#[test]
fn windows_are_the_routes_then_the_origins_and_the_default_is_the_operators() {
    const LINE: &str = "max-age=1, stale-while-revalidate=2, stale-if-error=3";
    let day = 86_400;
    let windows = |policy: &Policy, line: &'static str| {
        let said = CacheMetadata::of(StatusCode::OK, &map(&[("cache-control", line)]));
        let freshness = policy.freshness(&said, StatusCode::OK, CacheKind::Shared, NOW);
        (freshness.swr.as_secs(), freshness.sie.as_secs())
    };
    for (ttl, spelled_out, line, expected) in [
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
        policy.stale_while_revalidate = spelled_out.map(|(swr, _)| secs(swr));
        policy.stale_if_error.window = spelled_out.map(|(_, sie)| secs(sie));
        assert_eq!(windows(&policy, line), expected, "{ttl:?} {spelled_out:?} {line}");
    }
}

#[test]
fn the_origins_prohibitions_win_in_every_form_but_the_operators_word() {
    for (line, forbids_shared, forbids_private) in [
        ("max-age=9, must-revalidate", true, true),
        ("max-age=9, no-cache", true, true),
        ("max-age=9, proxy-revalidate", true, false),
        ("max-age=9, s-maxage=9", true, false),
        ("max-age=9", false, false),
    ] {
        for (kind, forbids) in BOTH.into_iter().zip([forbids_shared, forbids_private]) {
            let said = CacheMetadata::of(StatusCode::OK, &map(&[("cache-control", line)]));
            let freshness = |ttl| with(ttl).freshness(&said, StatusCode::OK, kind, NOW);
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
fn the_operators_lifetime_counts_from_arrival_and_the_origins_from_its_making() {
    let said = CacheMetadata::of(StatusCode::OK, &map(&[("cache-control", "max-age=30")]));
    let standing = |ttl, now: u64| {
        let freshness = with(ttl).freshness(&said, StatusCode::OK, CacheKind::Shared, NOW);
        freshness.standing(secs(20), NOW, NOW + secs(now))
    };
    assert_eq!(standing(Ttl::Origin, 0), FreshnessState::Fresh(secs(10)));
    assert_eq!(standing(Ttl::Origin, 12), FreshnessState::Stale(secs(2)));
    assert_eq!(standing(Ttl::Override(secs(30)), 0), FreshnessState::Fresh(secs(30)));
    assert_eq!(standing(Ttl::Override(secs(30)), 31), FreshnessState::Stale(secs(1)));
    assert!(matches!(standing(Ttl::Forever, u64::from(u32::MAX)), FreshnessState::Fresh(_)));
}

#[test]
fn after_a_reload_what_was_another_users_is_nobodys() {
    let says =
        |fields: &[(&'static str, &'static str)]| CacheMetadata::of(StatusCode::OK, &map(fields));
    let private = CacheKind::Private;
    let shared = CacheKind::Shared;
    let plain = says(&[("cache-control", "max-age=9")]);
    let public = says(&[("cache-control", "max-age=9, public")]);
    let cookies = says(&[("set-cookie", "a=b")]);
    let cdn = says(&[("cache-control", "max-age=9"), ("cdn-cache-control", "max-age=9, public")]);
    let keep = Policy { set_cookie: SetCookiePolicy::Keep, ..with(Ttl::Origin) };
    for (policy, said, authorized, kind, usable) in [
        (with(Ttl::Override(secs(9))), &plain, true, shared, true),
        (with(Ttl::Origin), &plain, true, shared, false),
        (with(Ttl::Origin), &plain, true, private, true),
        (with(Ttl::Origin), &plain, false, shared, true),
        (with(Ttl::Origin), &public, true, shared, true),
        (with(Ttl::Origin), &cookies, false, shared, false),
        (with(Ttl::Origin), &cookies, false, private, false),
        (keep, &cookies, false, shared, true),
        (listening(Ttl::Origin), &cdn, true, shared, true),
        (with(Ttl::Origin), &cdn, true, shared, false),
    ] {
        assert_eq!(policy.is_still_reusable(said, authorized, kind), usable, "{policy:?} {said:?}");
    }
}

#[test]
fn age_equal_to_lifetime_is_stale() {
    // RFC 9111 §4.2.
    let said = CacheMetadata::of(StatusCode::OK, &map(&[("cache-control", "max-age=30")]));
    let freshness = with(Ttl::Origin).freshness(&said, StatusCode::OK, CacheKind::Shared, NOW);
    let at = |millis| freshness.standing(Duration::ZERO, NOW, NOW + Duration::from_millis(millis));
    assert_eq!(at(29_999), FreshnessState::Fresh(Duration::from_millis(1)));
    assert_eq!(at(30_000), FreshnessState::Stale(Duration::ZERO));
    assert_eq!((at(29_000).ttl(), at(29_001).ttl(), at(29_999).ttl()), (1, 1, 1));
    assert_eq!((at(30_000).ttl(), at(30_999).ttl(), at(31_000).ttl()), (0, 0, -1));
}

#[test]
fn the_operators_word_covers_six_statuses_and_no_error() {
    for ttl in [Ttl::Override(secs(30)), Ttl::Forever] {
        for status in (200..600).map(code) {
            let expected = if status::is_covered_by_ttl(status) {
                None
            } else {
                Some(NotStoredReason::Status)
            };
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
fn explicit_freshness_stores_any_final_status_but_the_never_stored() {
    // http-caching: 299 and 599 too; product: never 206 400 413 414 431.
    let fields = [("cache-control", "max-age=60")];
    for status in 100..1000 {
        let never = status::is_never_stored(code(status));
        let momentary = status::is_momentary(code(status));
        let is_refused = |ttl| refused(&with(ttl), CacheKind::Shared, status, &fields).is_some();
        assert_eq!(is_refused(Ttl::Origin), never, "{status}");
        assert_eq!(is_refused(Ttl::Fallback(secs(30))), never || momentary, "{status}");
        assert_eq!(is_refused(CLAMP), never || momentary, "{status}");
    }
}

#[test]
fn without_explicit_freshness_only_some_statuses_are_kept_and_only_with_a_use() {
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
fn prohibitions_are_set_aside_by_the_operators_word_alone() {
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
fn what_no_form_of_ttl_can_store_is_refused_in_all() {
    for ttl in [Ttl::Origin, Ttl::Fallback(secs(30)), CLAMP, Ttl::Override(secs(30)), Ttl::Forever]
    {
        for kind in BOTH {
            let refused = |status, field| {
                refused(&with(ttl), kind, status, &[("cache-control", "max-age=60"), field])
            };
            assert_eq!(refused(200, ("vary", "x, *")), Some(NotStoredReason::VaryAny));
            assert_eq!(refused(200, ("set-cookie", "a=b")), Some(NotStoredReason::SetCookie));
            assert_eq!(
                refused(200, ("content-type", "text/event-stream")),
                Some(NotStoredReason::EventStream)
            );
            assert_eq!(
                refused(206, ("content-range", "bytes 0-1/9")),
                Some(NotStoredReason::Status)
            );
            assert_eq!(refused(200, ("x-plain", "1")), None);
        }
    }
}

#[test]
fn the_request_can_forbid_storing() {
    let headers = map(&[("cache-control", "max-age=60")]);
    let said = CacheMetadata::of(StatusCode::OK, &headers);
    let policy = with(Ttl::Override(secs(30)));
    let refused = |asked: &ProxyRequest, policy: &Policy, kind| {
        policy.storability(asked, StatusCode::OK, &headers, &said, kind).err()
    };
    let mut asked = get();
    asked.headers = map(&[("cache-control", "no-store")]);
    assert_eq!(refused(&asked, &policy, CacheKind::Shared), Some(NotStoredReason::RequestNoStore));
    asked = get();
    asked.method = Method::HEAD;
    assert_eq!(refused(&asked, &policy, CacheKind::Shared), Some(NotStoredReason::Method));
    asked = get();
    asked.headers = map(&[("authorization", "Bearer a")]);
    assert_eq!(refused(&asked, &policy, CacheKind::Shared), None);
    let origin = Policy::origin();
    assert_eq!(refused(&asked, &origin, CacheKind::Shared), Some(NotStoredReason::Authorization));
    assert_eq!(refused(&asked, &origin, CacheKind::Private), None);
}

#[test]
fn cookies_are_refused_stripped_or_kept() {
    // CCH-02.
    let headers = map(&[("cache-control", "max-age=60"), ("set-cookie", "a=b"), ("x-a", "1")]);
    let said = CacheMetadata::of(StatusCode::OK, &headers);
    let kept = |set_cookie| {
        let policy = Policy { set_cookie, ..Policy::origin() };
        policy.storability(&get(), StatusCode::OK, &headers, &said, CacheKind::Shared)
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
        let said = CacheMetadata::of(code(status), &headers);
        let keeps =
            with(ttl).storability(&get(), code(status), &headers, &said, CacheKind::Shared).is_ok();
        assert!(!keeps || ttl.overrides_origin());
        let reuse = with(ttl).freshness(&said, code(status), CacheKind::Shared, NOW);
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
        let said = CacheMetadata::of(code(status), &fields);
        for kind in BOTH {
            assert!(policy.storability(&get(), code(status), &fields, &said, kind).is_err());
        }
    }

    #[test]
    fn what_is_stored_can_be_reused_or_validated(
        ttl in any_ttl(),
        fields in any_fields(),
        status in 100_u16..1000,
    ) {
        let said = CacheMetadata::of(code(status), &fields);
        let policy = with(ttl);
        if let Ok(kept) = policy.storability(&get(), code(status), &fields, &said, CacheKind::Shared) {
            assert!(!kept.contains_key("set-cookie"));
            let reuse = policy.freshness(&said, code(status), CacheKind::Shared, NOW);
            assert!(reuse.stale_allowed || !reuse.revalidate_always || said.has_validator());
        }
    }

    #[test]
    fn once_stale_never_fresh_again(
        ttl in any_ttl(),
        fields in any_fields(),
        initial in any::<Duration>(),
        now in 0_u64..1 << 40,
        later in 0_u64..1 << 40,
    ) {
        let said = CacheMetadata::of(StatusCode::OK, &fields);
        // A clock that was set back by more than this knows no age, until it is there again.
        let arrival = NOW + secs(60);
        let freshness = with(ttl).freshness(&said, StatusCode::OK, CacheKind::Shared, arrival);
        let early = freshness.standing(initial, arrival, NOW + secs(now));
        let late = freshness.standing(initial, arrival, NOW + secs(now + later));
        assert!(matches!(early, FreshnessState::Fresh(_)) || matches!(late, FreshnessState::Stale(_)));
        assert!(early.ttl() >= late.ttl());
        assert_eq!(early.ttl() > 0, matches!(early, FreshnessState::Fresh(_)));
    }
}

const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

fn listening(ttl: Ttl) -> Policy {
    Policy { targeted_cache_control: vec![CDN], ..with(ttl) }
}

#[test]
fn a_targeted_field_counts_in_place_of_cache_control_where_the_origins_word_does() {
    // RFC 9213 §2.2.
    let lifetime = |policy: &Policy, fields: &[(&'static str, &'static str)]| {
        let said = CacheMetadata::of(StatusCode::OK, &map(fields));
        policy.freshness(&said, StatusCode::OK, CacheKind::Shared, NOW).lifetime
    };
    let long = &[("cache-control", "max-age=1"), ("cdn-cache-control", "max-age=300")];
    let long_only = &[("cdn-cache-control", "max-age=3000")];
    let none = &[("cdn-cache-control", "none")];
    for (ttl, fields, expected, deaf) in [
        (Ttl::Origin, &long[..], secs(300), secs(1)),
        (Ttl::Fallback(secs(7)), long, secs(300), secs(1)),
        (Ttl::Fallback(secs(7)), long_only, secs(3000), secs(7)),
        (Ttl::Fallback(secs(7)), none, secs(7), secs(7)),
        (CLAMP, long, secs(300), secs(60)),
        (CLAMP, long_only, secs(600), secs(60)),
        (Ttl::Override(secs(9)), long, secs(9), secs(9)),
    ] {
        assert_eq!(lifetime(&listening(ttl), fields), Lifetime::For(expected), "{ttl:?}");
        // The same stored response after a reload: nothing was concluded when it was stored.
        assert_eq!(lifetime(&with(ttl), fields), Lifetime::For(deaf), "{ttl:?}");
    }
}

#[test]
fn a_targeted_fields_prohibitions_and_permissions_replace_those_of_cache_control() {
    // RFC 9213 §2.2.
    let policy = listening(Ttl::Origin);
    for (fields, kind, expected) in [
        (&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")][..], None, None),
        (
            &[("cache-control", "no-store"), ("cdn-cache-control", "")],
            None,
            Some(NotStoredReason::NoStore),
        ),
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
    let mut asked = get();
    asked.headers.insert("authorization", HeaderValue::from_static("Bearer a"));
    for (line, allowed) in [("max-age=60", false), ("max-age=60, public", true)] {
        let headers = map(&[("cache-control", "public, max-age=60"), ("cdn-cache-control", line)]);
        let said = CacheMetadata::of(StatusCode::OK, &headers);
        let kept = policy.storability(&asked, StatusCode::OK, &headers, &said, CacheKind::Shared);
        assert_eq!(kept.is_ok(), allowed, "{line}");
    }
}

#[test]
fn fields_that_either_word_names_are_left_out_so_that_no_reload_shows_them() {
    let headers = map(&[
        ("cache-control", "private=\"x-mine\", max-age=60"),
        ("cdn-cache-control", "no-cache=\"x-other\", max-age=60"),
        ("x-mine", "1"),
        ("x-other", "1"),
    ]);
    let said = CacheMetadata::of(StatusCode::OK, &headers);
    let kept = listening(Ttl::Origin)
        .storability(&get(), StatusCode::OK, &headers, &said, CacheKind::Shared)
        .unwrap();
    assert!(!kept.contains_key("x-mine") && !kept.contains_key("x-other"));
    assert!(kept.contains_key(&CDN), "the field itself is kept");
}
