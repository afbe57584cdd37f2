//! A response of a fake as a value: status, header fields, body.
//!
//! Owns: JSON responses, validators and `304`. Never touches: sockets, the clock.

use std::fmt::Display;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

/// A complete response.
#[derive(Debug)]
pub struct MockResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl MockResponse {
    /// A JSON response; without a value it has no body.
    pub fn json(status: StatusCode, value: Option<Value>) -> Self {
        let mut headers = HeaderMap::new();
        let body = value.filter(|_| !is_bodiless(status)).map_or_else(Bytes::new, |value| {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Bytes::from(value.to_string())
        });
        Self { status, headers, body }
    }

    /// Adds a header field, if the value is valid in one.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &dyn Display) -> Self {
        self.headers.extend(HeaderValue::try_from(value.to_string()).map(|value| (name, value)));
        self
    }

    /// Adds this `Cache-Control` to a response that may be stored.
    #[must_use]
    pub fn with_cache_control(mut self, method: &Method, value: Option<&HeaderValue>) -> Self {
        let storable = [StatusCode::OK, StatusCode::NOT_MODIFIED].contains(&self.status);
        if storable && is_get_or_head(method) {
            self.headers.extend(value.map(|value| (CACHE_CONTROL, value.clone())));
        }
        self
    }

    /// Adds an `ETag` to a successful response, and turns it into `304` if the client has the same one.
    #[must_use]
    pub fn validated(self, method: &Method, request_headers: &HeaderMap) -> Self {
        let body = self.body.clone();
        self.validated_by(&body, method, request_headers)
    }

    /// The same, with a validator of `content` instead of the body.
    #[must_use]
    pub fn validated_by(mut self, content: &[u8], method: &Method, request_headers: &HeaderMap) -> Self {
        if self.status != StatusCode::OK || !is_get_or_head(method) {
            return self;
        }
        let etag = format!("W/\"{:032x}\"", xxh3_128(content));
        if matches_validator(request_headers, &etag) {
            self = Self::json(StatusCode::NOT_MODIFIED, None);
        }
        self.with(ETAG, &etag)
    }
}

fn is_get_or_head(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// RFC 9110 §6.4.1: these statuses never have a body.
fn is_bodiless(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// RFC 9110 §13.1.2: weak comparison; the fake's own tags contain no comma.
fn matches_validator(request_headers: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    request_headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ok() -> MockResponse {
        MockResponse::json(StatusCode::OK, Some(json!({ "a": 1 })))
    }

    #[test]
    fn a_client_with_a_current_validator_gets_304_without_a_body() {
        let fresh = ok().validated(&Method::GET, &HeaderMap::new());
        let etag = fresh.headers[ETAG].clone();
        let request_headers = HeaderMap::from_iter([(IF_NONE_MATCH, etag.clone())]);
        let response = ok().validated(&Method::GET, &request_headers);
        assert_eq!(response.status, StatusCode::NOT_MODIFIED);
        assert!(response.body.is_empty());
        assert_eq!(response.headers[ETAG], etag);
        let other = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("\"x\""))]);
        assert_eq!(ok().validated(&Method::GET, &other).status, StatusCode::OK);
    }

    #[test]
    fn only_storable_responses_have_a_validator_and_cache_control() {
        let none = HeaderMap::new();
        let value = HeaderValue::from_static("max-age=60");
        let patched = ok().validated(&Method::PATCH, &none);
        let patched = patched.with_cache_control(&Method::PATCH, Some(&value));
        assert!(!patched.headers.contains_key(ETAG));
        assert!(!patched.headers.contains_key(CACHE_CONTROL));
        let error = MockResponse::json(StatusCode::SERVICE_UNAVAILABLE, Some(json!({})));
        let error = error.validated(&Method::GET, &none);
        let error = error.with_cache_control(&Method::GET, Some(&value));
        assert!(!error.headers.contains_key(ETAG));
        assert!(!error.headers.contains_key(CACHE_CONTROL));
    }

    #[test]
    fn a_204_has_no_body() {
        let response = MockResponse::json(StatusCode::NO_CONTENT, Some(json!({ "a": 1 })));
        assert!(response.body.is_empty() && !response.headers.contains_key(CONTENT_TYPE));
    }
}
