//! What a browser is told that asks below a mount: all mounts are one place to it, and the same as whatever
//! else listens on this host, though different origins answer there.
//!
//! Owns: the fields by which an answer would act for more than itself. Never touches: who may ask
//! (`front::page`).

use http::HeaderMap;
use http::header::{
    CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};

/// What an origin says for all of its host: cookies, what is stored there, who answers for it.
const FOR_THE_HOST: [HeaderName; 3] = [
    SET_COOKIE,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
];

/// A document is of no origin, and runs no script.
const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Keeps an answer to what it is itself, if a browser asks by a mount. Of which type it is does not matter: a
/// browser makes documents of many, and a page reads an answer as well.
pub(super) fn confine(in_browser: bool, headers: &mut HeaderMap) {
    if !in_browser {
        return;
    }
    for name in FOR_THE_HOST {
        headers.remove(name);
    }
    // Policies add up: the origin's own holds, too.
    headers.append(CONTENT_SECURITY_POLICY, SANDBOX);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
}
