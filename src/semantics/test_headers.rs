//! Header fields for unit tests.
//!
//! Owns: building them from names and values. Never touches: their meaning.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The fields in this order; a name may occur more than once.
pub(crate) fn header_map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}
