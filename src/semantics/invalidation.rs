//! Invalidation of stored responses by unsafe methods (RFC 9111 §4.4).
//!
//! Owns: the targets that the response to an unsafe request invalidates.
//! Never touches: the store; purges, which the operator requests.

use http::header::{CONTENT_LOCATION, HeaderName, LOCATION};
use http::{HeaderMap, StatusCode};

use crate::semantics::method;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;

/// The targets whose stored responses this request and response invalidate. An unknown method counts as
/// unsafe, an error response invalidates nothing, and an origin cannot invalidate the responses of another
/// origin. `moved` maps a target to the one under which larder stores the resource, if that differs.
pub fn targets(
    request: &ProxyRequest,
    status: StatusCode,
    headers: &HeaderMap,
    moved: impl Fn(&Target) -> Option<Target>,
) -> Vec<Target> {
    if !may_change(request) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut targets = vec![request.target.clone()];
    for name in [LOCATION, CONTENT_LOCATION] {
        let Some(location) = reference(request, headers, &name) else { continue };
        let location = moved(&location).unwrap_or(location);
        if location.same_origin(&request.target) && !targets.contains(&location) {
            targets.push(location);
        }
    }
    targets
}

/// Whether the request may change state at the origin: its method is not safe, or a field or parameter
/// overrides it.
pub fn may_change(request: &ProxyRequest) -> bool {
    !method::is_safe(&request.method) || request.is_overridden()
}

/// Whether a response with this status leaves the effect of the request unknown: a gateway reports an error
/// without knowing the origin's result, or the exchange continues in another protocol. A 500 comes from the
/// origin itself.
pub fn leaves_outcome_unknown(status: StatusCode) -> bool {
    matches!(status.as_u16(), 101 | 502 | 504 | 520 | 522 | 524)
}

fn reference(request: &ProxyRequest, headers: &HeaderMap, name: &HeaderName) -> Option<Target> {
    // Raw UTF-8 is common here, but `to_str` rejects it.
    let reference = std::str::from_utf8(headers.get(name)?.as_bytes()).ok()?;
    request.target.resolve(reference)
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use http::{Method, StatusCode};
    use proptest::prelude::{any, proptest};

    use crate::semantics::invalidation::targets;
    use crate::semantics::request::ProxyRequest;
    use crate::semantics::target::Target;

    fn request(method: &str) -> ProxyRequest {
        let mut request = ProxyRequest::get(Target::absolute("http://h/a/b?c").unwrap());
        request.method = Method::from_bytes(method.as_bytes()).unwrap();
        request
    }

    fn invalidated(method: &str, status: u16, fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        targets(&request(method), status, &headers, |_| None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_successful_unsafe_or_unknown_method_invalidates_its_target() {
        for method in ["POST", "PUT", "PATCH", "DELETE", "PURGE", "M-SEARCH", "get"] {
            for status in [200, 201, 204, 302, 303] {
                assert_eq!(invalidated(method, status, &[]), ["http://h/a/b?c"], "{method} {status}");
            }
            for status in [100, 400, 404, 412, 429, 500, 503] {
                assert!(invalidated(method, status, &[]).is_empty(), "{method} {status}");
            }
        }
        for method in ["GET", "HEAD", "OPTIONS", "TRACE"] {
            assert!(invalidated(method, 200, &[]).is_empty(), "{method}");
        }
    }

    #[test]
    fn same_origin_locations_are_invalidated_and_others_never() {
        let own = [("location", "../x"), ("content-location", "http://h:80/y")];
        assert_eq!(invalidated("POST", 201, &own), ["http://h/a/b?c", "http://h/x", "http://h/y"]);
        for other in ["http://other/x", "https://h/x", "//h:81/x", "mailto:x", "http://h/ x", ""] {
            let fields = [("location", other), ("content-location", other)];
            assert_eq!(invalidated("POST", 201, &fields), ["http://h/a/b?c"], "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn no_location_invalidates_another_origin(location in any::<Vec<u8>>(), path in "[ -~]{0,20}") {
            for bytes in [location, path.clone().into_bytes(), format!("//{path}").into_bytes()] {
                let Ok(value) = HeaderValue::from_bytes(&bytes) else { continue };
                let mut headers = HeaderMap::new();
                headers.insert("location", value);
                let request = request("POST");
                let found = targets(&request, StatusCode::OK, &headers, |_| None);
                assert!(found.iter().all(|target| target.same_origin(&request.target)));
            }
        }
    }
}
