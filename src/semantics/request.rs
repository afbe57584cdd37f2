//! The request as larder understood it: a clean value that everything behind the door works on.
//!
//! Owns: the shape of a request after the front door has normalised it.
//! Never touches: bytes on the wire, sessions, policy.

use std::fmt;
use std::net::SocketAddr;

use http::header::EXPECT;
use http::{HeaderMap, HeaderValue, Method, Version};

use crate::semantics::cache_control::RequestCacheControl;
use crate::semantics::method;
use crate::semantics::target::Target;

/// A request after the front door: target made absolute, hop-by-hop fields and `Host` removed.
/// `Debug` shows no field value and no query value: any of them may be a credential.
#[derive(Clone)]
pub struct ProxyRequest {
    /// The method, as sent (RFC 9110 §9: case-sensitive).
    pub method: Method,
    /// What is asked for; its authority wins over any `Host` (RFC 9112 §3.2.2).
    pub target: Target,
    /// End-to-end fields only; neither `Host` nor anything of RFC 9110 §7.6.1.
    pub headers: HeaderMap,
    /// The version the client speaks.
    pub version: Version,
    /// Who asks; `None` for larder's own background calls.
    pub client: Option<SocketAddr>,
    /// Which kind of listener it came through.
    pub listener: ListenerKind,
    /// What body follows the head.
    pub body: RequestFraming,
    /// The protocols that the client asks to switch to (`Connection: upgrade`), if it does.
    pub upgrade: Option<HeaderValue>,
    /// Whether the client reads trailer fields (`TE: trailers`, RFC 9110 §10.1.4).
    pub trailers: bool,
    /// The origin of a web page of another site, which asks by a mount that lets it in.
    pub page: Option<HeaderValue>,
    /// A browser asks by a mount: what the origin says to browsers is not for all that larder serves.
    pub in_browser: bool,
}

/// How a request's body is framed (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFraming {
    /// No body.
    None,
    /// `Content-Length` bytes, more than 0.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Which kind of listener a request came through: it bounds where larder may go for it, and
/// answers fetched for one kind are not shown to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// Only this host can connect: larder gives its app no more reach than it has anyway.
    Loopback,
    /// Other hosts can connect.
    Reachable,
}

impl ProxyRequest {
    /// A plain `GET` without fields, from nobody, with the narrower reach of the two kinds of
    /// listener: what larder's own calls start from.
    pub fn get(target: Target) -> Self {
        Self {
            method: Method::GET,
            target,
            headers: HeaderMap::new(),
            version: Version::HTTP_11,
            client: None,
            listener: ListenerKind::Reachable,
            body: RequestFraming::None,
            upgrade: None,
            trailers: false,
            page: None,
            in_browser: false,
        }
    }

    /// Whether the client waits for leave before it sends its body (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.headers.get(EXPECT).is_some_and(|expected| {
            expected.as_bytes().trim_ascii().eq_ignore_ascii_case(b"100-continue")
        })
    }

    /// Whether a field or the query names another method than the request's own: some frameworks go by that.
    pub fn is_overridden(&self) -> bool {
        method::is_overridden(&self.method, &self.target, &self.headers)
    }

    /// Whether making the request twice is meant to do what making it once does.
    pub fn is_idempotent(&self) -> bool {
        method::is_idempotent(&self.method) && !self.is_overridden()
    }

    /// The request's own cache directives (RFC 9111 §5.2.1).
    pub fn cache_control(&self) -> RequestCacheControl {
        RequestCacheControl::of(&self.headers)
    }
}

impl fmt::Debug for ProxyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.keys().map(http::HeaderName::as_str).collect();
        f.debug_struct("Asked")
            .field("method", &self.method)
            .field("target", &self.target)
            .field("fields", &names)
            .field("version", &self.version)
            .field("client", &self.client)
            .field("listener", &self.listener)
            .field("body", &self.body)
            .field("upgrade", &self.upgrade.is_some())
            .field("trailers", &self.trailers)
            .field("page", &self.page)
            .field("in_browser", &self.in_browser)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::semantics::request::ProxyRequest;
    use crate::semantics::target::Target;

    #[test]
    fn debug_names_fields_and_shows_no_value() {
        let target = Target::absolute("http://h/p?token=s3cret").unwrap();
        let mut asked = ProxyRequest::get(target);
        asked.headers.insert("authorization", "Bearer s3cret".parse().unwrap());
        let shown = format!("{asked:?}");
        assert!(shown.contains("GET") && shown.contains("http://h/p?token=…"), "{shown}");
        assert!(shown.contains("authorization"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
