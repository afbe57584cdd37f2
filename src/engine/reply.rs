//! What a client gets: a stored response or a growing one, cut to what was asked.
//!
//! Owns: answering conditionals, single ranges and HEAD from a complete or a growing body
//! (RFC 9110 §13, §14, RFC 9111 §4.3.2); `Age`. Never touches: which response is chosen.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, AGE, CONTENT_LENGTH, CONTENT_RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::account::ResultKind;
use crate::account::problem::Problem;
use crate::engine::body::Reader;
use crate::semantics::asked::Asked;
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus};
use crate::semantics::ranges::{self, Cut};
use crate::semantics::said::Said;
use crate::semantics::validation::{self, Outcome};
use crate::stored::Stored;

/// An answer ready to be written.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// All fields but `Date` and what frames the message.
    pub headers: HeaderMap,
    /// The body.
    pub body: ReplyBody,
    /// How it came about, for the account.
    pub result: ResultKind,
    /// Why the request was forwarded, if it was.
    pub why: Option<&'static str>,
    /// The class of the error, if it is one of larder's making.
    pub error: Option<&'static str>,
}

/// The body of a [`Reply`].
pub enum ReplyBody {
    /// None; `Content-Length`, if any, is among the fields.
    Empty,
    /// All of it.
    Whole(Bytes),
    /// It is still arriving.
    Growing {
        /// Where it arrives.
        reader: Reader,
        /// Bytes to leave out at the front.
        skip: u64,
        /// Bytes to send after those; `None`: to the end.
        take: Option<u64>,
    },
}

/// The shape of an answer before it is accounted for.
struct Shape {
    status: StatusCode,
    headers: HeaderMap,
    cut: Option<(u64, u64)>,
    empty: bool,
}

impl Reply {
    /// The answer from a stored response.
    pub fn from_stored(
        asked: &Asked,
        stored: &Stored,
        now: SystemTime,
        status: &CacheStatus,
        result: ResultKind,
    ) -> Self {
        let mut headers = stored.hit_headers();
        headers.insert(AGE, HeaderValue::from(stored.age(now).as_secs()));
        status.append_to(&mut headers);
        let length = stored.body.len() as u64;
        let shape = shape(asked, &stored.said, stored.status, headers, Some(length));
        let body = match (shape.empty, shape.cut) {
            (true, _) => ReplyBody::Empty,
            (false, None) => ReplyBody::Whole(stored.body.clone()),
            (false, Some((first, last))) => ReplyBody::Whole(slice(&stored.body, first, last)),
        };
        Self { status: shape.status, headers: shape.headers, body, result, why: None, error: None }
    }

    /// The answer from a body that is still arriving under `headers`.
    pub(crate) fn from_growing(
        asked: &Asked,
        said: &Said,
        status: StatusCode,
        headers: HeaderMap,
        length: Option<u64>,
        reader: Reader,
    ) -> Self {
        let shape = shape(asked, said, status, headers, length);
        let body = match (shape.empty, shape.cut) {
            (true, _) => ReplyBody::Empty,
            // An announced length is the end: the client need not wait for the fill's.
            (false, None) => ReplyBody::Growing { reader, skip: 0, take: length },
            (false, Some((first, last))) => {
                ReplyBody::Growing { reader, skip: first, take: Some(last - first + 1) }
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
    pub(crate) fn from_problem(asked: &Asked, problem: &Problem, status: &CacheStatus) -> Self {
        let (mut headers, body) = problem.response();
        status.append_to(&mut headers);
        let empty = asked.method == Method::HEAD;
        Self {
            status: problem.status,
            headers,
            body: if empty { ReplyBody::Empty } else { ReplyBody::Whole(body) },
            result: ResultKind::Error,
            why: None,
            error: Some(problem.class),
        }
    }

    /// The same, forwarded because of `why`.
    #[must_use]
    pub fn because(mut self, why: &'static str) -> Self {
        self.why = Some(why);
        self
    }
}

/// Applies the request's preconditions, range and method to a response with this head and length.
fn shape(
    asked: &Asked,
    said: &Said,
    status: StatusCode,
    mut headers: HeaderMap,
    length: Option<u64>,
) -> Shape {
    headers.remove(TRANSFER_ENCODING);
    if status == StatusCode::OK
        && validation::evaluate(&asked.headers, said, status) == Outcome::NotModified
    {
        let mut head = validation::not_modified_head(&headers);
        for name in [AGE, CACHE_STATUS] {
            for value in headers.get_all(&name) {
                head.append(name.clone(), value.clone());
            }
        }
        let status = StatusCode::NOT_MODIFIED;
        return Shape { status, headers: head, cut: None, empty: true };
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = length.filter(|_| !bodiless) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if asked.method == Method::HEAD || bodiless {
        return Shape { status, headers, cut: None, empty: true };
    }
    let (Some(length), true) = (length, status == StatusCode::OK) else {
        return Shape { status, headers, cut: None, empty: false };
    };
    match ranges::evaluate(&asked.headers, said, length) {
        Cut::Whole => Shape { status, headers, cut: None, empty: false },
        Cut::Part { first, last } => {
            headers.insert(CONTENT_RANGE, ranges::content_range(first, last, length));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(last - first + 1));
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            let status = StatusCode::PARTIAL_CONTENT;
            Shape { status, headers, cut: Some((first, last)), empty: false }
        }
        Cut::Unsatisfiable => {
            headers.insert(CONTENT_RANGE, ranges::unsatisfied_range(length));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            Shape { status, headers, cut: None, empty: true }
        }
    }
}

fn slice(body: &Bytes, first: u64, last: u64) -> Bytes {
    let first = usize::try_from(first).unwrap_or(usize::MAX).min(body.len());
    let end = usize::try_from(last).unwrap_or(usize::MAX).saturating_add(1).min(body.len());
    body.slice(first..end)
}
