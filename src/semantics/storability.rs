//! Responses that a cache may store (RFC 9111 §3), and the fields that it may store (§3.1).
//!
//! Owns: the rules of shared and private caches; the reasons for not storing.
//! Never touches: a route's additions and exceptions (`policy`), the store.

use http::HeaderMap;
use http::header::{AUTHORIZATION, SET_COOKIE};

use crate::semantics::cache_control::Directive;
use crate::semantics::hop_by_hop;
use crate::semantics::response_metadata::CacheMetadata;

/// The kind of cache, which determines the rules (RFC 9111 §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheKind {
    /// The responses are for several users.
    Shared,
    /// The responses are for the one user in the cache key.
    Private,
}

/// The reason why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotStoredReason {
    /// Only responses to `GET` and `HEAD` are stored.
    Method,
    /// The request has `no-store` (RFC 9111 §5.2.1.5).
    RequestNoStore,
    /// A status that is never stored, or only if a route names it.
    Status,
    /// A stream of server-sent events does not end.
    EventStream,
    /// `Vary: *` never matches (RFC 9111 §4.1).
    VaryAny,
    /// It belongs to an authentication of the connection (RFC 4559 §6).
    SignIn,
    /// It has `Set-Cookie`, and the route does not configure how to treat it.
    SetCookie,
    /// The response has `no-store` (RFC 9111 §5.2.2.5).
    NoStore,
    /// The response has `private`, and the cache is shared (RFC 9111 §5.2.2.7).
    Private,
    /// The request had `Authorization`, and the origin did not allow sharing (RFC 9111 §3.5).
    Authorization,
    /// The response could never be reused: it has no lifetime, no stale window and no validator.
    NoFreshness,
    /// The body is incomplete.
    Incomplete,
    /// The body is larger than the store accepts.
    TooLarge,
    /// Too many bodies are in flight to buffer this one.
    NoRoom,
    /// A rule inspects bodies, but this one was too large or there was no buffer space for it, so it may be
    /// an error.
    NotInspected,
}

impl NotStoredReason {
    /// The token in logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::RequestNoStore => "request-no-store",
            Self::Status => "status",
            Self::EventStream => "event-stream",
            Self::VaryAny => "vary-any",
            Self::SignIn => "sign-in",
            Self::SetCookie => "set-cookie",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::NoFreshness => "no-freshness",
            Self::Incomplete => "incomplete",
            Self::TooLarge => "too-large",
            Self::NoRoom => "no-room",
            Self::NotInspected => "unread",
        }
    }
}

impl NotStoredReason {
    /// Whether the response was storable, but larder could not store it.
    pub fn is_storage_failure(self) -> bool {
        matches!(self, Self::Incomplete | Self::TooLarge | Self::NoRoom)
    }
}

/// The origin's prohibition by the response alone, without regard to the request, if there is one.
///
/// ```
/// # use http::{HeaderMap, HeaderValue, StatusCode, header::CACHE_CONTROL};
/// use larder::semantics::response_metadata::CacheMetadata;
/// use larder::semantics::storability::{CacheKind, NotStoredReason, origin_prohibition};
///
/// let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("private"))]);
/// let metadata = CacheMetadata::from_response(StatusCode::OK, &headers);
/// assert_eq!(origin_prohibition(&metadata, CacheKind::Shared), Some(NotStoredReason::Private));
/// assert_eq!(origin_prohibition(&metadata, CacheKind::Private), None);
/// ```
pub fn origin_prohibition(metadata: &CacheMetadata, kind: CacheKind) -> Option<NotStoredReason> {
    if metadata.no_store {
        return Some(NotStoredReason::NoStore);
    }
    match kind {
        CacheKind::Shared if metadata.cache_control.has(Directive::Private) => Some(NotStoredReason::Private),
        CacheKind::Shared | CacheKind::Private => None,
    }
}

/// Whether the request's `Authorization` keeps the response out of a shared cache (RFC 9111 §3.5).
pub fn authorization_forbids(request: &HeaderMap, metadata: &CacheMetadata, kind: CacheKind) -> bool {
    lacks_permission(metadata, kind) && request.contains_key(AUTHORIZATION)
}

/// Whether a shared cache may not store the response to a request with `Authorization`, because the origin
/// does not give the required permission (RFC 9111 §3.5).
pub fn lacks_permission(metadata: &CacheMetadata, kind: CacheKind) -> bool {
    let allowed = metadata.cache_control.has(Directive::Public)
        || metadata.cache_control.has(Directive::MustRevalidate)
        || metadata.cache_control.s_maxage.is_some();
    kind == CacheKind::Shared && !allowed
}

/// The fields to store (RFC 9111 §3.1): all but hop-by-hop fields and those that `private` or `no-cache`
/// names. A route cannot override this, because a missing named field does no harm.
pub fn storable_fields(headers: &HeaderMap, metadata: &CacheMetadata, kind: CacheKind) -> HeaderMap {
    let mut kept = headers.clone();
    hop_by_hop::strip(&mut kept);
    remove_named_fields(&mut kept, metadata, kind);
    kept
}

/// Removes the fields that `private` or `no-cache` names.
pub fn remove_named_fields(kept: &mut HeaderMap, metadata: &CacheMetadata, kind: CacheKind) {
    for name in &metadata.cache_control.no_cache_fields {
        kept.remove(name);
    }
    match kind {
        CacheKind::Shared => {
            for name in &metadata.cache_control.private_fields {
                kept.remove(name);
            }
        }
        CacheKind::Private => {}
    }
}

/// Removes `Set-Cookie`.
pub fn strip_cookies(headers: &mut HeaderMap) {
    headers.remove(SET_COOKIE);
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use crate::semantics::response_metadata::CacheMetadata;
    use crate::semantics::storability::{
        CacheKind, NotStoredReason, authorization_forbids, origin_prohibition, storable_fields,
    };
    use crate::semantics::test_headers::header_map;

    fn directives(line: &'static str) -> CacheMetadata {
        CacheMetadata::from_response(StatusCode::OK, &header_map(&[("cache-control", line)]))
    }

    #[test]
    fn private_forbids_in_a_shared_cache_and_no_store_in_both() {
        for (line, shared, private) in [
            ("max-age=60", None, None),
            ("NO-STORE, max-age=60", Some(NotStoredReason::NoStore), Some(NotStoredReason::NoStore)),
            ("max-age=60, Private", Some(NotStoredReason::Private), None),
            ("private, public", Some(NotStoredReason::Private), None),
            ("private=\"x\"", None, None),
            ("no-cache", None, None),
        ] {
            let metadata = directives(line);
            assert_eq!(origin_prohibition(&metadata, CacheKind::Shared), shared, "{line}");
            assert_eq!(origin_prohibition(&metadata, CacheKind::Private), private, "{line}");
        }
    }

    #[test]
    fn authorization_needs_the_origins_permission_in_a_shared_cache() {
        // RFC 9111 §3.5.
        let request = header_map(&[("authorization", "Bearer a")]);
        for (line, forbids) in [
            ("max-age=60", true),
            ("proxy-revalidate, max-age=60", true),
            ("public, max-age=60", false),
            ("s-maxage=60", false),
            ("must-revalidate, max-age=60", false),
        ] {
            let metadata = directives(line);
            assert_eq!(authorization_forbids(&request, &metadata, CacheKind::Shared), forbids, "{line}");
            assert!(!authorization_forbids(&request, &metadata, CacheKind::Private), "{line}");
            assert!(!authorization_forbids(&header_map(&[]), &metadata, CacheKind::Shared), "{line}");
        }
    }

    #[test]
    fn all_but_hop_by_hop_and_named_fields_are_stored() {
        // RFC 9111 §3.1.
        let headers = header_map(&[
            ("cache-control", "private=\"x-mine\", no-cache=\"x-fresh\""),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("x-mine", "1"),
            ("x-fresh", "1"),
            ("x-else", "1"),
            ("content-security-policy", "default-src 'none'"),
            ("content-type", "a/b"),
        ]);
        let metadata = CacheMetadata::from_response(StatusCode::OK, &headers);
        let names = |kind| {
            let kept = storable_fields(&headers, &metadata, kind);
            let mut names: Vec<_> = kept.keys().map(|name| name.as_str().to_owned()).collect();
            names.sort();
            names
        };
        let shared = ["cache-control", "content-security-policy", "content-type", "x-else"];
        assert_eq!(names(CacheKind::Shared), shared);
        let mut private = shared.to_vec();
        private.push("x-mine");
        assert_eq!(names(CacheKind::Private), private);
    }
}
