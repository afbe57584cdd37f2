//! Status codes as a cache sees them (RFC 9110 §15).
//!
//! Owns: which codes may be stored, for which reason, and which never are.
//! Never touches: fields; what a route adds (`policy`).

use http::StatusCode;

/// Never stored, whatever anybody says: interim answers, parts, answers to conditions, and errors
/// that one malformed request causes for everybody who asks after it, or that concern a connection (407).
pub fn is_never_stored(status: StatusCode) -> bool {
    status.is_informational() || matches!(status.as_u16(), 206 | 304 | 400 | 407 | 413 | 414 | 431)
}

/// Refusals and failures of the moment: stored only where a route names them, or where the origin
/// gives them an explicit lifetime and the route adds nothing of its own.
pub fn is_momentary(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 401 | 403 | 408 | 429)
}

/// The codes that the operator's own lifetime covers without naming them.
pub fn is_covered_by_ttl(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308)
}

/// Heuristically cacheable (RFC 9110 §15.1), as far as larder stores whole answers.
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    is_covered_by_ttl(status) || matches!(status.as_u16(), 404 | 405 | 410 | 501)
}

/// Whether an answer with this status is what its target is now, or says where that is: not a part of it, not
/// that it is what it was, not that it cannot be had.
pub fn is_a_version(status: StatusCode) -> bool {
    (status.is_success() || status.is_redirection()) && !matches!(status.as_u16(), 206 | 304)
}

/// Whether an answer with this status says what its target is now: a version, or that there is none.
pub fn is_news(status: StatusCode) -> bool {
    is_a_version(status) || matches!(status.as_u16(), 404 | 410)
}

/// The final codes whose meaning larder knows (for `must-understand`, RFC 9111 §5.2.2.3).
pub fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205 | 300..=303 | 307 | 308 | 401..=406 | 408..=411 | 415..=417 | 421 | 422 | 426 | 500..=505
    )
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use crate::semantics::status;

    fn all() -> impl Iterator<Item = StatusCode> {
        (100..1000).map(|code| StatusCode::from_u16(code).unwrap())
    }

    #[test]
    fn a_version_is_what_its_target_is_now_or_where_that_is() {
        let version = |code| status::is_a_version(StatusCode::from_u16(code).unwrap());
        assert!([200, 203, 204, 300, 301, 302, 303, 307, 308].into_iter().all(version));
        assert!(![101, 206, 304, 400, 401, 404, 410, 412, 416, 500].into_iter().any(version));
    }

    #[test]
    fn what_is_never_stored_is_in_no_class_that_is() {
        for status in all().filter(|status| status::is_never_stored(*status)) {
            assert!(!status::is_momentary(status), "{status}");
            assert!(!status::is_heuristically_cacheable(status), "{status}");
            assert!(!status::is_understood(status), "{status}");
        }
        for code in [100, 101, 103, 206, 304, 400, 407, 413, 414, 431] {
            assert!(status::is_never_stored(StatusCode::from_u16(code).unwrap()), "{code}");
        }
    }

    #[test]
    fn momentary_failures_are_not_covered_by_a_ttl() {
        for code in [401, 403, 408, 429, 500, 502, 503, 504, 599] {
            let status = StatusCode::from_u16(code).unwrap();
            assert!(status::is_momentary(status) && !status::is_covered_by_ttl(status), "{code}");
        }
        assert_eq!(all().filter(|status| status::is_covered_by_ttl(*status)).count(), 6);
    }
}
