//! One call on one connection to an origin: a request goes out, while what comes back is read.
//!
//! Owns: what both versions of HTTP have in common, and the bounds on what an origin may send. Both
//! ways out, fills and what passes through, use it: what is refused here is refused on both.
//! Never touches: clients, the store; when a call is made again (`fetch`).

pub mod http1;
pub mod http2;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use crate::semantics::field_case::FieldCase;
use crate::semantics::request::RequestFraming;
use crate::upstream::BodyFraming;
use crate::upstream::session::http1::Http1Call;
use crate::upstream::session::http2::Http2Call;
use crate::upstream::tls_error::TlsError;

/// The bytes of an answer's head, names and values.
pub(super) const HEAD_BYTES: usize = 256 * 1024;

/// How many fields an answer's head may have.
pub(super) const HEAD_FIELDS: usize = 256;

/// How many interim (1xx) answers may precede the final one.
const INTERIM: usize = 16;

/// What a call asks, ready to be written.
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
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// How their names are spelled where that can be seen.
    pub spelling: FieldCase,
    /// What body follows.
    pub body: RequestFraming,
    /// The protocols that the client asks to switch to.
    pub upgrade: Option<HeaderValue>,
    /// Whether trailer fields will be read.
    pub trailers: bool,
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct UpstreamHead {
    /// The status.
    pub status: StatusCode,
    /// The version it came in.
    pub version: Version,
    /// The fields as received, hop-by-hop ones included.
    pub headers: HeaderMap,
    /// How their names were spelled.
    pub spelling: FieldCase,
    /// How the body's end is known.
    pub framing: BodyFraming,
    /// Nothing follows: the head was the end.
    pub ended: bool,
}

/// What is sent next of a request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestPart {
    /// Bytes of it.
    Data(Bytes),
    /// There is no more.
    End,
}

/// What comes next of a call.
#[derive(Debug)]
pub enum SessionEvent {
    /// What was to be sent has been taken: there is room for more.
    Room,
    /// The head of an answer, interim ones included.
    Head(Box<UpstreamHead>),
    /// A piece of the answer's body, never empty.
    Data(Bytes),
    /// The answer is whole. Its trailer fields, if there were any.
    End(Option<HeaderMap>),
}

/// Why a call cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The origin has not acted on the request, and said so (RFC 9113 §8.7), or nothing was sent.
    #[error("the origin has not processed the request")]
    NotProcessed,
    /// The origin ended the connection for what TLS told it.
    #[error("the origin ended TLS")]
    Tls(TlsError),
    /// The connection ended before anything of an answer came.
    #[error("the connection ended before an answer")]
    Closed,
    /// The connection ended, or the stream was reset, inside an answer.
    #[error("the answer was cut")]
    Cut,
    /// The origin has switched to another protocol, for which it was not asked (RFC 9110 §15.2.2).
    #[error("the origin switched protocols unasked")]
    Switched,
    /// What came is not HTTP, can be read in two ways, or breaks a bound.
    #[error("the answer is not valid HTTP")]
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
    /// What comes next; without `reads` only whether there is room for more of the request. May be
    /// dropped while it waits; what is to be sent goes out meanwhile.
    pub async fn next(&mut self, reads: bool) -> Result<SessionEvent, SessionError> {
        match self {
            Self::Http1(session) => session.next(reads).await,
            Self::Http2(session) => session.next(reads).await,
        }
    }

    /// The origin has been silent for too long: if others share its connection, no more do.
    pub fn distrust(&self) {
        if let Self::Http2(session) = self {
            session.distrust();
        }
    }

    /// Whether the origin has said that it speaks HTTP/1 only for this (RFC 9113 §7).
    pub fn requires_http1(&self) -> bool {
        matches!(self, Self::Http2(session) if session.requires_http1())
    }

    /// Whether [`UpstreamSession::send`] may be called.
    pub fn has_room(&self) -> bool {
        match self {
            Self::Http1(session) => session.has_room(),
            Self::Http2(session) => session.has_room(),
        }
    }

    /// Takes the next part of the request's body, which is sent while [`UpstreamSession::next`] is awaited.
    pub fn send(&mut self, part: RequestPart) {
        match self {
            Self::Http1(session) => session.send(part),
            Self::Http2(session) => session.send(part),
        }
    }

    /// Whether another call may follow on the connection, as far as the head of the answer tells.
    pub fn persists(&self) -> bool {
        match self {
            Self::Http1(session) => session.persists(),
            Self::Http2(_) => true,
        }
    }

    /// Whether the origin is told to go on by larder itself: its own word for it does not come.
    pub fn goes_on_unasked(&self) -> bool {
        matches!(self, Self::Http2(_))
    }
}

/// Bounds the interim answers of one call.
#[derive(Debug, Default)]
struct Interims(usize);

impl Interims {
    fn are_none(&self) -> bool {
        self.0 == 0
    }

    fn one_more(&mut self) -> Result<(), SessionError> {
        self.0 += 1;
        if self.0 > INTERIM { Err(SessionError::Protocol) } else { Ok(()) }
    }
}

/// Whether an answer with this status to this method never has a body (RFC 9112 §6.3).
fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The one length that all `Content-BodyLength` members agree on; `Err`: they do not, or are none.
fn length(headers: &HeaderMap) -> Result<Option<u64>, SessionError> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for member in value.as_bytes().split(|byte| *byte == b',') {
            let digits = member.trim_ascii();
            let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(digits).ok().filter(|_| plain);
            let length =
                text.and_then(|text| text.parse::<u64>().ok()).ok_or(SessionError::Protocol)?;
            if found.is_some_and(|found| found != length) {
                return Err(SessionError::Protocol);
            }
            found = Some(length);
        }
    }
    Ok(found)
}

/// Says a length that came more than once only once.
fn say_once(headers: &mut HeaderMap, length: Option<u64>) {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let plain = values.next().is_some_and(|value| !value.as_bytes().contains(&b','));
    if let (Some(length), true) = (length, values.next().is_some() || !plain) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Whether the head stays within the bounds of both versions.
fn is_within_bounds(headers: &HeaderMap) -> bool {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    headers.len() <= HEAD_FIELDS && bytes <= HEAD_BYTES
}
