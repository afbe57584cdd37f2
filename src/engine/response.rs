//! What a client gets: a stored response or a growing one, cut to what was asked.
//!
//! Owns: answering conditionals, ranges and HEAD from a complete body, and all but several ranges
//! from a growing one (RFC 9110 §13, §14, RFC 9111 §4.3.2); `Age`. Never touches: which response is
//! chosen.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, AGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::decide::ForwardReason;
use crate::engine::body::BodyReader;
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

/// What the engine makes of a request.
pub enum EngineResult {
    /// This is the answer.
    Reply(Box<ClientResponse>),
    /// It is none of the engine's: pass it through, for this reason.
    Pass(ForwardReason),
}

/// An answer ready to be written.
pub struct ClientResponse {
    /// The status.
    pub status: StatusCode,
    /// All fields but `Date` and what frames the message.
    pub headers: HeaderMap,
    /// The body.
    pub body: ResponseBody,
    /// How it came about, for the account.
    pub result: ResultKind,
    /// Why the request was forwarded, if it was.
    pub why: Option<&'static str>,
    /// The class of the error, if it is one of larder's making.
    pub error: Option<&'static str>,
}

/// The body of a [`ClientResponse`].
pub enum ResponseBody {
    /// None; `Content-BodyLength`, if any, is among the fields.
    Empty,
    /// All of it.
    Whole(Bytes),
    /// All of it, one piece after the other.
    Pieces(Vec<Bytes>),
    /// It is still arriving.
    Growing {
        /// Where it arrives.
        reader: BodyReader,
        /// Bytes to leave out at the front.
        skip: u64,
        /// Bytes to send after those; `None`: to the end.
        take: Option<u64>,
    },
}

/// The shape of an answer before it is accounted for.
struct ResponseParts {
    status: StatusCode,
    headers: HeaderMap,
    body: BodySelection,
}

/// What of the body an answer carries.
enum BodySelection {
    Empty,
    Whole,
    Part(ByteRange),
    /// Status and fields are still those of the whole, which is a right answer, too.
    Several(Vec<ByteRange>),
}

impl ResponseParts {
    fn new(status: StatusCode, headers: HeaderMap, body: BodySelection) -> Self {
        Self { status, headers, body }
    }
}

impl ClientResponse {
    /// The answer from a stored response.
    pub fn from_stored(
        asked: &ProxyRequest,
        stored: &StoredResponse,
        now: SystemTime,
        status: &CacheStatus,
        result: ResultKind,
    ) -> Self {
        let mut headers = stored.hit_headers();
        date::add_where_missing(&mut headers, stored.response_time);
        headers.insert(AGE, HeaderValue::from(stored.age(now).as_secs()));
        status.append_to(&mut headers);
        let length = stored.body.len() as u64;
        let mut shape =
            apply_preconditions(asked, &stored.said, stored.status, headers, Some(length));
        let body = match shape.body {
            BodySelection::Empty => ResponseBody::Empty,
            BodySelection::Whole => ResponseBody::Whole(stored.body.clone()),
            BodySelection::Part(part) => ResponseBody::Whole(byteranges::slice(&stored.body, part)),
            BodySelection::Several(parts) => {
                shape.status = StatusCode::PARTIAL_CONTENT;
                multipart_body(&stored.body, &parts, &mut shape.headers)
            }
        };
        Self { status: shape.status, headers: shape.headers, body, result, why: None, error: None }
    }

    /// The answer from a stored part that holds the bytes `wanted`; `None` where it does not.
    pub(crate) fn from_part(
        part: &PartialResponse,
        wanted: ByteRange,
        now: SystemTime,
        status: &CacheStatus,
        result: ResultKind,
    ) -> Option<Self> {
        let body = ResponseBody::Whole(part.cut(wanted)?);
        let mut headers = part.hit_headers();
        date::add_where_missing(&mut headers, part.received());
        headers.remove(TRANSFER_ENCODING);
        set_partial_headers(&mut headers, wanted, part.total());
        headers.insert(AGE, HeaderValue::from(part.age(now).as_secs()));
        status.append_to(&mut headers);
        let status = StatusCode::PARTIAL_CONTENT;
        Some(Self { status, headers, body, result, why: None, error: None })
    }

    /// The answer from a body that is still arriving under `headers`.
    pub(crate) fn from_growing(
        asked: &ProxyRequest,
        said: &CacheMetadata,
        status: StatusCode,
        headers: HeaderMap,
        length: Option<u64>,
        reader: BodyReader,
    ) -> Self {
        let shape = apply_preconditions(asked, said, status, headers, length);
        let body = match shape.body {
            BodySelection::Empty => ResponseBody::Empty,
            // Several ranges come in any order, the bytes in one: then all of it. An announced
            // length is the end: the client need not wait for the fill's.
            BodySelection::Whole | BodySelection::Several(_) => {
                ResponseBody::Growing { reader, skip: 0, take: length }
            }
            BodySelection::Part(part) => {
                ResponseBody::Growing { reader, skip: part.first, take: Some(part.length()) }
            }
        };
        Self {
            status: shape.status,
            headers: shape.headers,
            body,
            result: ResultKind::Miss,
            why: None,
            error: None,
        }
    }

    /// An error of larder's making.
    pub(crate) fn from_problem(
        asked: &ProxyRequest,
        problem: &Problem,
        status: &CacheStatus,
    ) -> Self {
        let (mut headers, body) = problem.response();
        status.append_to(&mut headers);
        let empty = asked.method == Method::HEAD;
        Self {
            status: problem.status,
            headers,
            body: if empty { ResponseBody::Empty } else { ResponseBody::Whole(body) },
            result: ResultKind::Error,
            why: None,
            error: Some(problem.class),
        }
    }

    /// The same, forwarded because of `why`.
    #[must_use]
    pub fn with_forward_reason(mut self, why: &'static str) -> Self {
        self.why = Some(why);
        self
    }
}

/// Applies the request's preconditions, range and method to a response with this head and length.
fn apply_preconditions(
    asked: &ProxyRequest,
    said: &CacheMetadata,
    status: StatusCode,
    mut headers: HeaderMap,
    length: Option<u64>,
) -> ResponseParts {
    headers.remove(TRANSFER_ENCODING);
    if status == StatusCode::OK
        && validation::evaluate(&asked.headers, said, status) == PreconditionResult::NotModified
    {
        let mut head = validation::not_modified_head(&headers);
        for name in [AGE, CACHE_STATUS] {
            for value in headers.get_all(&name) {
                head.append(name.clone(), value.clone());
            }
        }
        return ResponseParts::new(StatusCode::NOT_MODIFIED, head, BodySelection::Empty);
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = length.filter(|_| !bodiless) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if asked.method == Method::HEAD || bodiless {
        return ResponseParts::new(status, headers, BodySelection::Empty);
    }
    // A 200 that says of which bytes it is may be a part under a wrong name: nothing is cut from it.
    let whole = status == StatusCode::OK && !headers.contains_key(CONTENT_RANGE);
    let (Some(length), true) = (length, whole) else {
        return ResponseParts::new(status, headers, BodySelection::Whole);
    };
    match ranges::evaluate(&asked.headers, said, length) {
        RangeSelection::Whole => ResponseParts::new(status, headers, BodySelection::Whole),
        RangeSelection::Part(part) => {
            set_partial_headers(&mut headers, part, length);
            ResponseParts::new(StatusCode::PARTIAL_CONTENT, headers, BodySelection::Part(part))
        }
        RangeSelection::Parts(parts) => {
            ResponseParts::new(status, headers, BodySelection::Several(parts))
        }
        RangeSelection::Unsatisfiable => {
            headers.insert(CONTENT_RANGE, ranges::unsatisfied_range(length));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            ResponseParts::new(StatusCode::RANGE_NOT_SATISFIABLE, headers, BodySelection::Empty)
        }
    }
}

/// The fields of a 206 with these bytes of `length`.
fn set_partial_headers(headers: &mut HeaderMap, part: ByteRange, length: u64) {
    headers.insert(CONTENT_RANGE, ranges::content_range(part, length));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(part.length()));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// The body of a 206 in several parts, and the fields that describe it. A boundary that nobody can
/// guess cannot have been planted in the body.
fn multipart_body(body: &Bytes, parts: &[ByteRange], headers: &mut HeaderMap) -> ResponseBody {
    let media_type = headers.get(CONTENT_TYPE);
    let (content_type, pieces) = byteranges::assembled(body, parts, media_type, rand::random());
    headers.insert(CONTENT_TYPE, content_type);
    let length: usize = pieces.iter().map(Bytes::len).sum();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    // RFC 9110 §15.3.7.2: which bytes they are is said in each part.
    headers.remove(CONTENT_RANGE);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    ResponseBody::Pieces(pieces)
}
