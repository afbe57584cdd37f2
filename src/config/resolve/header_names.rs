//! Secrets in requests (`credential_headers`, `secret_query`, `secret_path`), and the names of fields and
//! query parameters for all keys that take one.
//!
//! Owns: which names are valid for which key. Never touches: built-in credentials (`key`).

use http::HeaderName;

use crate::config::defaults::SECRET_QUERY;
use crate::config::diagnostics::ValueError;
use crate::config::reader::{Reader, Section};
use crate::key;
use crate::semantics::redaction::SecretPath;
use crate::semantics::targeted_cache_control::is_targeted;

/// Fields that are hop-by-hop or are replaced before routes are matched (RFC 9110 §7.6.1).
const NEVER_SEEN: [&str; 12] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "expect",
];

/// `credential_headers`.
pub(super) fn credential_headers(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<HeaderName> {
    top.values(reader, "credential_headers", name)
}

/// The built-in list, then `secret_query`.
pub(super) fn secret_query(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<String> {
    let mut all: Vec<String> = SECRET_QUERY.iter().map(|name| (*name).to_owned()).collect();
    for name in top.values(reader, "secret_query", param) {
        let name = name.to_ascii_lowercase();
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// `secret_path`.
pub(super) fn secret_path(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<SecretPath> {
    top.values(reader, "secret_path", |text| {
        let wanted = "a path with a capture";
        SecretPath::parse(text).map_err(|error| ValueError::new(wanted, error.to_string(), error.fix()))
    })
}

/// Parses a field name (RFC 9110 §5.1). `*` is a valid character, but no field in use has it: the operator
/// intends a wildcard, and the name would match no field.
pub(super) fn field(text: &str, wanted: &'static str) -> Result<HeaderName, ValueError> {
    if text.contains('*') {
        return Err(ValueError::new(wanted, IS_A_WILDCARD, "name each field by itself"));
    }
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| ValueError::is_not(wanted))
}

const IS_A_WILDCARD: &str = "is a wildcard, but names are compared literally";

/// Parses the name of a field that routes and keys can match.
pub(super) fn name(text: &str) -> Result<HeaderName, ValueError> {
    let wanted = "the name of a request field";
    let name = field(text, wanted)?;
    if name == http::header::HOST {
        let fix = "match it with `host`; it is part of every key";
        return Err(ValueError::new(wanted, "is taken from the target, not from the field", fix));
    }
    if NEVER_SEEN.contains(&name.as_str()) {
        let fix = "it describes one connection or body, not the request: remove it";
        return Err(ValueError::new(wanted, "never reaches a route or key", fix));
    }
    Ok(name)
}

/// Parses the name of a field of responses.
pub(super) fn of_response(text: &str) -> Result<HeaderName, ValueError> {
    field(text, "the name of a response field")
}

/// Parses the name of a field that a key may ignore: not a credential, and not a field by which an origin may
/// select another resource.
pub(super) fn ignorable(text: &str) -> Result<HeaderName, ValueError> {
    let name = name(text)?;
    if key::is_credential_by_name(&name) {
        let what = "is a credential: one user would receive another user's response";
        let fix = "leave it out here; use `scope: shared` if all clients may share the responses";
        return Err(ValueError::new("the name of a request field", what, fix));
    }
    if key::rewrites_the_target(&name) {
        let what = "can make the origin respond for another host or path, for all clients";
        return Err(ValueError::new("the name of a request field", what, "leave it out here"));
    }
    Ok(name)
}

/// Parses the name of a field that can carry a credential to an origin.
pub(super) fn credential_header(text: &str) -> Result<HeaderName, ValueError> {
    let wanted = "the name of a request field";
    let name = field(text, wanted)?;
    if NEVER_SEEN.contains(&name.as_str()) {
        let what = "controls the framing, the destination or the connection of a request";
        let fix = "name the field that the API requires, such as `Authorization`";
        return Err(ValueError::new(wanted, what, fix));
    }
    Ok(name)
}

/// Parses the name of a targeted cache-control field (RFC 9213).
pub(super) fn targeted(text: &str) -> Result<HeaderName, ValueError> {
    let wanted = "the name of a targeted field";
    let name = field(text, wanted)?;
    if is_targeted(&name) {
        return Ok(name);
    }
    let fix = "write a name that ends in `-Cache-Control`, such as `CDN-Cache-Control`";
    Err(ValueError::new(wanted, format!("is not {wanted}"), fix))
}

/// Parses the name of a query parameter, decoded.
pub(super) fn param(text: &str) -> Result<String, ValueError> {
    let wanted = "the name of a query parameter";
    if text.contains('*') {
        return Err(ValueError::new(wanted, IS_A_WILDCARD, "name each parameter by itself"));
    }
    if text.is_empty() || text.contains(['&', '=', ';', '?', '#']) {
        return Err(ValueError::new(wanted, format!("is not {wanted}"), "write the name alone, decoded"));
    }
    Ok(text.to_owned())
}
