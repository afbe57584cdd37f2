//! Outcomes of heads and bodies, with tables and properties.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::select;
use serde_json::{Value, json};

use crate::decide;
use crate::policy::StatusMatch;
use crate::policy::upstream::{
    CooldownUntil, ErrorRule, JsonRule, OutcomeClass, RateLimitKind, ResponseRules,
};
use crate::semantics::date;
use crate::semantics::json_path::JsonPath;
use crate::upstream::connect::egress_policy::Denied;
use crate::upstream::connect::tls_error::TlsError;
use crate::upstream::outcome::classify::{failure, response};
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::{CallOutcome, RetryAfter};

const MINUTE: OutcomeClass = OutcomeClass::RateLimited(RateLimitKind::Minute);
const QUOTA: OutcomeClass = OutcomeClass::RateLimited(RateLimitKind::Quota);
const SHARED: OutcomeClass = OutcomeClass::RateLimited(RateLimitKind::Shared);

/// Half a minute before midnight, one day and half a minute before the month ends.
fn now() -> SystemTime {
    date::parse_undated(b"Mon, 29 Jun 2026 23:59:30 GMT").expect("a date")
}

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

fn by_head(status: u16, headers: &[(&'static str, &'static str)]) -> CallOutcome {
    let status = StatusCode::from_u16(status).expect("a status");
    response(status, &fields(headers), None, &ResponseRules::default(), now())
}

#[expect(clippy::unnecessary_wraps, reason = "it is a column of the tables")]
fn retry_after(seconds: f64) -> Option<RetryAfter> {
    Some(RetryAfter { time: Duration::from_secs_f64(seconds), is_quota_end: false })
}

#[expect(clippy::unnecessary_wraps, reason = "it is a column of the tables")]
fn quota(seconds: f64) -> Option<RetryAfter> {
    Some(RetryAfter { time: Duration::from_secs_f64(seconds), is_quota_end: true })
}

fn json_rule(path: &str, values: &[Value]) -> JsonRule {
    JsonRule { path: JsonPath::parse(path).expect(path), values: values.to_vec() }
}

fn error_rule(status: &[StatusMatch], codes: &[u64], class: OutcomeClass) -> ErrorRule {
    let codes: Vec<Value> = codes.iter().map(|code| json!(code)).collect();
    let json = (!codes.is_empty()).then(|| json_rule("$.status.error_code", &codes));
    ErrorRule { status: status.to_vec(), json: json.into_iter().collect(), ..ErrorRule::new(class) }
}

fn with_cooldown(rule: ErrorRule, until: CooldownUntil) -> ErrorRule {
    ErrorRule { cooldown: Some(until), ..rule }
}

/// The rules for CoinMarketCap's error codes.
fn coinmarketcap() -> ResponseRules {
    ResponseRules {
        success: vec![json_rule("$.status.error_code", &[json!(0), json!("0")])],
        errors: vec![
            with_cooldown(error_rule(&[], &[1008], MINUTE), CooldownUntil::For(Duration::from_secs(60))),
            with_cooldown(error_rule(&[], &[1009], QUOTA), CooldownUntil::UntilMidnight),
            with_cooldown(error_rule(&[], &[1010], QUOTA), CooldownUntil::UntilNextMonth),
            error_rule(&[], &[1011], SHARED),
            error_rule(&[], &[1001, 1002], OutcomeClass::Auth),
        ],
        dialect: None,
    }
}

#[test]
fn the_head_alone_determines_the_class() {
    for (status, headers, class, wait) in [
        (200, &[][..], OutcomeClass::Ok, None),
        (200, &[("retry-after", "5")], OutcomeClass::Ok, None),
        (204, &[], OutcomeClass::Ok, None),
        (301, &[("retry-after", "5")], OutcomeClass::Ok, None),
        (304, &[], OutcomeClass::Ok, None),
        (404, &[], OutcomeClass::Ok, None),
        (425, &[], OutcomeClass::Ok, None),
        (401, &[], OutcomeClass::Auth, None),
        (401, &[("retry-after", "5")], OutcomeClass::Auth, None),
        (403, &[], OutcomeClass::Auth, None),
        (407, &[], OutcomeClass::Auth, None),
        (408, &[], OutcomeClass::Server, None),
        (408, &[("retry-after", "5")], OutcomeClass::Server, retry_after(5.0)),
        (500, &[], OutcomeClass::Server, None),
        (502, &[("retry-after", "1")], OutcomeClass::Server, retry_after(1.0)),
        (503, &[], OutcomeClass::Server, None),
        (503, &[("retry-after", "120")], OutcomeClass::Server, retry_after(120.0)),
        (503, &[("retry-after", "Tue, 30 Jun 2026 00:00:00 GMT")], OutcomeClass::Server, retry_after(30.0)),
        (503, &[("retry-after", "99999")], OutcomeClass::Server, retry_after(99_999.0)),
        (503, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "9")], OutcomeClass::Server, None),
        (599, &[], OutcomeClass::Server, None),
        (429, &[], MINUTE, None),
        (429, &[("retry-after", "abc")], MINUTE, None),
        (429, &[("retry-after", "1")], MINUTE, retry_after(1.0)),
        (429, &[("retry-after", "1.5")], MINUTE, retry_after(1.5)),
        (429, &[("retry-after", "-5")], MINUTE, retry_after(0.0)),
        (429, &[("retry-after", "3600")], MINUTE, retry_after(3600.0)),
        (429, &[("retry-after", "3601")], QUOTA, retry_after(3601.0)),
        (429, &[("retry-after", "999999999")], QUOTA, retry_after(999_999_999.0)),
    ] {
        let outcome = by_head(status, headers);
        assert_eq!((outcome.class, outcome.retry_after), (class, wait), "{status} {headers:?}");
        assert_eq!(outcome.is_ok(), class == OutcomeClass::Ok);
    }
}

#[test]
fn a_spent_quota_determines_the_retry_after() {
    for (status, headers, class, wait) in [
        (429, ["7", "60", ""], MINUTE, None),
        (429, ["0", "60", ""], MINUTE, quota(60.0)),
        (429, ["0", "7200", ""], QUOTA, quota(7200.0)),
        (429, ["", "60", ""], MINUTE, retry_after(60.0)),
        (429, ["0", "", ""], MINUTE, None),
        // Retry-After takes precedence. It counts as the end of the quota only if the quota lasts as long.
        (429, ["0", "64.57", "65"], MINUTE, quota(65.0)),
        (429, ["0", "64.57", "1"], MINUTE, quota(1.0)),
        (429, ["0", "64.57", "66"], MINUTE, retry_after(66.0)),
        (429, ["0", "86400", "86400"], QUOTA, quota(86_400.0)),
        (429, ["7", "86400", "30"], MINUTE, retry_after(30.0)),
        (403, ["0", "60", ""], MINUTE, quota(60.0)),
        (403, ["7", "60", ""], OutcomeClass::Auth, None),
        (403, ["7", "60", "30"], MINUTE, retry_after(30.0)),
        (401, ["0", "60", ""], OutcomeClass::Auth, None),
        (200, ["0", "60", ""], OutcomeClass::Ok, None),
    ] {
        let names = ["x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"];
        let headers: Vec<_> = names.into_iter().zip(headers).filter(|(_, value)| !value.is_empty()).collect();
        let outcome = by_head(status, &headers);
        assert_eq!((outcome.class, outcome.retry_after), (class, wait), "{status} {headers:?}");
        assert!(outcome.quota.is_some(), "the quota is returned for every class");
    }
}

#[test]
fn a_limit_that_other_clients_used_up_is_shared() {
    let headers = [("x-ratelimit-scope", "shared"), ("retry-after", "7200")];
    let outcome = by_head(429, &headers);
    assert_eq!((outcome.class, outcome.retry_after), (SHARED, retry_after(7200.0)));
    assert_eq!(by_head(200, &headers).class, OutcomeClass::Ok);
    assert_eq!(by_head(429, &[("x-ratelimit-scope", "user")]).class, MINUTE);
    assert_eq!(by_head(429, &[("x-ratelimit-global", "true")]).class, MINUTE);
}

#[test]
fn a_body_changes_the_class_of_its_status() {
    for (status, code, class, wait) in [
        (200, json!(0), OutcomeClass::Ok, None),
        (200, json!("0"), OutcomeClass::Ok, None),
        (200, json!(1008), MINUTE, retry_after(60.0)),
        (200, json!(1009), QUOTA, quota(30.0)),
        (429, json!(1009), QUOTA, quota(30.0)),
        (429, json!(1010), QUOTA, quota(86_430.0)),
        (429, json!(1011), SHARED, None),
        (200, json!(1001), OutcomeClass::Auth, None),
        (200, json!(500), OutcomeClass::Server, None),
        (200, json!(null), OutcomeClass::Server, None),
        (500, json!(0), OutcomeClass::Server, None),
        (404, json!(400), OutcomeClass::Ok, None),
        (429, json!(12), MINUTE, None),
    ] {
        let body = json!({ "status": { "error_code": code } });
        let status = StatusCode::from_u16(status).expect("a status");
        let rules = coinmarketcap();
        let outcome = response(status, &HeaderMap::new(), Some(&body), &rules, now());
        assert_eq!((outcome.class, outcome.retry_after), (class, wait), "{status} {body}");
        // A body that cannot be read does not change the class.
        let unread = response(status, &HeaderMap::new(), None, &rules, now());
        assert_eq!(unread, by_head(status.as_u16(), &[]));
    }
}

#[test]
fn the_first_rule_whose_conditions_all_match_applies() {
    let not_found = StatusMatch::Exact(StatusCode::NOT_FOUND);
    let rules = ResponseRules {
        success: Vec::new(),
        errors: vec![
            ErrorRule::new(OutcomeClass::Auth),
            error_rule(&[not_found, StatusMatch::Class(5)], &[7], MINUTE),
            error_rule(&[not_found], &[], OutcomeClass::Server),
            error_rule(&[], &[7], QUOTA),
        ],
        dialect: None,
    };
    let seven = json!({ "status": { "error_code": 7 } });
    for (status, body, class) in [
        (404, Some(&seven), MINUTE),
        (503, Some(&seven), MINUTE),
        (404, None, OutcomeClass::Server),
        (404, Some(&Value::Null), OutcomeClass::Server),
        (200, Some(&seven), QUOTA),
        (503, None, OutcomeClass::Server),
        (200, None, OutcomeClass::Ok),
    ] {
        let status = StatusCode::from_u16(status).expect("a status");
        let outcome = response(status, &HeaderMap::new(), body, &rules, now());
        assert_eq!(outcome.class, class, "{status} {body:?}");
    }
}

#[test]
fn the_cooldown_of_a_rule_takes_precedence_over_retry_after() {
    let rule = error_rule(&[StatusMatch::Class(4)], &[], MINUTE);
    let headers = fields(&[("retry-after", "5")]);
    let status = StatusCode::TOO_MANY_REQUESTS;
    for (until, class, expected) in [
        (None, MINUTE, retry_after(5.0)),
        (None, QUOTA, retry_after(5.0)),
        (None, OutcomeClass::Auth, None),
        (Some(CooldownUntil::For(Duration::from_secs(90))), MINUTE, retry_after(90.0)),
        (Some(CooldownUntil::For(Duration::from_secs(90))), OutcomeClass::Auth, retry_after(90.0)),
        (Some(CooldownUntil::UntilMidnight), QUOTA, quota(30.0)),
        (Some(CooldownUntil::UntilNextMonth), QUOTA, quota(86_430.0)),
        (Some(CooldownUntil::UntilNextMonth), OutcomeClass::Server, retry_after(86_430.0)),
    ] {
        let rules = ResponseRules {
            success: Vec::new(),
            errors: vec![ErrorRule { class, cooldown: until.clone(), ..rule.clone() }],
            dialect: None,
        };
        let outcome = response(status, &headers, None, &rules, now());
        assert_eq!(outcome.retry_after, expected, "{until:?} {class:?}");
    }
}

#[test]
fn a_failure_without_the_origin_has_no_outcome() {
    for (failed, class) in [
        (UpstreamError::Denied(Denied::Rule), None),
        (UpstreamError::Abandoned, None),
        (UpstreamError::Exhausted, None),
        (UpstreamError::Internal, None),
        (UpstreamError::Dns, Some(OutcomeClass::Network)),
        (UpstreamError::Refused, Some(OutcomeClass::Network)),
        (UpstreamError::Tls(TlsError::SelfSigned), Some(OutcomeClass::Network)),
        (UpstreamError::Closed, Some(OutcomeClass::Network)),
        (UpstreamError::Cut, Some(OutcomeClass::Network)),
        (UpstreamError::Protocol, Some(OutcomeClass::Network)),
        (UpstreamError::Switched, Some(OutcomeClass::Network)),
        (UpstreamError::ConnectTimeout, Some(OutcomeClass::Timeout)),
        (UpstreamError::FirstByteTimeout, Some(OutcomeClass::Timeout)),
        (UpstreamError::BodyTimeout, Some(OutcomeClass::Timeout)),
        (UpstreamError::TotalTimeout, Some(OutcomeClass::Timeout)),
    ] {
        assert_eq!(failure(failed), class.map(CallOutcome::from_class), "{failed:?}");
        if class.is_some() {
            let error_class = class.map(|class| CallOutcome::from_class(class).error_class(StatusCode::OK));
            assert_eq!(error_class, failed.error_class(), "{failed:?}");
        }
    }
}

#[test]
fn a_408_keeps_its_status_as_error_class() {
    let outcome = by_head(408, &[]);
    let status = StatusCode::REQUEST_TIMEOUT;
    assert_eq!(outcome.error_class(status), decide::ErrorClass::Status(status));
    let disguised = CallOutcome::from_class(OutcomeClass::Server).error_class(StatusCode::OK);
    assert_eq!(disguised, decide::ErrorClass::Status(StatusCode::SERVICE_UNAVAILABLE));
}

proptest! {
    #[test]
    fn any_head_has_an_outcome(
        status in 100u16..1000,
        lines in vec(
            (
                select(&["retry-after", "x-ratelimit-remaining", "x-ratelimit-reset",
                    "x-ratelimit-scope", "ratelimit"][..]),
                "([0-9]{1,12}|shared|\"a\";r=0;t=[0-9]{1,5}|[ -~]{0,20})",
            ),
            0..5,
        ),
        code in any::<Option<u16>>(),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in &lines {
            headers.append(*name, HeaderValue::from_str(value).expect("visible"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        let body = code.map(|code| json!({ "status": { "error_code": code } }));
        let outcome = response(status, &headers, body.as_ref(), &coinmarketcap(), now());
        prop_assert!(outcome.retry_after.is_none() || !matches!(outcome.class, OutcomeClass::Ok | OutcomeClass::Auth));
        prop_assert_eq!(
            status == StatusCode::TOO_MANY_REQUESTS && body.is_none(),
            matches!(outcome.class, OutcomeClass::RateLimited(_))
                && body.is_none() && status != StatusCode::FORBIDDEN
        );
        prop_assert!(now().checked_add(outcome.retry_after.map_or(Duration::ZERO, |w| w.time)).is_some());
        // Only the end of a quota, or the operator's rule, is marked as a quota.
        let of_quota = outcome.quota.as_ref().is_some_and(|quota| quota.remaining == Some(0));
        prop_assert!(body.is_some() || of_quota || outcome.retry_after.is_none_or(|wait| !wait.is_quota_end));
    }
}
