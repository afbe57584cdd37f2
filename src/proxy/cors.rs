//! CORS for web pages of other origins that a mount admits (Fetch Standard, "CORS protocol").
//!
//! Owns: larder's response to a preflight, and the fields with which a browser lets the page read a
//! response. Never touches: the choice of the admitted pages (`frontend::web_page`).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::semantics::request::ProxyRequest;

/// The time for which a browser may cache the response to a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const ANY: HeaderValue = HeaderValue::from_static("*");

/// The request of a page of a public site for access to this host (Private Network Access).
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The fields of larder's own response to a preflight.
const PREFLIGHT_FIELDS: [HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    ALLOW_PRIVATE_NETWORK,
];

/// Whether the request is a preflight of an admitted page.
pub(super) fn is_preflight(request: &ProxyRequest) -> bool {
    request.page.is_some()
        && request.method == Method::OPTIONS
        && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Adds the fields that let the page read the response. They replace those of the API, which apply to the
/// API's own site and not to larder.
pub(super) fn add_response_fields(request: &ProxyRequest, headers: &mut HeaderMap) {
    let Some(page) = &request.page else { return };
    // The API grants access to other pages, and with the cookies of its own site.
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("access-control-") && !PREFLIGHT_FIELDS.contains(name))
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANY);
    headers.append(VARY, HeaderValue::from(ORIGIN));
}

/// The fields of larder's response to a preflight: the page may send any request, as any program may.
pub(super) fn preflight_fields(request: &ProxyRequest) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let requested = |name| request.headers.get(name).cloned();
    if let Some(method) = requested(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
    }
    if let Some(names) = requested(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    if request.headers.contains_key(REQUEST_PRIVATE_NETWORK) {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    headers
}
