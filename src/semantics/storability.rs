//! What the origin lets a cache keep (RFC 9111 §3), and which fields of it (§3.1).
//!
//! Owns: the rules of shared and private caches; the reasons for not storing.
//! Never touches: what a route adds or sets aside (`policy`), the store.

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, SET_COOKIE};

use crate::semantics::cache_control::Directive;
use crate::semantics::hop_by_hop;
use crate::semantics::response_metadata::CacheMetadata;

/// Whose rules apply (RFC 9111 §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheKind {
    /// The answers are for several users.
    Shared,
    /// The answers are for the one user that the key names.
    Private,
}

/// Why an answer is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotStoredReason {
    /// Only `GET` is stored.
    Method,
    /// The request said `no-store` (RFC 9111 §5.2.1.5).
    RequestNoStore,
    /// A status that is never stored, or not without being named.
    Status,
    /// A stream of events has no end to wait for.
    EventStream,
    /// `Vary: *` never matches (RFC 9111 §4.1).
    VaryAny,
    /// It belongs to a sign-in that counts for a connection (RFC 4559 §6).
    SignIn,
    /// `Set-Cookie`, and the route does not say what to do with it.
    SetCookie,
    /// The origin said `no-store` (RFC 9111 §5.2.2.5).
    NoStore,
    /// The origin said `private`, and the cache is shared (RFC 9111 §5.2.2.7).
    Private,
    /// The request had `Authorization`, and the origin did not allow sharing (RFC 9111 §3.5).
    Authorization,
    /// Nothing could ever reuse it: no lifetime, no window, no validator.
    NoFreshness,
    /// The body was cut short.
    Incomplete,
    /// The body is larger than the store takes.
    TooLarge,
    /// Too many bodies are in flight to keep this one.
    NoRoom,
    /// A rule looks into bodies, and there was no room to read this one, or it is too large for that: it may be an
    /// error.
    Unread,
}

impl NotStoredReason {
    /// The one name for it in logs, metrics and answers.
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
            Self::Unread => "unread",
        }
    }
}

impl NotStoredReason {
    /// Whether it might have been stored, and larder could not.
    pub fn is_for_want_of_room(self) -> bool {
        matches!(self, Self::Incomplete | Self::TooLarge | Self::NoRoom)
    }
}

/// The origin's prohibition that concerns the answer alone, if there is one.
pub fn forbidden(said: &CacheMetadata, kind: CacheKind) -> Option<NotStoredReason> {
    if said.no_store {
        return Some(NotStoredReason::NoStore);
    }
    match kind {
        CacheKind::Shared if said.cache_control.has(Directive::Private) => {
            Some(NotStoredReason::Private)
        }
        CacheKind::Shared | CacheKind::Private => None,
    }
}

/// Whether the request's `Authorization` keeps the answer out of a shared cache (RFC 9111 §3.5).
pub fn authorization_forbids(asked: &HeaderMap, said: &CacheMetadata, kind: CacheKind) -> bool {
    needs_leave(said, kind) && asked.contains_key(AUTHORIZATION)
}

/// Whether a shared cache may keep this for a request with `Authorization` only by the origin's
/// leave, which it does not give (RFC 9111 §3.5).
pub fn needs_leave(said: &CacheMetadata, kind: CacheKind) -> bool {
    let allowed = said.cache_control.has(Directive::Public)
        || said.cache_control.has(Directive::MustRevalidate)
        || said.cache_control.s_maxage.is_some();
    kind == CacheKind::Shared && !allowed
}

/// Whether the answer is a stream of server-sent events.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let media_type = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// The fields to keep (RFC 9111 §3.1): not those of one connection, nor those that `private` or
/// `no-cache` names. Leaving a named field out harms nobody, so no route sets that aside.
pub fn kept_fields(headers: &HeaderMap, said: &CacheMetadata, kind: CacheKind) -> HeaderMap {
    let mut kept = headers.clone();
    hop_by_hop::strip_response(&mut kept);
    leave_named_out(&mut kept, said, kind);
    kept
}

/// Leaves out the fields that `private` or `no-cache` names.
pub fn leave_named_out(kept: &mut HeaderMap, said: &CacheMetadata, kind: CacheKind) {
    for name in &said.cache_control.no_cache_fields {
        kept.remove(name);
    }
    match kind {
        CacheKind::Shared => {
            for name in &said.cache_control.private_fields {
                kept.remove(name);
            }
        }
        CacheKind::Private => {}
    }
}

/// Leaves `Set-Cookie` out.
pub fn strip_cookies(headers: &mut HeaderMap) {
    headers.remove(SET_COOKIE);
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::{HeaderMap, HeaderName, HeaderValue};

    use crate::semantics::response_metadata::CacheMetadata;
    use crate::semantics::storability::{
        CacheKind, NotStoredReason, authorization_forbids, forbidden, is_event_stream, kept_fields,
    };

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn directives(line: &'static str) -> CacheMetadata {
        CacheMetadata::of(StatusCode::OK, &map(&[("cache-control", line)]))
    }

    #[test]
    fn private_forbids_in_a_shared_cache_and_no_store_in_both() {
        for (line, shared, private) in [
            ("max-age=60", None, None),
            (
                "NO-STORE, max-age=60",
                Some(NotStoredReason::NoStore),
                Some(NotStoredReason::NoStore),
            ),
            ("max-age=60, Private", Some(NotStoredReason::Private), None),
            ("private, public", Some(NotStoredReason::Private), None),
            ("private=\"x\"", None, None),
            ("no-cache", None, None),
        ] {
            let said = directives(line);
            assert_eq!(forbidden(&said, CacheKind::Shared), shared, "{line}");
            assert_eq!(forbidden(&said, CacheKind::Private), private, "{line}");
        }
    }

    #[test]
    fn authorization_needs_the_origins_leave_in_a_shared_cache() {
        // RFC 9111 §3.5.
        let asked = map(&[("authorization", "Bearer a")]);
        for (line, forbids) in [
            ("max-age=60", true),
            ("proxy-revalidate, max-age=60", true),
            ("public, max-age=60", false),
            ("s-maxage=60", false),
            ("must-revalidate, max-age=60", false),
        ] {
            let said = directives(line);
            assert_eq!(authorization_forbids(&asked, &said, CacheKind::Shared), forbids, "{line}");
            assert!(!authorization_forbids(&asked, &said, CacheKind::Private), "{line}");
            assert!(!authorization_forbids(&map(&[]), &said, CacheKind::Shared), "{line}");
        }
    }

    #[test]
    fn every_field_is_kept_but_those_of_the_connection_and_those_named() {
        // RFC 9111 §3.1.
        let headers = map(&[
            ("cache-control", "private=\"x-mine\", no-cache=\"x-fresh\""),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("x-mine", "1"),
            ("x-fresh", "1"),
            ("x-else", "1"),
            ("content-security-policy", "default-src 'none'"),
            ("content-type", "a/b"),
        ]);
        let said = CacheMetadata::of(StatusCode::OK, &headers);
        let names = |kind| {
            let kept = kept_fields(&headers, &said, kind);
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

    #[test]
    fn event_streams_are_known_by_their_media_type() {
        for (value, expected) in [
            ("text/event-stream", true),
            ("Text/Event-Stream ; charset=utf-8", true),
            ("text/event-streams", false),
            ("application/json", false),
        ] {
            assert_eq!(is_event_stream(&map(&[("content-type", value)])), expected, "{value}");
        }
        assert!(!is_event_stream(&map(&[])));
    }
}
