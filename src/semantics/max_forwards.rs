//! `Max-Forwards` (RFC 9110 §7.6.2): how often an `OPTIONS` or `TRACE` is still passed on.
//!
//! Owns: reading it and counting it down. Never touches: what is answered at the last hop.

use http::header::MAX_FORWARDS;
use http::{HeaderMap, HeaderValue, Method};

/// How often the request may still be passed on; `None`: nothing bounds that.
pub fn left(method: &Method, headers: &HeaderMap) -> Option<u64> {
    if !matches!(*method, Method::OPTIONS | Method::TRACE) {
        return None;
    }
    let mut values = headers.get_all(MAX_FORWARDS).iter();
    let (value, more) = (values.next()?.to_str().ok()?.trim(), values.next().is_some());
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    // More than fits is as good as no bound; what is no number binds nobody.
    value.parse().ok().filter(|_| digits && !more)
}

/// Counts it down for the next hop.
pub fn count_down(method: &Method, headers: &mut HeaderMap) {
    if let Some(left) = left(method, headers) {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_options_and_trace_are_counted_down() {
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
            count_down(&method.parse().unwrap(), &mut headers);
            assert_eq!(headers[MAX_FORWARDS], next, "{method} {value}");
        }
        assert_eq!(left(&Method::OPTIONS, &HeaderMap::new()), None);
    }
}
