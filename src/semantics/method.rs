//! Methods as IANA's registry has them (RFC 9110 §16.1).
//!
//! Owns: which methods are safe and which may be repeated. What is not registered is neither.
//! Never touches: what a route says about methods.

use http::{HeaderMap, Method};

use crate::semantics::spelling;

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
const OVERRIDES: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-method",
    "x-original-method",
    "x-restli-method",
];

/// Whether a request names another method than its own.
pub fn is_overridden(headers: &HeaderMap) -> bool {
    // Every request asks: looking at its names costs less than looking for these.
    headers
        .keys()
        .any(|name| name.as_str().starts_with('x') && spelling::names_one_of(name, &OVERRIDES))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::{is_idempotent, is_safe};

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
