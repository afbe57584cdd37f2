//! The cache decision: tables (RFC 9111 §4, §5.2.1, RFC 5861) and properties over time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use proptest::prelude::{any, proptest};

use crate::decide::{
    CacheLookup, Decision, DecisionInput, ErrorClass, ForwardReason, StaleReason, decide_offline,
    stale_if_error, ttl, useful_until,
};
use crate::policy::{ErrorMatch, Policy, Ttl};
use crate::semantics::request::ProxyRequest;
use crate::semantics::storability::CacheKind;
use crate::semantics::target::Target;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::stored::partial::PartialResponse;
use crate::stored::{ForcedStale, StoredResponse};

const ARRIVAL: SystemTime = SystemTime::UNIX_EPOCH;
const UNAVAILABLE: ErrorClass = ErrorClass::Status(StatusCode::SERVICE_UNAVAILABLE);

const fn soft_purged(at: SystemTime) -> ForcedStale {
    ForcedStale { at, superseded: false }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn request(line: &str) -> ProxyRequest {
    let mut request = ProxyRequest::get(Target::absolute("http://h/").unwrap());
    if !line.is_empty() {
        request.headers.insert("cache-control", HeaderValue::from_str(line).unwrap());
    }
    request
}

fn stored_as(status: u16, fields: &[(&'static str, &'static str)]) -> StoredResponse {
    let headers: HeaderMap = fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let sole = (VaryFields::default(), VariantId::SOLE);
    let status = StatusCode::from_u16(status).unwrap();
    StoredResponse::new(status, &headers, Bytes::new(), sole, (ARRIVAL, ARRIVAL))
}

fn stored(line: &'static str) -> StoredResponse {
    stored_as(200, &[("cache-control", line)])
}

/// [`super::decide`], with the input built from its parts.
fn decide(
    request: &ProxyRequest,
    policy: &Policy,
    kind: CacheKind,
    lookup: CacheLookup<'_>,
    now: SystemTime,
) -> Decision {
    super::decide(&DecisionInput::new(request, policy, kind, now), lookup)
}

fn decided(directives: &str, policy: &Policy, response: &StoredResponse, at: u64) -> Decision {
    decide(&request(directives), policy, CacheKind::Shared, CacheLookup::Stored(response), ARRIVAL + secs(at))
}

/// A short form of a decision, for tables.
fn outcome(decision: &Decision) -> String {
    match decision {
        Decision::Serve { ttl, stale, refresh } => {
            let stale = stale.map_or("fresh", StaleReason::token);
            format!("{stale} {ttl}{}", if *refresh { " refresh" } else { "" })
        }
        Decision::Forward { reason: why, fallback, .. } => {
            format!("{}{}", why.token(), if *fallback { " fallback" } else { "" })
        }
        Decision::Refuse => "refuse".to_owned(),
    }
}

#[test]
fn directives_of_response_and_request_decide() {
    // At second 15: (`Cache-Control` of the response, `Cache-Control` of the request, decision).
    for (response, directives, expected) in [
        ("max-age=20", "", "fresh 5"),
        ("max-age=15", "", "stale"),
        ("max-age=10", "", "stale"),
        // §5.2.1.1, §5.2.1.3, §5.2.1.4: the client's own limits.
        ("max-age=20", "max-age=15", "fresh 5"),
        ("max-age=20", "max-age=14", "request fallback"),
        ("max-age=20", "min-fresh=5", "fresh 5"),
        ("max-age=20", "min-fresh=6", "request fallback"),
        ("max-age=20", "no-cache", "request fallback"),
        ("max-age=20", "unknown=1", "fresh 5"),
        // §5.2.1.2: max-stale, unless prohibited.
        ("max-age=10", "max-stale", "max-stale -5"),
        ("max-age=10", "max-stale=5", "max-stale -5"),
        ("max-age=10", "max-stale=4", "stale"),
        ("max-age=10", "max-stale, max-age=9", "stale"),
        ("max-age=10", "max-stale, min-fresh=1", "stale"),
        ("max-age=10, must-revalidate", "max-stale", "stale"),
        ("max-age=10, proxy-revalidate", "max-stale", "stale"),
        ("s-maxage=10", "max-stale", "stale"),
        // §5.2.1.5: no read, no write, no fallback.
        ("max-age=20", "no-store", "request"),
        // §5.2.1.7: no call to the origin.
        ("max-age=20", "only-if-cached", "fresh 5"),
        ("max-age=10", "only-if-cached", "refuse"),
        ("max-age=10", "only-if-cached, max-stale", "max-stale -5"),
        ("max-age=20", "only-if-cached, no-cache", "refuse"),
        ("max-age=20", "only-if-cached, no-store", "refuse"),
        ("max-age=10, stale-while-revalidate=9", "only-if-cached", "stale-while-revalidate -5"),
        // §5.2.2.4: revalidated at every use.
        ("max-age=20, no-cache", "", "stale"),
        ("max-age=20, no-cache=\"x\"", "", "fresh 5"),
        // RFC 5861 §3, §4.
        ("max-age=10, stale-while-revalidate=6", "", "stale-while-revalidate -5 refresh"),
        ("max-age=10, stale-while-revalidate=5", "", "stale"),
        ("max-age=15, stale-while-revalidate=0", "", "stale"),
        ("max-age=10, stale-while-revalidate=9", "max-age=9", "stale"),
        ("max-age=10, stale-while-revalidate=9", "no-cache", "request"),
        ("max-age=10, stale-while-revalidate=9, must-revalidate", "", "stale"),
        ("max-age=10, stale-if-error=6", "", "stale fallback"),
        ("max-age=10, stale-if-error=5", "", "stale"),
        ("max-age=10, stale-if-error=6, no-cache", "", "stale"),
        // Stored under another policy, unusable under this one.
        ("max-age=20, no-store", "", "stale"),
        ("max-age=20, private", "", "stale"),
    ] {
        let decision = decided(directives, &Policy::origin(), &stored(response), 15);
        assert_eq!(outcome(&decision), expected, "{response:?} request {directives:?}");
    }
}

#[test]
fn an_override_ttl_is_the_only_rule() {
    let mut policy = Policy { ttl: Ttl::Override(secs(10)), ..Policy::origin() };
    let response = stored("no-store, private, no-cache, must-revalidate, max-age=0");
    assert_eq!(outcome(&decided("", &policy, &response, 9)), "fresh 1");
    assert_eq!(outcome(&decided("", &policy, &response, 10)), "stale fallback");
    assert_eq!(outcome(&decided("", &policy, &response, 10 + 86_399)), "stale fallback");
    assert_eq!(outcome(&decided("", &policy, &response, 10 + 86_400)), "stale");
    policy.stale_while_revalidate = Some(secs(5));
    assert_eq!(outcome(&decided("", &policy, &response, 14)), "stale-while-revalidate -4 refresh");
    assert_eq!(outcome(&decided("", &policy, &response, 15)), "stale fallback");
    policy.ttl = Ttl::Forever;
    assert_eq!(outcome(&decided("", &policy, &response, 1 << 33)), "fresh 2147483647");
}

#[test]
fn each_kind_of_miss_has_its_reason() {
    for (lookup, reason) in [
        (CacheLookup::Nothing, "uri-miss"),
        (CacheLookup::OtherVariants, "vary-miss"),
        (CacheLookup::OtherPartial, "partial"),
    ] {
        let decide = |line| decide(&request(line), &Policy::origin(), CacheKind::Shared, lookup, ARRIVAL);
        assert_eq!(outcome(&decide("")), reason);
        assert_eq!(outcome(&decide("max-stale")), reason);
        assert_eq!(decide("only-if-cached"), Decision::Refuse);
    }
}

#[test]
fn a_partial_response_is_served_only_while_fresh() {
    let range = ("content-range", "bytes 0-0/2");
    for (line, directives, at, expected) in [
        ("max-age=10", "", 9, "fresh 1"),
        ("max-age=10", "max-age=9", 9, "fresh 1"),
        ("max-age=10", "", 10, "stale"),
        ("max-age=10", "max-stale", 10, "stale"),
        ("max-age=10, stale-while-revalidate=99", "", 10, "stale"),
        ("max-age=10, stale-if-error=99", "", 10, "stale"),
        ("max-age=10", "max-age=8", 9, "request"),
        ("max-age=10", "min-fresh=2", 9, "request"),
        ("max-age=10", "no-cache", 0, "request"),
        ("max-age=10", "no-store", 0, "request"),
        ("no-cache", "", 0, "stale"),
        ("private, max-age=10", "", 0, "stale"),
    ] {
        let fields = [range, ("etag", "\"a\""), ("cache-control", line)];
        let stored = stored_as(206, &fields).with_body(Bytes::from_static(b"x"));
        let part = PartialResponse::from_stored(Arc::new(stored.clone())).unwrap();
        let decide = |directives, lookup| {
            let now = ARRIVAL + secs(at);
            decide(&request(directives), &Policy::origin(), CacheKind::Shared, lookup, now)
        };
        let decision = decide(directives, CacheLookup::Partial(&part));
        assert_eq!(outcome(&decision), expected, "{line} {directives} {at}");
        // A partial response is neither revalidated nor served on an error.
        let validates = matches!(decision, Decision::Forward { validate: true, .. });
        assert!(!validates, "{line} {directives}");
        let purged = PartialResponse::from_stored(Arc::new(stored.outdated(soft_purged(ARRIVAL)))).unwrap();
        let purged = decide(directives, CacheLookup::Partial(&purged));
        assert!(!matches!(purged, Decision::Serve { .. }), "{line} {directives}");
        let offline = decide_offline(
            &DecisionInput::new(
                &request(directives),
                &Policy::origin(),
                CacheKind::Shared,
                ARRIVAL + secs(at),
            ),
            CacheLookup::Partial(&part),
        );
        let served = matches!(offline, Decision::Serve { stale: None, .. });
        assert_eq!(served, expected.starts_with("fresh"), "{line} {directives}: {offline:?}");
        // Even as a complete response it would not be fresh.
        let mistaken = decide(directives, CacheLookup::Stored(&stored));
        assert!(!matches!(mistaken, Decision::Serve { .. }), "{line} {directives}");
    }
}

#[test]
fn only_get_and_head_are_served_from_the_store() {
    // CCH-10.
    let response = stored("max-age=20");
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PURGE", "OPTIONS", "get"] {
        let mut request = request("");
        request.method = Method::from_bytes(method.as_bytes()).unwrap();
        let decision =
            decide(&request, &Policy::origin(), CacheKind::Shared, CacheLookup::Stored(&response), ARRIVAL);
        let expected = if matches!(method, "GET" | "HEAD") { "fresh 20" } else { "method" };
        assert_eq!(outcome(&decision), expected, "{method}");
    }
}

#[test]
fn forwarded_requests_store_unless_the_request_or_method_forbids() {
    let response = stored("max-age=10");
    let stores = |request: &ProxyRequest| match decide(
        request,
        &Policy::origin(),
        CacheKind::Shared,
        CacheLookup::Stored(&response),
        ARRIVAL + secs(15),
    ) {
        Decision::Forward { store, .. } => store,
        other @ (Decision::Serve { .. } | Decision::Refuse) => panic!("{other:?}"),
    };
    assert!(stores(&request("")) && stores(&request("no-cache")));
    assert!(!stores(&request("no-store")));
    let mut post = request("");
    post.method = Method::POST;
    assert!(!stores(&post));
}

#[test]
fn a_stored_response_with_a_validator_is_revalidated() {
    let validates =
        |directives, answer: &StoredResponse| match decided(directives, &Policy::origin(), answer, 15) {
            Decision::Forward { validate, .. } => validate,
            other @ (Decision::Serve { .. } | Decision::Refuse) => panic!("{other:?}"),
        };
    let tagged = stored_as(200, &[("cache-control", "max-age=10"), ("etag", "\"a\"")]);
    let dated = stored_as(
        200,
        &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("cache-control", "max-age=10")],
    );
    for directives in ["", "no-cache", "max-age=0"] {
        assert!(validates(directives, &tagged) && validates(directives, &dated));
        assert!(!validates(directives, &stored("max-age=10")));
    }
    assert!(!validates("no-store", &tagged));
}

#[test]
fn a_stored_response_is_served_on_the_failures_of_the_policy() {
    let response = stored("max-age=10, stale-if-error=10");
    let policy = Policy::origin();
    let at = |failure, seconds| {
        let (request, now) = (request(""), ARRIVAL + secs(seconds));
        let input = DecisionInput::new(&request, &policy, CacheKind::Shared, now);
        stale_if_error(&input, &response, failure)
    };
    for failure in [429, 500, 502, 503, 504, 599] {
        let failure = ErrorClass::Status(StatusCode::from_u16(failure).unwrap());
        assert_eq!(at(failure, 15), Some(-5), "{failure:?}");
    }
    assert_eq!((at(ErrorClass::Connect, 15), at(ErrorClass::Timeout, 15)), (Some(-5), Some(-5)));
    for answer in [200, 304, 400, 401, 403, 404, 408] {
        let answer = ErrorClass::Status(StatusCode::from_u16(answer).unwrap());
        assert_eq!(at(answer, 15), None, "{answer:?}");
    }
    // RFC 5861 §4: up to the window's end, and no longer; fresh is fine.
    assert_eq!((at(UNAVAILABLE, 19), at(UNAVAILABLE, 20)), (Some(-9), None));
    assert_eq!(at(UNAVAILABLE, 5), Some(5));

    let mut narrow = Policy::origin();
    narrow.stale_if_error.on = vec![ErrorMatch::Timeout];
    let narrow = |failure| {
        let (request, now) = (request(""), ARRIVAL + secs(15));
        let input = DecisionInput::new(&request, &narrow, CacheKind::Shared, now);
        stale_if_error(&input, &response, failure)
    };
    assert_eq!((narrow(ErrorClass::Timeout), narrow(ErrorClass::Connect)), (Some(-5), None));
    assert_eq!(narrow(UNAVAILABLE), None);
}

#[test]
fn a_prohibited_response_is_never_served_on_errors() {
    // RFC 9111 §4.2.4; an explicit window of the route does not change it.
    let mut policy = Policy::origin();
    policy.stale_if_error.window = Some(secs(100));
    let usable = |policy: &Policy, kind, directives, answer: &StoredResponse| {
        let request = request(directives);
        let input = DecisionInput::new(&request, policy, kind, ARRIVAL + secs(15));
        stale_if_error(&input, answer, UNAVAILABLE).is_some()
    };
    for (line, shared, private) in [
        ("max-age=10", true, true),
        ("max-age=10, must-revalidate", false, false),
        ("max-age=10, proxy-revalidate", false, true),
        ("max-age=10, s-maxage=10", false, true),
        ("max-age=20, no-cache", false, false),
        ("max-age=20, no-store", false, false),
    ] {
        let answer = stored(line);
        assert_eq!(usable(&policy, CacheKind::Shared, "", &answer), shared, "{line}");
        assert_eq!(usable(&policy, CacheKind::Private, "", &answer), private, "{line}");
    }
    assert!(!usable(&policy, CacheKind::Shared, "no-store", &stored("max-age=20")));
    assert!(usable(&policy, CacheKind::Shared, "no-cache", &stored("max-age=10")));
    let error = stored_as(503, &[("cache-control", "max-age=10")]);
    assert!(!usable(&policy, CacheKind::Shared, "", &error));
    assert!(usable(&policy, CacheKind::Shared, "", &stored_as(404, &[("cache-control", "max-age=10")])));
}

#[test]
fn every_reason_has_its_own_token() {
    use ForwardReason::{Bypass, Method, Partial, Request, Stale, UriMiss, VaryMiss};
    let mut tokens: Vec<_> =
        [Bypass, Method, UriMiss, VaryMiss, Partial, Stale, Request].map(ForwardReason::token).to_vec();
    tokens.extend([ErrorClass::Connect, ErrorClass::Timeout, UNAVAILABLE].map(ErrorClass::token));
    tokens.push(ErrorClass::Status(StatusCode::TOO_MANY_REQUESTS).token());
    tokens.push(ErrorClass::Status(StatusCode::FORBIDDEN).token());
    let count = tokens.len();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), count);
}

#[test]
fn a_soft_purge_makes_a_response_stale() {
    // A soft purge at second 10, a request at second 15: (`Cache-Control` of the response, decision).
    for (response, expected) in [
        ("max-age=100", "stale"),
        ("max-age=100, stale-while-revalidate=6", "stale-while-revalidate -5 refresh"),
        ("max-age=100, stale-while-revalidate=5", "stale"),
        ("max-age=100, stale-if-error=6", "stale fallback"),
        ("max-age=100, stale-if-error=5", "stale"),
        ("max-age=100, stale-if-error=6, must-revalidate", "stale"),
        // A response that was stale before does not become fresher.
        ("max-age=8, stale-if-error=7", "stale"),
    ] {
        let outdated = stored(response).outdated(soft_purged(ARRIVAL + secs(10)));
        assert_eq!(outcome(&decided("", &Policy::origin(), &outdated, 15)), expected, "{response}");
    }
    let forever = Policy { ttl: Ttl::Forever, ..Policy::origin() };
    let outdated = stored("max-age=1").outdated(soft_purged(ARRIVAL + secs(10)));
    assert_eq!(outcome(&decided("", &forever, &outdated, 15)), "stale fallback");
}

#[test]
fn a_response_is_swept_only_after_its_last_possible_use() {
    let minutes = |n: u64| secs(60 * n);
    let day = secs(24 * 60 * 60);
    for (ttl, fields, expected) in [
        (Ttl::Forever, &[][..], None),
        (Ttl::Origin, &[("cache-control", "max-age=60")], Some(minutes(1))),
        (Ttl::Origin, &[("cache-control", "max-age=60, stale-if-error=60")], Some(minutes(2))),
        // A validator keeps the response for revalidation.
        (Ttl::Origin, &[("cache-control", "max-age=60"), ("etag", "\"a\"")], Some(minutes(1) + day)),
        // With a `ttl` that overrides the origin, stale-if-error lasts for a day.
        (Ttl::Override(minutes(5)), &[], Some(minutes(5) + day)),
    ] {
        let policy = Policy { ttl, ..Policy::origin() };
        let until = useful_until(&policy, CacheKind::Shared, &stored_as(200, fields));
        assert_eq!(until, expected.map(|after| ARRIVAL + after), "{ttl:?} {fields:?}");
    }
}

proptest! {
    #[test]
    fn a_decision_is_consistent_with_the_remaining_freshness(
        directives in "(no-cache|max-age=[0-9]{1,2}|max-stale(=[0-9]{1,2})?|min-fresh=[0-9]|x){0,2}",
        lifetime in 0_u64..40,
        swr in 0_u64..10,
        sie in 0_u64..10,
        at in 0_u64..60,
    ) {
        let policy = Policy {
            ttl: Ttl::Override(secs(lifetime)),
            stale_while_revalidate: Some(secs(swr)),
            ..Policy::origin()
        };
        let policy = Policy {
            stale_if_error: crate::policy::StaleIfError {
                window: Some(secs(sie)),
                ..policy.stale_if_error.clone()
            },
            ..policy
        };
        let answer = stored_as(200, &[]);
        let now = ARRIVAL + secs(at);
        let remaining = ttl(&policy, CacheKind::Shared, &answer, now);
        match decided(&directives, &policy, &answer, at) {
            Decision::Serve { ttl, stale, refresh } => {
                assert_eq!(ttl, remaining);
                assert_eq!(stale.is_none(), ttl > 0);
                assert_eq!(refresh, stale == Some(StaleReason::WhileRevalidate));
            }
            Decision::Forward { fallback, reason, .. } => {
                let request = request(&directives);
                let input = DecisionInput::new(&request, &policy, CacheKind::Shared, now);
                let usable = stale_if_error(&input, &answer, UNAVAILABLE);
                assert_eq!(fallback, usable.is_some());
                assert!(reason == ForwardReason::Request || remaining <= 0);
            }
            Decision::Refuse => panic!("no only-if-cached in the request"),
        }
    }

    #[test]
    fn only_if_cached_never_reaches_the_origin(
        line in "(no-cache, |no-store, |max-age=[0-9]{1,2}, |max-stale, ){0,3}",
        response in 0_usize..4,
        at in 0_u64..60,
        other in any::<bool>(),
    ) {
        let response = ["max-age=20", "no-cache", "max-age=9, stale-while-revalidate=99", "private"][response];
        let answer = stored(response);
        let lookup = if other { CacheLookup::OtherVariants } else { CacheLookup::Stored(&answer) };
        let request = request(&format!("{line}only-if-cached"));
        match decide(&request, &Policy::origin(), CacheKind::Shared, lookup, ARRIVAL + secs(at)) {
            Decision::Serve { refresh, .. } => assert!(!refresh),
            Decision::Refuse => {}
            Decision::Forward { reason, .. } => panic!("{reason:?}"),
        }
    }
}

/// RFC 5861 is for responses that are merely old: stale-while-revalidate does not apply to superseded ones.
#[test]
fn a_superseded_response_is_served_only_on_errors() {
    let response = "max-age=60, stale-while-revalidate=60, stale-if-error=60";
    let policy = Policy::origin();
    for superseded in [false, true] {
        let at = ARRIVAL + secs(5);
        let stored = stored(response).outdated(ForcedStale { at, superseded });
        for directives in ["", "max-stale=100"] {
            let served = matches!(decided(directives, &policy, &stored, 10), Decision::Serve { .. });
            assert_eq!(served, !superseded, "{directives}");
        }
        let (kind, now) = (CacheKind::Shared, ARRIVAL + secs(10));
        assert!(
            stale_if_error(&DecisionInput::new(&request(""), &policy, kind, now), &stored, UNAVAILABLE)
                .is_some()
        );
    }
}
