//! `Max-Forwards` (RFC 9110 §7.6.2): the number of times that an `OPTIONS` or `TRACE` may still be forwarded.
//!
//! Owns: reading and decrementing the field. Never touches: the response of the last hop.

use http::header::MAX_FORWARDS;
use http::{HeaderMap, HeaderValue, Method};

/// The number of times that the request may still be forwarded. `None` means no limit.
pub fn remaining(method: &Method, headers: &HeaderMap) -> Option<u64> {
    if !matches!(*method, Method::OPTIONS | Method::TRACE) {
        return None;
    }
    let mut values = headers.get_all(MAX_FORWARDS).iter();
    let (value, more) = (values.next()?.to_str().ok()?.trim(), values.next().is_some());
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    // A number that does not fit is as good as no limit, and an invalid value sets no limit.
    value.parse().ok().filter(|_| digits && !more)
}

/// Decrements the field for the next hop.
pub fn decrement(method: &Method, headers: &mut HeaderMap) {
    if let Some(left) = remaining(method, headers) {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_options_and_trace_are_decremented() {
        for (method, value, next) in [
            ("OPTIONS", "3", "2"),
            ("TRACE", "1", "0"),
            ("OPTIONS", "x", "x"),
            ("OPTIONS", "-1", "-1"),
            ("OPTIONS", "99999999999999999999999", "99999999999999999999999"),
            ("GET", "3", "3"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(MAX_FORWARDS, value.parse().unwrap());
            decrement(&method.parse().unwrap(), &mut headers);
            assert_eq!(headers[MAX_FORWARDS], next, "{method} {value}");
        }
        assert_eq!(remaining(&Method::OPTIONS, &HeaderMap::new()), None);
    }
}
