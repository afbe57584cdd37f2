//! One call on one connection to an origin: sends the request while it reads the response.
//!
//! Owns: the common parts of both HTTP versions, and the limits on responses. Fills and pass-through both use
//! it, so a response that is rejected here is rejected for both.
//! Never touches: clients, the store, retries (`client`).

pub mod http1;
pub mod http2;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use crate::semantics::field_case::FieldCase;
use crate::semantics::request::{ListenerKind, RequestFraming};
use crate::upstream::BodyFraming;
use crate::upstream::connect::session::http1::Http1Call;
use crate::upstream::connect::session::http2::Http2Call;
use crate::upstream::connect::tls_error::TlsError;
use crate::upstream::outcome::error::UpstreamError;

/// Limit on the bytes of a response head, names and values.
pub(in crate::upstream) const MAX_HEAD_BYTES: usize = 256 * 1024;

/// Limit on the number of fields in a response head.
pub(in crate::upstream) const MAX_HEAD_FIELDS: usize = 256;

/// Limit on the number of interim (1xx) responses before the final one.
const MAX_INTERIM: usize = 16;

/// The request of a call, ready to be written.
#[derive(Debug, Clone)]
pub struct OutgoingRequest {
    /// The method.
    pub method: Method,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The authority: `Host`, or `:authority`.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// The kind of listener that received the request; it limits the permitted destinations.
    pub listener: ListenerKind,
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// The letter case of their names, which HTTP/1 preserves.
    pub spelling: FieldCase,
    /// The framing of the body that follows.
    pub body: RequestFraming,
    /// The protocols to which the client requests a switch.
    pub upgrade: Option<HeaderValue>,
    /// Whether trailer fields are accepted.
    pub trailers: bool,
}

impl OutgoingRequest {
    /// The request as a proxy gets it (RFC 9112 §3.2.2, §3.2.4), with larder's credential for the proxy.
    pub(in crate::upstream) fn in_absolute_form(&self, authorization: Option<HeaderValue>) -> Self {
        let path = if self.path == "*" { "" } else { &self.path };
        let mut request = self.clone();
        request.path = format!("{}://{}{path}", self.scheme, self.authority);
        request.headers.extend(authorization.map(|value| (PROXY_AUTHORIZATION, value)));
        request
    }
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct UpstreamHead {
    /// The status.
    pub status: StatusCode,
    /// The protocol version of the response.
    pub version: Version,
    /// The fields as received, hop-by-hop ones included.
    pub headers: HeaderMap,
    /// The letter case of their names as received.
    pub spelling: FieldCase,
    /// How the body is delimited.
    pub framing: BodyFraming,
    /// Whether the response ends with its head.
    pub ended: bool,
}

/// The next part of a request body to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestPart {
    /// Body bytes.
    Data(Bytes),
    /// The end of the body.
    End,
}

/// The next event of a call.
#[derive(Debug)]
pub enum SessionEvent {
    /// All queued request bytes have been written; the next part may be sent.
    SendReady,
    /// The head of an interim or final response.
    Head(Box<UpstreamHead>),
    /// A piece of the response body, never empty.
    Data(Bytes),
    /// The response is complete. Contains its trailer fields, if any.
    End(Option<HeaderMap>),
}

/// Why one attempt ended without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptError {
    /// A pooled connection turned out to be dead before any response byte arrived.
    DeadConnection,
    /// The origin did not process the request.
    NotProcessed,
    /// The call was not made: the connection on which its client had signed in has ended.
    SignedOut,
    /// Any other error; it is not retried transparently.
    Failed(UpstreamError),
}

impl AttemptError {
    /// The error that the call ends with if it is not retried.
    pub fn upstream_error(self) -> UpstreamError {
        match self {
            Self::DeadConnection | Self::SignedOut => UpstreamError::Closed,
            Self::NotProcessed => UpstreamError::NotProcessed,
            Self::Failed(failure) => failure,
        }
    }
}

/// Why a call cannot continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The origin reported that it has not processed the request (RFC 9113 §8.7), or nothing was sent.
    #[error("the origin has not processed the request")]
    NotProcessed,
    /// The origin ended the connection with a TLS alert.
    #[error("the origin ended the TLS session")]
    Tls(TlsError),
    /// The connection ended before the first byte of a response.
    #[error("the connection ended before a response")]
    Closed,
    /// The connection ended, or the stream was reset, inside a response.
    #[error("the response was truncated")]
    Cut,
    /// The origin has switched to another protocol without a request to do so (RFC 9110 §15.2.2).
    #[error("the origin switched protocols unrequested")]
    Switched,
    /// The parent proxy requires another user and password (407).
    #[error("the parent proxy requires authentication")]
    ParentAuthentication,
    /// The response is not valid HTTP, is ambiguous, or exceeds a limit.
    #[error("the response is not valid HTTP")]
    Protocol,
}

/// A call on a connection.
pub enum UpstreamSession {
    /// HTTP/1.
    Http1(Box<Http1Call>),
    /// HTTP/2.
    Http2(Box<Http2Call>),
}

impl UpstreamSession {
    /// The next event; without `read_response` only [`SessionEvent::SendReady`]. Queued request bytes are
    /// written while this waits. The future may be dropped at any time.
    pub async fn next(&mut self, read_response: bool) -> Result<SessionEvent, SessionError> {
        match self {
            Self::Http1(session) => session.next(read_response).await,
            Self::Http2(session) => session.next(read_response).await,
        }
    }

    /// Keeps further calls off a shared connection, because the origin has been silent for too long.
    pub fn stop_reuse(&self) {
        if let Self::Http2(session) = self {
            session.stop_reuse();
        }
    }

    /// Whether the origin requires HTTP/1.1 for this request (RFC 9113 §7).
    pub fn requires_http1(&self) -> bool {
        matches!(self, Self::Http2(session) if session.requires_http1())
    }

    /// Whether [`UpstreamSession::send`] may be called.
    pub fn can_send(&self) -> bool {
        match self {
            Self::Http1(session) => session.can_send(),
            Self::Http2(session) => session.can_send(),
        }
    }

    /// Queues the next part of the request body, which is written while [`UpstreamSession::next`] is awaited.
    pub fn send(&mut self, part: RequestPart) {
        match self {
            Self::Http1(session) => session.send(part),
            Self::Http2(session) => session.send(part),
        }
    }

    /// Whether the connection may be reused for another call, judging by the response head.
    pub fn persists(&self) -> bool {
        match self {
            Self::Http1(session) => session.persists(),
            Self::Http2(_) => true,
        }
    }

    /// Whether larder has to respond to `Expect: 100-continue` itself, because the origin's 100 never
    /// arrives.
    pub fn requires_local_continue(&self) -> bool {
        matches!(self, Self::Http2(_))
    }
}

/// Counts and limits the interim responses of one call.
#[derive(Debug, Default)]
struct InterimCounter(usize);

impl InterimCounter {
    fn is_empty(&self) -> bool {
        self.0 == 0
    }

    fn add(&mut self) -> Result<(), SessionError> {
        self.0 += 1;
        if self.0 > MAX_INTERIM { Err(SessionError::Protocol) } else { Ok(()) }
    }
}

/// Whether a response with this status to this method never has a body (RFC 9112 §6.3).
fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The length that all members of `Content-Length` agree on; an error if they differ or one is invalid.
fn length(headers: &HeaderMap) -> Result<Option<u64>, SessionError> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for member in value.as_bytes().split(|byte| *byte == b',') {
            let digits = member.trim_ascii();
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(digits).ok().filter(|_| is_number);
            let length = text.and_then(|text| text.parse::<u64>().ok()).ok_or(SessionError::Protocol)?;
            if found.is_some_and(|found| found != length) {
                return Err(SessionError::Protocol);
            }
            found = Some(length);
        }
    }
    Ok(found)
}

/// Replaces a repeated `Content-Length` by a single one.
fn merge_content_length(headers: &mut HeaderMap, length: Option<u64>) {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let single = values.next().is_some_and(|value| !value.as_bytes().contains(&b','));
    if let (Some(length), true) = (length, values.next().is_some() || !single) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Whether the head is within the limits, which are the same for both versions.
fn is_within_bounds(headers: &HeaderMap) -> bool {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    headers.len() <= MAX_HEAD_FIELDS && bytes <= MAX_HEAD_BYTES
}
