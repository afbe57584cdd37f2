//! Methods as IANA's registry has them (RFC 9110 §16.1).
//!
//! Owns: which methods are safe and which may be repeated, and whether a request means another than its own.
//! What is not registered is neither.
//! Never touches: what a route says about methods.

use http::{HeaderMap, HeaderName, Method};

use crate::semantics::byte_search::{has_byte, has_three_in_any_case};
use crate::semantics::field_case;
use crate::semantics::query::{decoded, pieces};
use crate::semantics::target::Target;

/// Registered as safe (RFC 9110 §9.2.1). `QUERY` is on its way into the registry.
const SAFE: [&str; 9] =
    ["GET", "HEAD", "OPTIONS", "TRACE", "PRI", "PROPFIND", "REPORT", "SEARCH", "QUERY"];

/// Registered as idempotent beyond those (RFC 9110 §9.2.2).
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

/// Whether the method only asks. Any other may have changed something.
pub fn is_safe(method: &Method) -> bool {
    SAFE.contains(&method.as_str())
}

/// Whether making the request twice is meant to do what making it once does.
pub fn is_idempotent(method: &Method) -> bool {
    is_safe(method) || IDEMPOTENT.contains(&method.as_str())
}

/// Fields by which some frameworks let a client name another method than the one it uses.
const OVERRIDES: [&str; 13] = [
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

/// Query parameters by which some do so, in small letters and without signs: `_method` (Rails, Laravel, Symfony),
/// `X-HTTP-Method-Override` (Google), `_method_override`, `httpMethod`.
const PARAMS: [&str; 9] = [
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

/// What `method` alone has to say to count (Facebook, Akka): many an API calls its functions so.
const OVERRIDING: [&str; 4] = ["DELETE", "PATCH", "POST", "PUT"];

/// Whether a request names another method than its own.
pub fn is_overridden(method: &Method, target: &Target, headers: &HeaderMap) -> bool {
    // Every request asks: looking at its names costs less than looking for these.
    let overrides = |name: &HeaderName| {
        name.as_str().starts_with(['x', 'h', 'm']) && field_case::names_one_of(name, &OVERRIDES)
    };
    headers.keys().any(overrides)
        || target.query().is_some_and(|query| is_overridden_in(query, method))
}

/// The same of its query alone.
fn is_overridden_in(query: &str, method: &Method) -> bool {
    // Few queries have anything of that kind: in most there is no `tho`, and nothing encoded.
    if !has_three_in_any_case(query, *b"tho") && !has_byte(query, |byte| byte == b'%') {
        return false;
    }
    query.split('&').flat_map(pieces).any(|(name, value)| {
        let value = value.map(decoded).unwrap_or_default();
        let value = value.trim_matches(|sign: char| sign.is_whitespace() || sign.is_control());
        let named = |methods: &[&str]| methods.iter().any(|one| one.eq_ignore_ascii_case(value));
        let is_another = !value.is_empty() && !value.eq_ignore_ascii_case(method.as_str());
        is_another && param(&name).is_some_and(|bare| !bare || named(&OVERRIDING))
    })
}

/// Whether a parameter of this name is `method` alone; `None`: it names no method.
fn param(name: &str) -> Option<bool> {
    let letters = || name.bytes().filter(u8::is_ascii_alphanumeric);
    let is = |known: &&str| letters().map(|byte| byte.to_ascii_lowercase()).eq(known.bytes());
    let known = PARAMS.iter().find(|known| is(known))?;
    Some(*known == "method" && letters().count() == name.len())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use proptest::prelude::{any, proptest};

    use super::{is_idempotent, is_overridden, is_overridden_in, is_safe};
    use crate::semantics::target::Target;

    #[test]
    fn a_parameter_that_names_another_method_is_told_from_data() {
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
        let named = Target::absolute("http://h/x?_method=DELETE").unwrap();
        let field = |name| HeaderMap::from_iter([(name, HeaderValue::from_static("DELETE"))]);
        let with = HeaderName::from_static("x-http-method-override");
        let other = HeaderName::from_static("x-other");
        for (target, headers, is) in [
            (&plain, HeaderMap::new(), false),
            (&plain, field(other), false),
            (&plain, field(with), true),
            (&named, HeaderMap::new(), true),
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
    fn methods_are_as_registered_and_unknown_ones_are_neither() {
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
