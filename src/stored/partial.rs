//! A part of a response: some bytes of a body of known length, from a 206 (RFC 9111 §3.3, §3.4).
//!
//! Owns: what is sound enough to be kept as a part, joining parts, when they have become the whole.
//! Never touches: where parts are kept; whether one is fresh.
//!
//! A part is not a [`StoredResponse`] to whoever has one: the bytes come out only by [`PartialResponse::cut`], and the
//! whole only by [`PartialResponse::whole`]. In the store it is kept as what was received: a 206 with its
//! `Content-Range`, under a key of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::semantics::byteranges;
use crate::semantics::ranges::{self, ByteRange, RangeSelection};
use crate::semantics::response_metadata::CacheMetadata;
use crate::stored::{FreshnessInput, StoredResponse};

/// A part of a response, with a strong validator that says of which.
#[derive(Debug, Clone)]
pub struct PartialResponse {
    stored: Arc<StoredResponse>,
    span: ByteRange,
    total: u64,
}

impl PartialResponse {
    /// What is stored, as a part; `None` where it is a whole response, or no sound part.
    pub fn of(stored: Arc<StoredResponse>) -> Option<Self> {
        let (span, total) = told(stored.status, &stored.headers, &stored.said)?;
        let part = Self { stored, span, total };
        (part.span.length() == part.stored.body.len() as u64).then_some(part)
    }

    /// The bytes that a `GET` with one range asks for, if all of them are here and the request's own
    /// `If-Range` wants them to be of this response.
    pub fn holding(&self, asked: &HeaderMap) -> Option<ByteRange> {
        if !ranges::is_single(asked) {
            return None;
        }
        match ranges::evaluate(asked, &self.stored.said, self.total) {
            RangeSelection::Part(wanted) => self.span.holds(wanted).then_some(wanted),
            RangeSelection::Whole | RangeSelection::Parts(_) | RangeSelection::Unsatisfiable => {
                None
            }
        }
    }

    /// These bytes, if all of them are here.
    pub fn cut(&self, wanted: ByteRange) -> Option<Bytes> {
        let here = |n: u64| n - self.span.first;
        self.span.holds(wanted).then(|| {
            let wanted = ByteRange { first: here(wanted.first), last: here(wanted.last) };
            byteranges::slice(&self.stored.body, wanted)
        })
    }

    /// The length of the whole body.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The fields of a hit; those that describe a range are the caller's to set.
    pub fn hit_headers(&self) -> HeaderMap {
        self.stored.hit_headers()
    }

    /// What bears on whether it may be used: the status is that of its whole.
    pub fn head(&self) -> FreshnessInput<'_> {
        FreshnessInput::of_either(&self.stored)
    }

    /// When it was received.
    pub fn received(&self) -> SystemTime {
        self.stored.response_time
    }

    /// The age now (RFC 9111 §4.2.3).
    pub fn age(&self, now: SystemTime) -> Duration {
        self.stored.age(now)
    }

    /// What is put into a store.
    pub fn stored(self) -> Arc<StoredResponse> {
        self.stored
    }

    /// This part and `other` as one, where they are of the same bytes, leave no gap and are not
    /// longer than `largest` together (RFC 9111 §3.4). The fields are those of the one that was
    /// received last.
    #[must_use]
    pub fn joined(&self, other: &Self, largest: usize) -> Option<Self> {
        let span = ByteRange {
            first: self.span.first.min(other.span.first),
            last: self.span.last.max(other.span.last),
        };
        let same = self.total == other.total
            && is_same(&self.stored.said, &other.stored.said)
            && self.stored.vary == other.stored.vary
            && self.stored.variant == other.stored.variant;
        let fits = usize::try_from(span.length()).is_ok_and(|length| length <= largest);
        if !same || !fits || !self.span.touches(other.span) || self.differs(other) {
            return None;
        }
        let (front, back) =
            if self.span.first <= other.span.first { (self, other) } else { (other, self) };
        let newer =
            if other.stored.response_time > self.stored.response_time { other } else { self };
        let mut headers = newer.stored.headers.clone();
        headers.insert(CONTENT_RANGE, ranges::content_range(span, self.total));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(span.length()));
        let body = front.followed_by(back);
        let authorized = self.stored.authorized || other.stored.authorized;
        let joined = StoredResponse { headers, authorized, ..(*newer.stored).clone() };
        Self::of(Arc::new(joined.with_body(body)))
    }

    /// The complete response, if every byte of it is here: a 200.
    pub fn whole(&self) -> Option<StoredResponse> {
        if self.span.length() != self.total {
            return None;
        }
        let mut headers = self.stored.all_headers();
        headers.remove(CONTENT_RANGE);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.total));
        let whole = StoredResponse { status: StatusCode::OK, ..(*self.stored).clone() };
        Some(whole.keeping(&headers))
    }

    /// Whether bytes that both have are not the same: then one validator was given to two bodies.
    fn differs(&self, other: &Self) -> bool {
        let first = self.span.first.max(other.span.first);
        let last = self.span.last.min(other.span.last);
        first <= last && self.cut(ByteRange { first, last }) != other.cut(ByteRange { first, last })
    }

    /// The bytes of this part, and those of `back` that lie behind it.
    fn followed_by(&self, back: &Self) -> Bytes {
        if self.span.holds(back.span) {
            return self.stored.body.clone();
        }
        let rest = ByteRange { first: self.span.last.saturating_add(1), last: back.span.last };
        let rest = back.cut(rest).unwrap_or_default();
        let mut body = BytesMut::with_capacity(self.stored.body.len() + rest.len());
        body.extend_from_slice(&self.stored.body);
        body.extend_from_slice(&rest);
        body.freeze()
    }
}

/// Which bytes of how many a response with this head is, if it is one that can be kept as a part: a
/// 206 with a single range and a strong validator.
pub fn told(
    status: StatusCode,
    headers: &HeaderMap,
    said: &CacheMetadata,
) -> Option<(ByteRange, u64)> {
    let several = headers.get(CONTENT_TYPE).is_some_and(|value| {
        let start = value.as_bytes().get(..MULTIPART.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(MULTIPART))
    });
    if status != StatusCode::PARTIAL_CONTENT || several || !is_strong(said) {
        return None;
    }
    ranges::held(headers)
}

/// How the media type of several ranges begins: the body then is not the bytes themselves.
const MULTIPART: &[u8] = b"multipart/byteranges";

/// Whether the fields name a strong validator (RFC 9110 §8.8.1): only that promises equal bytes.
fn is_strong(said: &CacheMetadata) -> bool {
    said.etag.as_ref().map_or_else(|| said.has_strong_date(), |tag| !tag.weak)
}

/// Whether two strong validators are one.
fn is_same(one: &CacheMetadata, other: &CacheMetadata) -> bool {
    match (&one.etag, &other.etag) {
        (Some(one), Some(other)) => one.raw == other.raw,
        (None, None) => one.last_modified == other.last_modified,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests;
