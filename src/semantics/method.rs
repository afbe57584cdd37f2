//! Methods in IANA's registry (RFC 9110 §16.1), and method overrides.
//!
//! Owns: the safe and the idempotent methods (an unregistered method is neither), and detection of requests
//! that override their method. Never touches: a route's settings for methods.

use http::{HeaderMap, HeaderName, Method};

use crate::semantics::byte_search::{has_byte, has_three_in_any_case};
use crate::semantics::field_case;
use crate::semantics::query::{decoded, pieces};
use crate::semantics::target::Target;

/// Methods registered as safe (RFC 9110 §9.2.1). The registration of `QUERY` is in progress.
const SAFE: [&str; 9] = ["GET", "HEAD", "OPTIONS", "TRACE", "PRI", "PROPFIND", "REPORT", "SEARCH", "QUERY"];

/// Methods registered as idempotent but not as safe (RFC 9110 §9.2.2).
const IDEMPOTENT: [&str; 27] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "DELETE",
    "LABEL",
    "LINK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PROPPATCH",
    "PUT",
    "REBIND",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// Whether the method is safe. Any other method may change state at the origin.
pub fn is_safe(method: &Method) -> bool {
    SAFE.contains(&method.as_str())
}

/// Whether repeating the request is defined to have the same effect as sending it once.
pub fn is_idempotent(method: &Method) -> bool {
    is_safe(method) || IDEMPOTENT.contains(&method.as_str())
}

/// Fields by which some frameworks let a client override the method of its request.
const OVERRIDE_FIELDS: [&str; 13] = [
    "http-method-override",
    "method-override",
    "x-http-verb",
    "x-httpmethod",
    "x-override-method",
    "x-request-method",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-methodoverride",
    "x-method",
    "x-original-method",
    "x-restli-method",
];

/// Query parameters by which some frameworks let a client override the method: `_method` (Rails, Laravel,
/// Symfony), `X-HTTP-Method-Override` (Google), `_method_override`, `httpMethod`. Listed in lower case and
/// without punctuation.
const OVERRIDE_PARAMS: [&str; 9] = [
    "method",
    "xmethod",
    "methodoverride",
    "httpmethod",
    "httpmethodoverride",
    "xhttpmethod",
    "xhttpmethodoverride",
    "xmethodoverride",
    "overridemethod",
];

/// Values that make a plain `method` parameter an override (Facebook, Akka). Many APIs use that parameter for
/// other purposes, such as function names.
const OVERRIDE_METHODS: [&str; 4] = ["DELETE", "PATCH", "POST", "PUT"];

/// Whether a field or query parameter of the request names a method other than its own.
pub fn is_overridden(method: &Method, target: &Target, headers: &HeaderMap) -> bool {
    // This runs for every request: scanning its field names costs less than looking up each known name.
    let overrides = |name: &HeaderName| {
        name.as_str().starts_with(['x', 'h', 'm']) && field_case::names_one_of(name, &OVERRIDE_FIELDS)
    };
    headers.keys().any(overrides) || target.query().is_some_and(|query| is_overridden_in(query, method))
}

/// Like [`is_overridden`], for the query alone.
fn is_overridden_in(query: &str, method: &Method) -> bool {
    // Fast path: most queries contain neither `tho` (as in `method`) nor percent-encoding.
    if !has_three_in_any_case(query, *b"tho") && !has_byte(query, |byte| byte == b'%') {
        return false;
    }
    query.split('&').flat_map(pieces).any(|(name, value)| {
        let value = value.map(decoded).unwrap_or_default();
        let value = value.trim_matches(|sign: char| sign.is_whitespace() || sign.is_control());
        let is_one_of = |methods: &[&str]| methods.iter().any(|known| known.eq_ignore_ascii_case(value));
        let is_another = !value.is_empty() && !value.eq_ignore_ascii_case(method.as_str());
        is_another && override_param(&name).is_some_and(|is_plain| !is_plain || is_one_of(&OVERRIDE_METHODS))
    })
}

/// Whether the parameter's name is plain `method`. `None` if it is not an override parameter.
fn override_param(name: &str) -> Option<bool> {
    let letters = || name.bytes().filter(u8::is_ascii_alphanumeric);
    let is = |known: &&str| letters().map(|byte| byte.to_ascii_lowercase()).eq(known.bytes());
    let known = OVERRIDE_PARAMS.iter().find(|known| is(known))?;
    Some(*known == "method" && letters().count() == name.len())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use proptest::prelude::{any, proptest};

    use super::{is_idempotent, is_overridden, is_overridden_in, is_safe};
    use crate::semantics::target::Target;

    #[test]
    fn method_override_parameters_are_distinguished_from_data() {
        for (query, is) in [
            ("_method=DELETE", true),
            ("page=1&_method=delete", true),
            ("_METHOD=put", true),
            ("%5fmethod=DELETE", true),
            ("_m%65thod=DELETE", true),
            ("_method=%44ELETE", true),
            ("a=1;_method=DELETE", true),
            ("_method_override=PATCH", true),
            ("_HttpMethod=DELETE", true),
            ("httpMethod=POST", true),
            ("X-HTTP-Method-Override=PATCH", true),
            ("x_http_method=MERGE", true),
            ("$method=PUT", true),
            ("_method=HEAD", true),
            ("method=delete", true),
            ("_method=DELETE%20", true),
            ("_method=%00delete", true),
            ("_method=FOO", true),
            ("x_method=DELETE", true),
            ("_method=GET", false),
            ("_method=get", false),
            ("_method=", false),
            ("_method", false),
            ("method=GET", false),
            ("method=flickr.photos.search", false),
            ("method=search", false),
            ("payment_method=POST", false),
            ("methods=DELETE", false),
            ("q=_method=DELETE", false),
            ("month=DELETE&with=method", false),
            ("page=1&limit=2", false),
            ("", false),
        ] {
            assert_eq!(is_overridden_in(query, &Method::GET), is, "{query}");
        }
        assert!(is_overridden_in("_method=GET", &Method::HEAD));
    }

    #[test]
    fn fields_and_the_query_may_override_a_method() {
        let plain = Target::absolute("http://h/_method=DELETE").unwrap();
        let overriding = Target::absolute("http://h/x?_method=DELETE").unwrap();
        let field = |name| HeaderMap::from_iter([(name, HeaderValue::from_static("DELETE"))]);
        let with = HeaderName::from_static("x-http-method-override");
        let other = HeaderName::from_static("x-other");
        for (target, headers, is) in [
            (&plain, HeaderMap::new(), false),
            (&plain, field(other), false),
            (&plain, field(with), true),
            (&overriding, HeaderMap::new(), true),
        ] {
            assert_eq!(is_overridden(&Method::GET, target, &headers), is);
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(query in any::<String>()) {
            let _either = is_overridden_in(&query, &Method::GET);
        }
    }

    #[test]
    fn unregistered_methods_are_neither_safe_nor_idempotent() {
        for (method, safe, idempotent) in [
            ("GET", true, true),
            ("HEAD", true, true),
            ("OPTIONS", true, true),
            ("TRACE", true, true),
            ("PROPFIND", true, true),
            ("REPORT", true, true),
            ("SEARCH", true, true),
            ("PUT", false, true),
            ("DELETE", false, true),
            ("PROPPATCH", false, true),
            ("MKCOL", false, true),
            ("POST", false, false),
            ("PATCH", false, false),
            ("LOCK", false, false),
            ("CONNECT", false, false),
            ("PURGE", false, false),
            ("UNHEARD-OF", false, false),
            // Methods are case-sensitive (RFC 9110 §9.1).
            ("get", false, false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!((is_safe(&method), is_idempotent(&method)), (safe, idempotent), "{method}");
        }
    }
}
