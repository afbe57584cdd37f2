//! Response fields for browsers below a mount. For a browser all mounts are one origin, although different
//! APIs respond there. Some state, such as cookies, is even shared with all other ports of this host.
//!
//! Owns: the fields with which a response would affect more than itself. Never touches: access control
//! (`frontend::web_page`).

use http::HeaderMap;
use http::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, SET_COOKIE, X_CONTENT_TYPE_OPTIONS};

/// Fields that affect the whole host: cookies, stored data, service workers.
const HOST_WIDE: [HeaderName; 3] = [
    SET_COOKIE,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
];

/// A sandboxed document has an opaque origin and runs no script.
const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Restricts the effects of a response to a browser below a mount. The media type does not matter: browsers
/// render many types as documents, and pages can read any response.
pub(super) fn confine(in_browser: bool, headers: &mut HeaderMap) {
    if !in_browser {
        return;
    }
    for name in HOST_WIDE {
        headers.remove(name);
    }
    // Policies are cumulative: the origin's own policy also applies.
    headers.append(CONTENT_SECURITY_POLICY, SANDBOX);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
}
