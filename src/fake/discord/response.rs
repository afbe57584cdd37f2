//! Discord's response formats: error bodies and rate limit fields.
//!
//! Owns: the header fields and bodies of a limit, of a ban, of an error. Never touches: the clock.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, SERVER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_128;

use crate::fake::faults::Scope;
use crate::fake::response::MockResponse;

/// The rate limit state that a response contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) limit: u64,
    pub(super) left: u64,
    pub(super) reset_after: Duration,
}

impl Bucket {
    /// The state that is announced if no limit is enforced; `number`: the sequence number of the call.
    pub(super) fn announced(pattern: &str, number: u64) -> Self {
        let left = ANNOUNCED - 1 - number % ANNOUNCED;
        let reset_after = Duration::from_secs(1);
        Self { name: bucket_name(pattern), limit: ANNOUNCED, left, reset_after }
    }

    /// A bucket without remaining calls for this long.
    pub(super) fn empty(pattern: &str, reset_after: Duration) -> Self {
        Self { name: bucket_name(pattern), limit: ANNOUNCED, left: 0, reset_after }
    }
}

/// The bucket name of a method and path template: opaque, and always the same.
pub(super) fn bucket_name(pattern: &str) -> String {
    format!("{:032x}", xxh3_128(pattern.as_bytes()))
}

impl MockResponse {
    /// An error with Discord's body.
    pub(super) fn error(status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or("Unknown");
        let message = format!("{}: {reason}", status.as_u16());
        Self::json(status, Some(json!({ "message": message, "code": 0 })))
    }

    /// Discord's 429; without a time to wait it has none, neither in a field nor in the body.
    pub(super) fn rate_limited(scope: Scope, wait: Option<Duration>) -> Self {
        let message = match scope {
            Scope::User | Scope::Global => "You are being rate limited.",
            Scope::Shared => "The resource is being rate limited.",
        };
        let mut body = json!({ "message": message, "global": scope == Scope::Global });
        let Some(wait) = wait else { return Self::json(StatusCode::TOO_MANY_REQUESTS, Some(body)) };
        body["retry_after"] = json!(seconds_rounded_up(wait));
        let response = Self::json(StatusCode::TOO_MANY_REQUESTS, Some(body))
            .with(RETRY_AFTER, &whole_seconds(wait))
            .with(SCOPE, &scope.token());
        if scope == Scope::Global { response.with(GLOBAL, &true) } else { response }
    }

    /// The response of Cloudflare, in front of Discord, to a banned address; it is not Discord's JSON.
    pub(super) fn banned(left: Duration) -> Self {
        let mut response = Self::json(StatusCode::FORBIDDEN, None);
        response.body = Bytes::from_static(b"error code: 1015");
        response.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
        response.with(SERVER, &"cloudflare").with(RETRY_AFTER, &whole_seconds(left))
    }
}

/// Adds the rate limit fields of a bucket.
pub(super) fn with_bucket(response: MockResponse, bucket: Option<&Bucket>, now: SystemTime) -> MockResponse {
    let Some(bucket) = bucket else { return response };
    let epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let reset = epoch.saturating_add(bucket.reset_after);
    response
        .with(LIMIT, &bucket.limit)
        .with(REMAINING, &bucket.left)
        .with(RESET, &format!("{:.3}", seconds_rounded_up(reset)))
        .with(RESET_AFTER, &format!("{:.3}", seconds_rounded_up(bucket.reset_after)))
        .with(BUCKET, &bucket.name)
}

/// Seconds, rounded up to a millisecond, so that the limit has ended for a client that waits this long.
fn seconds_rounded_up(time: Duration) -> f64 {
    let millis = time.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).as_secs_f64()
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// Calls per bucket and second, as Discord announces for most of its endpoints.
const ANNOUNCED: u64 = 50;
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RESET_AFTER: HeaderName = HeaderName::from_static("x-ratelimit-reset-after");
const BUCKET: HeaderName = HeaderName::from_static("x-ratelimit-bucket");
const GLOBAL: HeaderName = HeaderName::from_static("x-ratelimit-global");
pub(super) const SCOPE: HeaderName = HeaderName::from_static("x-ratelimit-scope");

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(100)
    }

    fn body(response: &MockResponse) -> Value {
        serde_json::from_slice(&response.body).unwrap()
    }

    #[test]
    fn announced_limits_count_down_and_start_again() {
        let left = |number| Bucket::announced("p", number).left;
        assert_eq!([left(0), left(49), left(50)], [49, 0, 49]);
        let ok = MockResponse::json(StatusCode::OK, Some(json!({})));
        let first = with_bucket(ok, Some(&Bucket::announced("p", 0)), now());
        assert_eq!(first.headers[REMAINING], "49");
        assert_eq!(first.headers[RESET], "101.000");
        assert_eq!(first.headers[BUCKET].len(), 32);
    }

    #[test]
    fn a_429_has_the_wait_in_whole_seconds_and_in_fractions() {
        let wait = Duration::from_micros(1_250_400);
        let limited = MockResponse::rate_limited(Scope::User, Some(wait));
        let limited = with_bucket(limited, Some(&Bucket::empty("p", wait)), now());
        assert_eq!(limited.headers[RETRY_AFTER], "2");
        assert_eq!(limited.headers[REMAINING], "0");
        assert_eq!(limited.headers[RESET], "101.251");
        assert_eq!(limited.headers[RESET_AFTER], "1.251");
        assert_eq!(limited.headers[SCOPE], "user");
        assert!(!limited.headers.contains_key(GLOBAL));
        let body = body(&limited);
        assert_eq!(body["retry_after"], 1.251);
        assert_eq!(body["global"], false);
    }

    #[test]
    fn each_scope_has_its_own_fields_and_message() {
        let second = Some(Duration::from_secs(1));
        let global = MockResponse::rate_limited(Scope::Global, second);
        assert_eq!(global.headers[GLOBAL], "true");
        assert_eq!(global.headers[SCOPE], "global");
        assert_eq!(body(&global)["global"], true);
        let shared = MockResponse::rate_limited(Scope::Shared, second);
        assert_eq!(shared.headers[SCOPE], "shared");
        assert_eq!(body(&shared)["message"], "The resource is being rate limited.");
    }

    #[test]
    fn a_429_without_a_time_has_no_limit_fields() {
        let limited = MockResponse::rate_limited(Scope::User, None);
        assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(limited.headers.keys().collect::<Vec<_>>(), [&CONTENT_TYPE]);
        assert_eq!(body(&limited).get("retry_after"), None);
    }

    #[test]
    fn a_ban_is_not_in_json() {
        let banned = MockResponse::banned(Duration::from_millis(59_500));
        assert_eq!(banned.status, StatusCode::FORBIDDEN);
        assert_eq!(banned.headers[RETRY_AFTER], "60");
        assert!(serde_json::from_slice::<Value>(&banned.body).is_err());
    }
}
