//! What a change at the origin makes useless (RFC 9111 §4.4).
//!
//! Owns: which targets an unsafe method's answer invalidates.
//! Never touches: the store; purges, which are the operator's.

use http::header::{CONTENT_LOCATION, HeaderName, LOCATION};
use http::{HeaderMap, StatusCode};

use crate::semantics::method;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;

/// The targets whose stored answers the exchange makes useless. A method nobody knows may have
/// changed anything; an error changed nothing; another origin's answers are not this one's to drop.
/// `moved` gives the target by which a resource is known, where it is another one.
pub fn targets(
    asked: &ProxyRequest,
    status: StatusCode,
    headers: &HeaderMap,
    moved: impl Fn(&Target) -> Option<Target>,
) -> Vec<Target> {
    if !may_change(asked) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut targets = vec![asked.target.clone()];
    for name in [LOCATION, CONTENT_LOCATION] {
        let Some(named) = reference(asked, headers, &name) else { continue };
        let named = moved(&named).unwrap_or(named);
        if named.same_origin(&asked.target) && !targets.contains(&named) {
            targets.push(named);
        }
    }
    targets
}

/// Whether the request may change something: not by a method that only asks, unless something replaces it by
/// another.
pub fn may_change(asked: &ProxyRequest) -> bool {
    !method::is_safe(&asked.method) || asked.is_overridden()
}

/// Whether an answer with this status leaves open what became of the request: a gateway says it that does not
/// know, or what follows is said in another protocol. A 500 is the origin's own word.
pub fn leaves_open(status: StatusCode) -> bool {
    matches!(status.as_u16(), 101 | 502 | 504 | 520 | 522 | 524)
}

fn reference(asked: &ProxyRequest, headers: &HeaderMap, name: &HeaderName) -> Option<Target> {
    // Raw UTF-8 is common here though `to_str` refuses it.
    let reference = std::str::from_utf8(headers.get(name)?.as_bytes()).ok()?;
    asked.target.resolve(reference)
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use http::{Method, StatusCode};
    use proptest::prelude::{any, proptest};

    use crate::semantics::invalidation::targets;
    use crate::semantics::request::ProxyRequest;
    use crate::semantics::target::Target;

    fn asked(method: &str) -> ProxyRequest {
        let mut asked = ProxyRequest::get(Target::absolute("http://h/a/b?c").unwrap());
        asked.method = Method::from_bytes(method.as_bytes()).unwrap();
        asked
    }

    fn invalidated(
        method: &str,
        status: u16,
        fields: &[(&'static str, &'static str)],
    ) -> Vec<String> {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        targets(&asked(method), status, &headers, |_| None)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_successful_unsafe_or_unknown_method_invalidates_its_target() {
        for method in ["POST", "PUT", "PATCH", "DELETE", "PURGE", "M-SEARCH", "get"] {
            for status in [200, 201, 204, 302, 303] {
                assert_eq!(
                    invalidated(method, status, &[]),
                    ["http://h/a/b?c"],
                    "{method} {status}"
                );
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
    fn locations_of_the_same_origin_go_too_and_others_never() {
        let own = [("location", "../x"), ("content-location", "http://h:80/y")];
        assert_eq!(invalidated("POST", 201, &own), ["http://h/a/b?c", "http://h/x", "http://h/y"]);
        for other in ["http://other/x", "https://h/x", "//h:81/x", "mailto:x", "http://h/ x", ""] {
            let fields = [("location", other), ("content-location", other)];
            assert_eq!(invalidated("POST", 201, &fields), ["http://h/a/b?c"], "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn no_location_reaches_another_origin(location in any::<Vec<u8>>(), path in "[ -~]{0,20}") {
            for bytes in [location, path.clone().into_bytes(), format!("//{path}").into_bytes()] {
                let Ok(value) = HeaderValue::from_bytes(&bytes) else { continue };
                let mut headers = HeaderMap::new();
                headers.insert("location", value);
                let asked = asked("POST");
                let found = targets(&asked, StatusCode::OK, &headers, |_| None);
                assert!(found.iter().all(|target| target.same_origin(&asked.target)));
            }
        }
    }
}
