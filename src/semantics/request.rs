//! The normalised request that all later stages work on.
//!
//! Owns: the data of a request after the frontend has normalised it.
//! Never touches: bytes on the wire, sessions, policy.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::EXPECT;
use http::{HeaderMap, HeaderValue, Method, Version};

use crate::semantics::cache_control::RequestCacheControl;
use crate::semantics::event_stream;
use crate::semantics::method;
use crate::semantics::mount_location::MountPoint;
use crate::semantics::target::Target;

/// A request after the frontend has made its target absolute and removed hop-by-hop fields and `Host`.
/// `Debug` shows neither field values nor query values, because any of them may be a credential.
#[derive(Clone)]
pub struct ProxyRequest {
    /// The method, as sent (RFC 9110 §9: case-sensitive).
    pub method: Method,
    /// The target; its authority takes precedence over any `Host` (RFC 9112 §3.2.2).
    pub target: Target,
    /// End-to-end fields only, without `Host` and without the fields of RFC 9110 §7.6.1.
    pub headers: HeaderMap,
    /// The HTTP version of the client's request.
    pub version: Version,
    /// The client's address; `None` for larder's own background calls.
    pub client: Option<SocketAddr>,
    /// The kind of listener that received the request.
    pub listener: ListenerKind,
    /// The framing of the body after the head.
    pub body: RequestFraming,
    /// The protocols that the client requests to switch to (`Connection: upgrade`), if any.
    pub upgrade: Option<HeaderValue>,
    /// Whether the client accepts trailer fields (`TE: trailers`, RFC 9110 §10.1.4).
    pub trailers: bool,
    /// The web origin of the requesting page, if it is on another site that the mount allows.
    pub page: Option<HeaderValue>,
    /// Whether a browser sends the request through a mount. The origin's instructions to browsers must then
    /// not affect the other resources on larder's host.
    pub in_browser: bool,
    /// The mount below which the client has sent it, if it did.
    pub mount: Option<Arc<MountPoint>>,
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

/// The kind of listener that received a request. It limits the destinations that larder may connect to, and
/// responses fetched for one kind are not served to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// Only this host can connect, so a client cannot reach more destinations through larder than without it.
    Loopback,
    /// Other hosts can connect.
    Reachable,
}

impl ProxyRequest {
    /// A plain `GET` without fields and without a client, with the more restricted kind of listener. Larder's
    /// own calls start from it.
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
            mount: None,
        }
    }

    /// Whether the client waits for a 100 response before it sends its body (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.headers
            .get(EXPECT)
            .is_some_and(|expected| expected.as_bytes().trim_ascii().eq_ignore_ascii_case(b"100-continue"))
    }

    /// Whether the response may be a stream without an end: it may pause, so inactivity is no failure.
    pub fn expects_stream(&self) -> bool {
        self.upgrade.is_some() || event_stream::is_requested(&self.headers)
    }

    /// Whether a field or the query overrides the method of the request, which some frameworks support.
    pub fn is_overridden(&self) -> bool {
        method::is_overridden(&self.method, &self.target, &self.headers)
    }

    /// Whether repeating the request is defined to have the same effect as sending it once.
    pub fn is_idempotent(&self) -> bool {
        method::is_idempotent(&self.method) && !self.is_overridden()
    }

    /// The request's own cache directives (RFC 9111 §5.2.1).
    pub fn cache_control(&self) -> RequestCacheControl {
        RequestCacheControl::from_request(&self.headers)
    }
}

impl fmt::Debug for ProxyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.keys().map(http::HeaderName::as_str).collect();
        f.debug_struct("ProxyRequest")
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
            .field("mount", &self.mount.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::semantics::request::ProxyRequest;
    use crate::semantics::target::Target;

    #[test]
    fn debug_shows_field_names_and_no_values() {
        let target = Target::absolute("http://h/p?token=s3cret").unwrap();
        let mut request = ProxyRequest::get(target);
        request.headers.insert("authorization", "Bearer s3cret".parse().unwrap());
        let shown = format!("{request:?}");
        assert!(shown.contains("GET") && shown.contains("http://h/p?token=…"), "{shown}");
        assert!(shown.contains("authorization"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
