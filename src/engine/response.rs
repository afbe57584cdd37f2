//! The response to a client, from a stored or growing body, reduced to the requested part.
//!
//! Owns: evaluating conditionals, ranges and HEAD on a complete body, and all but several ranges on a
//! growing one (RFC 9110 §13, §14, RFC 9111 §4.3.2); `Age`. Never touches: choosing the response.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, AGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::decide::ForwardReason;
use crate::engine::body::BodyReader;
use crate::engine::inflight::ResponseHead;
use crate::semantics::byteranges;
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus};
use crate::semantics::date;
use crate::semantics::ranges::{self, ByteRange, RangeSelection};
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::validation::{self, PreconditionResult};
use crate::stored::StoredResponse;
use crate::stored::partial::PartialResponse;
use crate::telemetry::ResultKind;
use crate::telemetry::problem::Problem;

/// The engine's result for a request.
pub enum EngineResult {
    /// The response.
    Reply(Box<ClientResponse>),
    /// The engine does not handle the request: pass it through, for this reason.
    Pass(ForwardReason),
}

/// A response ready to be written.
pub struct ClientResponse {
    /// The status.
    pub status: StatusCode,
    /// All fields except `Date` and the message framing fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: ResponseBody,
    /// The result kind, for telemetry.
    pub result: ResultKind,
    /// Why the request was forwarded, if it was.
    pub forward_reason: Option<ForwardReason>,
    /// The error class, if larder generated the response as an error.
    pub error: Option<&'static str>,
}

/// The body of a [`ClientResponse`].
pub enum ResponseBody {
    /// No body; `Content-Length`, if present, is among the fields.
    Empty,
    /// The whole body.
    Whole(Bytes),
    /// The whole body in pieces, in order.
    Pieces(Vec<Bytes>),
    /// The body is still arriving.
    Growing {
        /// Reads the body.
        reader: BodyReader,
        /// Bytes to skip at the front.
        skip: u64,
        /// Bytes to send after the skipped ones; `None`: to the end.
        take: Option<u64>,
    },
}

/// The status, fields and body selection of a response.
struct ResponseParts {
    status: StatusCode,
    headers: HeaderMap,
    body: BodySelection,
}

/// The part of the body that a response carries.
enum BodySelection {
    Empty,
    Whole,
    Part(ByteRange),
    /// Status and fields are still those of the whole response, which is also a valid response.
    Several(Vec<ByteRange>),
}

impl EngineResult {
    /// A response.
    pub(super) fn reply(response: ClientResponse) -> Self {
        Self::Reply(Box::new(response))
    }
}

impl ResponseParts {
    fn new(status: StatusCode, headers: HeaderMap, body: BodySelection) -> Self {
        Self { status, headers, body }
    }
}

impl ClientResponse {
    /// Builds the response from a stored response.
    pub fn from_stored(
        request: &ProxyRequest,
        stored: &StoredResponse,
        now: SystemTime,
        status: &CacheStatus,
        result: ResultKind,
    ) -> Self {
        let mut headers = stored.hit_headers();
        date::add_if_missing(&mut headers, stored.response_time);
        headers.insert(AGE, HeaderValue::from(stored.age(now).as_secs()));
        status.append_to(&mut headers);
        // The origin's own length, if it is known, is among the fields of a response to HEAD.
        let length = (!stored.head_only).then_some(stored.body.len() as u64);
        let mut response = apply_preconditions(request, &stored.metadata, stored.status, headers, length);
        let body = match response.body {
            BodySelection::Empty => ResponseBody::Empty,
            BodySelection::Whole => ResponseBody::Whole(stored.body.clone()),
            BodySelection::Part(part) => ResponseBody::Whole(byteranges::slice(&stored.body, part)),
            BodySelection::Several(parts) => {
                response.status = StatusCode::PARTIAL_CONTENT;
                multipart_body(&stored.body, &parts, &mut response.headers)
            }
        };
        Self {
            status: response.status,
            headers: response.headers,
            body,
            result,
            forward_reason: None,
            error: None,
        }
    }

    /// Builds the response from a stored part; `None` if the part does not contain the bytes `wanted`.
    pub(crate) fn from_part(
        part: &PartialResponse,
        wanted: ByteRange,
        now: SystemTime,
        status: &CacheStatus,
        result: ResultKind,
    ) -> Option<Self> {
        let body = ResponseBody::Whole(part.cut(wanted)?);
        let mut headers = part.hit_headers();
        date::add_if_missing(&mut headers, part.received());
        headers.remove(TRANSFER_ENCODING);
        set_partial_headers(&mut headers, wanted, part.total());
        headers.insert(AGE, HeaderValue::from(part.age(now).as_secs()));
        status.append_to(&mut headers);
        let status = StatusCode::PARTIAL_CONTENT;
        Some(Self { status, headers, body, result, forward_reason: None, error: None })
    }

    /// Builds the response from a body that is still arriving after `head`, with these header fields.
    pub(super) fn from_growing(
        request: &ProxyRequest,
        head: &ResponseHead,
        headers: HeaderMap,
        reader: BodyReader,
    ) -> Self {
        let ResponseHead { metadata, status, length, .. } = head;
        let (status, length) = (*status, length.filter(|_| request.method != Method::HEAD));
        let response = apply_preconditions(request, metadata, status, headers, length);
        let body = match response.body {
            BodySelection::Empty => ResponseBody::Empty,
            // The body arrives in order but several ranges may not, so the whole is sent. With an
            // announced length the client need not wait for the end of the fill.
            BodySelection::Whole | BodySelection::Several(_) => {
                ResponseBody::Growing { reader, skip: 0, take: length }
            }
            BodySelection::Part(part) => {
                ResponseBody::Growing { reader, skip: part.first, take: Some(part.length()) }
            }
        };
        Self {
            status: response.status,
            headers: response.headers,
            body,
            result: ResultKind::Miss,
            forward_reason: None,
            error: None,
        }
    }

    /// Builds an error response that larder generates.
    pub(crate) fn from_problem(request: &ProxyRequest, problem: &Problem, status: &CacheStatus) -> Self {
        let (mut headers, body) = problem.response();
        status.append_to(&mut headers);
        let is_head = request.method == Method::HEAD;
        Self {
            status: problem.status,
            headers,
            body: if is_head { ResponseBody::Empty } else { ResponseBody::Whole(body) },
            result: ResultKind::Error,
            forward_reason: None,
            error: Some(problem.class),
        }
    }

    /// Adds the rate-limit fields of the stored response.
    #[must_use]
    pub(super) fn with_limit_fields(mut self, stored: &StoredResponse) -> Self {
        for (name, value) in stored.limit_headers() {
            self.headers.append(name.clone(), value.clone());
        }
        self
    }

    /// Sets the reason why the request was forwarded.
    #[must_use]
    pub fn with_forward_reason(mut self, reason: ForwardReason) -> Self {
        self.forward_reason = Some(reason);
        self
    }
}

/// Applies the request's preconditions, range and method to a response with this head and length.
fn apply_preconditions(
    request: &ProxyRequest,
    metadata: &CacheMetadata,
    status: StatusCode,
    mut headers: HeaderMap,
    length: Option<u64>,
) -> ResponseParts {
    headers.remove(TRANSFER_ENCODING);
    if status == StatusCode::OK
        && validation::evaluate(&request.headers, metadata, status) == PreconditionResult::NotModified
    {
        let mut head = validation::not_modified_head(&headers);
        for name in [AGE, CACHE_STATUS] {
            for value in headers.get_all(&name) {
                head.append(name.clone(), value.clone());
            }
        }
        return ResponseParts::new(StatusCode::NOT_MODIFIED, head, BodySelection::Empty);
    }
    let has_no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = length.filter(|_| !has_no_body) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if request.method == Method::HEAD || has_no_body {
        return ResponseParts::new(status, headers, BodySelection::Empty);
    }
    // A 200 with `Content-Range` may be a mislabelled part: no range is cut from it.
    let whole = status == StatusCode::OK && !headers.contains_key(CONTENT_RANGE);
    let (Some(length), true) = (length, whole) else {
        return ResponseParts::new(status, headers, BodySelection::Whole);
    };
    match ranges::evaluate(&request.headers, metadata, length) {
        RangeSelection::Whole => ResponseParts::new(status, headers, BodySelection::Whole),
        RangeSelection::Part(part) => {
            set_partial_headers(&mut headers, part, length);
            ResponseParts::new(StatusCode::PARTIAL_CONTENT, headers, BodySelection::Part(part))
        }
        RangeSelection::Parts(parts) => ResponseParts::new(status, headers, BodySelection::Several(parts)),
        RangeSelection::Unsatisfiable => {
            headers.insert(CONTENT_RANGE, ranges::unsatisfied_range(length));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            ResponseParts::new(StatusCode::RANGE_NOT_SATISFIABLE, headers, BodySelection::Empty)
        }
    }
}

/// Sets the fields of a 206 with these bytes of `length`.
fn set_partial_headers(headers: &mut HeaderMap, part: ByteRange, length: u64) {
    headers.insert(CONTENT_RANGE, ranges::content_range(part, length));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(part.length()));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// Builds the body of a 206 with several parts and sets the fields that describe it. The boundary is
/// random, so that it cannot have been planted in the body.
fn multipart_body(body: &Bytes, parts: &[ByteRange], headers: &mut HeaderMap) -> ResponseBody {
    let media_type = headers.get(CONTENT_TYPE);
    let (content_type, pieces) = byteranges::assemble(body, parts, media_type, rand::random());
    headers.insert(CONTENT_TYPE, content_type);
    let length: usize = pieces.iter().map(Bytes::len).sum();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    // RFC 9110 §15.3.7.2: each part has its own `Content-Range`.
    headers.remove(CONTENT_RANGE);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    ResponseBody::Pieces(pieces)
}
