//! Error responses that larder generates.
//!
//! Owns: the one mapping from an error to status, JSON body and `Proxy-Status` (RFC 9209); larder's member of
//! `Proxy-Status` for an error response of an origin. Never touches: head and body of an origin's error
//! response, which reach the client unchanged.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// `Proxy-Status`, RFC 9209.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// An error that larder generates. `class` and `reason` are constants, so no part of the request is echoed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// The status of the response.
    pub status: StatusCode,
    /// The class in the JSON body, the log and the metrics.
    pub class: &'static str,
    /// The cause and the remedy, for the user.
    pub reason: &'static str,
    /// The error type of RFC 9209 §2.3.
    pub proxy_status: &'static str,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u32>,
}

impl Problem {
    /// Creates a problem without `Retry-After`.
    pub const fn new(
        status: StatusCode,
        class: &'static str,
        reason: &'static str,
        proxy_status: &'static str,
    ) -> Self {
        Self { status, class, reason, proxy_status, retry_after: None }
    }

    /// Sets `Retry-After` to `seconds`.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The JSON body as a value.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "larder_error": {
                "class": self.class,
                "reason": self.reason,
                "status": self.status.as_u16(),
            }
        })
    }

    /// The JSON body as bytes.
    pub fn body(&self) -> Bytes {
        let mut text = self.json().to_string();
        text.push('\n');
        Bytes::from(text)
    }

    /// The header fields and the body of the response.
    pub fn response(&self) -> (HeaderMap, Bytes) {
        let body = self.body();
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        if let Ok(value) = HeaderValue::try_from(self.proxy_status_value()) {
            headers.insert(PROXY_STATUS, value);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        (headers, body)
    }

    /// Larder's member of `Proxy-Status`.
    pub fn proxy_status_value(&self) -> String {
        format!("larder; error={}; details=\"{}\"", self.proxy_status, self.class)
    }
}

/// Larder's member of `Proxy-Status` for an origin's error response (RFC 9209 §2.1.4); `None` for other
/// statuses.
pub fn received_error(status: StatusCode) -> Option<HeaderValue> {
    if status.is_client_error() || status.is_server_error() {
        HeaderValue::try_from(format!("larder; received-status={}", status.as_u16())).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_contains_larder_its_class_and_its_proxy_status() {
        let problem =
            Problem::new(StatusCode::BAD_GATEWAY, "dns", "the origin's name has no address", "dns_error")
                .retry_after(3);
        let (headers, body) = problem.response();
        assert_eq!(headers[PROXY_STATUS], "larder; error=dns_error; details=\"dns\"");
        assert_eq!(headers[RETRY_AFTER], "3");
        assert_eq!(headers[CONTENT_LENGTH], body.len().to_string());
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["larder_error"]["class"], "dns");
    }
}
