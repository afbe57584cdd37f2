//! What the fake says, as a value: status, fields, body.
//!
//! Owns: validators and `304`, Discord's rate limit fields, the bodies of errors.
//! Never touches: sockets, the clock.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::fake::discord::data::Reply;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// An answer in JSON; no value, no body.
    pub(super) fn json((status, value): Reply) -> Self {
        let mut headers = HeaderMap::new();
        let body = value.map_or_else(Bytes::new, |value| {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Bytes::from(value.to_string())
        });
        Self { status, headers, body }
    }

    /// An error with Discord's body.
    pub(super) fn error(status: StatusCode) -> Self {
        if is_bodiless(status) {
            return Self::json((status, None));
        }
        let reason = status.canonical_reason().unwrap_or("Unknown");
        let message = format!("{}: {reason}", status.as_u16());
        Self::json((status, Some(json!({ "message": message, "code": 0 }))))
    }

    /// Discord's 429.
    pub(super) fn rate_limited(retry_after: u32) -> Self {
        let body = json!({
            "message": "You are being rate limited.",
            "retry_after": f64::from(retry_after),
            "global": false,
        });
        let mut answer = Self::json((StatusCode::TOO_MANY_REQUESTS, Some(body)));
        answer.headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
        answer.headers.insert(SCOPE, HeaderValue::from_static("user"));
        answer
    }

    /// Adds the validator of a successful answer, and becomes `304` if the caller has it already.
    pub(super) fn validated(
        mut self,
        method: &Method,
        asked: &HeaderMap,
        cache_control: Option<&HeaderValue>,
    ) -> Self {
        if self.status != StatusCode::OK || !(method == Method::GET || method == Method::HEAD) {
            return self;
        }
        let etag = format!("W/\"{:032x}\"", xxh3_128(&self.body));
        if has_already(asked, &etag) {
            self = Self::json((StatusCode::NOT_MODIFIED, None));
        }
        if let Some(cache_control) = cache_control {
            self.headers.insert(CACHE_CONTROL, cache_control.clone());
        }
        self.headers.extend(HeaderValue::try_from(etag).map(|etag| (ETAG, etag)));
        self
    }

    /// Adds what Discord says about its limits; `number`: which call it is.
    pub(super) fn with_limits(mut self, pattern: &str, number: u64, now: SystemTime) -> Self {
        let limited = self.status == StatusCode::TOO_MANY_REQUESTS;
        let after = if limited { self.retry_after() } else { Duration::from_secs(1) };
        let remaining = if limited { 0 } else { LIMIT - 1 - number % LIMIT };
        let epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let fields = [
            (LIMIT_FIELD, LIMIT.to_string()),
            (REMAINING, remaining.to_string()),
            (RESET, format!("{:.3}", epoch.saturating_add(after).as_secs_f64())),
            (RESET_AFTER, format!("{:.3}", after.as_secs_f64())),
            (BUCKET, format!("{:032x}", xxh3_128(pattern.as_bytes()))),
        ];
        for (name, value) in fields {
            self.headers.extend(HeaderValue::try_from(value).map(|value| (name, value)));
        }
        self
    }

    fn retry_after(&self) -> Duration {
        let seconds =
            self.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Duration::from_secs(seconds.unwrap_or(1))
    }
}

/// RFC 9110 §6.4.1: these never have a body.
fn is_bodiless(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// RFC 9110 §13.1.2: weak comparison; the fake's own tags contain no comma.
fn has_already(asked: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    asked
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

/// Calls per bucket and second, as Discord answers for most of its endpoints.
const LIMIT: u64 = 50;
const LIMIT_FIELD: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RESET_AFTER: HeaderName = HeaderName::from_static("x-ratelimit-reset-after");
const BUCKET: HeaderName = HeaderName::from_static("x-ratelimit-bucket");
const SCOPE: HeaderName = HeaderName::from_static("x-ratelimit-scope");

/// The body of a request as JSON; nothing, or nothing readable, is null.
pub(super) fn sent(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok() -> Answer {
        Answer::json((StatusCode::OK, Some(json!({ "a": 1 }))))
    }

    #[test]
    fn a_caller_with_the_validator_gets_304_without_a_body() {
        let fresh = ok().validated(&Method::GET, &HeaderMap::new(), None);
        let etag = fresh.headers[ETAG].clone();
        let asked = HeaderMap::from_iter([(IF_NONE_MATCH, etag.clone())]);
        let answer = ok().validated(&Method::GET, &asked, None);
        assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
        assert!(answer.body.is_empty());
        assert_eq!(answer.headers[ETAG], etag);
        let other = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("\"x\""))]);
        assert_eq!(ok().validated(&Method::GET, &other, None).status, StatusCode::OK);
    }

    #[test]
    fn only_answers_that_can_be_stored_have_a_validator() {
        let none = HeaderMap::new();
        assert!(!ok().validated(&Method::PATCH, &none, None).headers.contains_key(ETAG));
        let error = Answer::error(StatusCode::SERVICE_UNAVAILABLE);
        assert!(!error.validated(&Method::GET, &none, None).headers.contains_key(ETAG));
    }

    #[test]
    fn the_limits_count_down_and_a_429_has_none_left() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let first = ok().with_limits("p", 0, now);
        assert_eq!(first.headers[REMAINING], "49");
        assert_eq!(first.headers[RESET], "101.000");
        assert_eq!(ok().with_limits("p", 49, now).headers[REMAINING], "0");
        assert_eq!(ok().with_limits("p", 50, now).headers[REMAINING], "49");
        let limited = Answer::rate_limited(7).with_limits("p", 0, now);
        assert_eq!(limited.headers[RETRY_AFTER], "7");
        assert_eq!(limited.headers[REMAINING], "0");
        assert_eq!(limited.headers[RESET_AFTER], "7.000");
        assert_eq!(sent(&limited.body)["retry_after"], 7.0);
    }
}
