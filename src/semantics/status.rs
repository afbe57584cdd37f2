//! Status codes and their meaning for a cache (RFC 9110 §15).
//!
//! Owns: the codes that may be stored, and under which conditions, and the codes that are never stored.
//! Never touches: fields; a route's additions (`policy`).

use http::StatusCode;

/// 529: the API is overloaded (Anthropic, Notion and others; in no RFC). It is retried like 503.
pub const OVERLOADED: StatusCode = match StatusCode::from_u16(529) {
    Ok(status) => status,
    Err(_) => StatusCode::SERVICE_UNAVAILABLE,
};

/// Never stored, regardless of fields and routes: interim responses, partial responses, responses to
/// conditions, errors about a connection (407), and errors by which one malformed request would affect later
/// requests.
pub fn is_never_stored(status: StatusCode) -> bool {
    status.is_informational() || matches!(status.as_u16(), 206 | 304 | 400 | 407 | 413 | 414 | 431)
}

/// Interim responses (RFC 9110 §15.2), without 101, which ends the exchange.
pub fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// Temporary refusals and failures. They are stored only if a route names them, or if the origin gives them
/// an explicit lifetime and the route sets none.
pub fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 401 | 403 | 408 | 429)
}

/// The codes to which the operator's `ttl` applies without naming them.
pub fn is_covered_by_ttl(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308)
}

/// Heuristically cacheable (RFC 9110 §15.1), restricted to complete responses.
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    is_covered_by_ttl(status) || matches!(status.as_u16(), 404 | 405 | 410 | 501)
}

/// Whether a response with this status is the current representation of its target, or redirects to it. A
/// partial response (206), a confirmation (304) and an error are not.
pub fn is_current_version(status: StatusCode) -> bool {
    (status.is_success() || status.is_redirection()) && !matches!(status.as_u16(), 206 | 304)
}

/// Whether a response with this status states the current state of its target: its current version, or that
/// the target does not exist.
pub fn is_definitive(status: StatusCode) -> bool {
    is_current_version(status) || matches!(status.as_u16(), 404 | 410)
}

/// The final codes that larder understands (for `must-understand`, RFC 9111 §5.2.2.3).
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
    fn successes_and_redirects_are_current_versions() {
        let version = |code| status::is_current_version(StatusCode::from_u16(code).unwrap());
        assert!([200, 203, 204, 300, 301, 302, 303, 307, 308].into_iter().all(version));
        assert!(![101, 206, 304, 400, 401, 404, 410, 412, 416, 500].into_iter().any(version));
    }

    #[test]
    fn codes_that_are_never_stored_are_in_no_storable_class() {
        for status in all().filter(|status| status::is_never_stored(*status)) {
            assert!(!status::is_transient(status), "{status}");
            assert!(!status::is_heuristically_cacheable(status), "{status}");
            assert!(!status::is_understood(status), "{status}");
        }
        for code in [100, 101, 103, 206, 304, 400, 407, 413, 414, 431] {
            assert!(status::is_never_stored(StatusCode::from_u16(code).unwrap()), "{code}");
        }
    }

    #[test]
    fn transient_failures_are_not_covered_by_a_ttl() {
        for code in [401, 403, 408, 429, 500, 502, 503, 504, 599] {
            let status = StatusCode::from_u16(code).unwrap();
            assert!(status::is_transient(status) && !status::is_covered_by_ttl(status), "{code}");
        }
        assert_eq!(all().filter(|status| status::is_covered_by_ttl(*status)).count(), 6);
    }
}
