//! A partial response: some bytes of a body of known length, from a 206 (RFC 9111 §3.3, §3.4).
//!
//! Owns: the check whether a 206 can be stored, joining parts, completing the whole. Never touches: where
//! parts are stored; whether one is fresh.
//!
//! A part cannot be used as a [`StoredResponse`]: its bytes are available only through
//! [`PartialResponse::cut`], and the complete response only through [`PartialResponse::whole`]. The store
//! keeps the response as received: a 206 with its `Content-Range`, under a separate key.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::semantics::byteranges;
use crate::semantics::ranges::{self, ByteRange, RangeSelection};
use crate::semantics::response_metadata::CacheMetadata;
use crate::stored::{FreshnessInput, StoredResponse};

/// A part of a response, with a strong validator that identifies the response.
#[derive(Debug, Clone)]
pub struct PartialResponse {
    stored: Arc<StoredResponse>,
    span: ByteRange,
    total: u64,
}

impl PartialResponse {
    /// A stored response as a part; `None` where it is complete, or not a valid part.
    pub fn from_stored(stored: Arc<StoredResponse>) -> Option<Self> {
        let (span, total) = partial_range(stored.status, &stored.headers, &stored.metadata)?;
        let part = Self { stored, span, total };
        (part.span.length() == part.stored.body.len() as u64).then_some(part)
    }

    /// The range that a `GET` with one range requests, if all of its bytes are here and its `If-Range`, if
    /// any, matches this response.
    pub fn available_range(&self, headers: &HeaderMap) -> Option<ByteRange> {
        if !ranges::is_single(headers) {
            return None;
        }
        match ranges::evaluate(headers, &self.stored.metadata, self.total) {
            RangeSelection::Part(wanted) => self.span.contains(wanted).then_some(wanted),
            RangeSelection::Whole | RangeSelection::Parts(_) | RangeSelection::Unsatisfiable => None,
        }
    }

    /// These bytes, if all of them are here.
    pub fn cut(&self, wanted: ByteRange) -> Option<Bytes> {
        let offset = |n: u64| n - self.span.first;
        self.span.contains(wanted).then(|| {
            let wanted = ByteRange { first: offset(wanted.first), last: offset(wanted.last) };
            byteranges::slice(&self.stored.body, wanted)
        })
    }

    /// The length of the whole body.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The fields of a hit; the caller must set those that describe a range.
    pub fn hit_headers(&self) -> HeaderMap {
        self.stored.hit_headers()
    }

    /// The input of the freshness check: the status is that of the complete response.
    pub fn freshness_input(&self) -> FreshnessInput<'_> {
        FreshnessInput::from_complete_or_partial(&self.stored)
    }

    /// Time when it was received.
    pub fn received(&self) -> SystemTime {
        self.stored.response_time
    }

    /// The age now (RFC 9111 §4.2.3).
    pub fn age(&self, now: SystemTime) -> Duration {
        self.stored.age(now)
    }

    /// The response to put into a store.
    pub fn stored(self) -> Arc<StoredResponse> {
        self.stored
    }

    /// This part and `other` as one, if they belong to the same body, leave no gap and are not longer than
    /// `largest` together (RFC 9111 §3.4). The fields are those of the one that was received last.
    #[must_use]
    pub fn joined(&self, other: &Self, largest: usize) -> Option<Self> {
        let span = ByteRange {
            first: self.span.first.min(other.span.first),
            last: self.span.last.max(other.span.last),
        };
        let same = self.total == other.total
            && is_same(&self.stored.metadata, &other.stored.metadata)
            && self.stored.vary == other.stored.vary
            && self.stored.variant == other.stored.variant;
        let fits = usize::try_from(span.length()).is_ok_and(|length| length <= largest);
        if !same || !fits || !self.span.touches(other.span) || self.differs(other) {
            return None;
        }
        let (front, back) = if self.span.first <= other.span.first { (self, other) } else { (other, self) };
        let newer = if other.stored.response_time > self.stored.response_time { other } else { self };
        let mut headers = newer.stored.headers.clone();
        headers.insert(CONTENT_RANGE, ranges::content_range(span, self.total));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(span.length()));
        let body = front.followed_by(back);
        let authorized = self.stored.authorized || other.stored.authorized;
        let joined = StoredResponse { headers, authorized, ..(*newer.stored).clone() };
        Self::from_stored(Arc::new(joined.with_body(body)))
    }

    /// The complete response as a 200, if every byte of it is here.
    pub fn whole(&self) -> Option<StoredResponse> {
        if self.span.length() != self.total {
            return None;
        }
        let mut headers = self.stored.all_headers();
        headers.remove(CONTENT_RANGE);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.total));
        let whole = StoredResponse { status: StatusCode::OK, ..(*self.stored).clone() };
        Some(whole.with_headers(&headers))
    }

    /// Whether bytes that both contain differ: then the origin used one validator for two bodies.
    fn differs(&self, other: &Self) -> bool {
        let first = self.span.first.max(other.span.first);
        let last = self.span.last.min(other.span.last);
        first <= last && self.cut(ByteRange { first, last }) != other.cut(ByteRange { first, last })
    }

    /// The bytes of this part, and those of `back` that follow it.
    fn followed_by(&self, back: &Self) -> Bytes {
        if self.span.contains(back.span) {
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

/// The range and the total length of a response with this head, if it can be stored as a part: a 206 with a
/// single range and a strong validator.
pub fn partial_range(
    status: StatusCode,
    headers: &HeaderMap,
    metadata: &CacheMetadata,
) -> Option<(ByteRange, u64)> {
    let is_multipart = headers.get(CONTENT_TYPE).is_some_and(|value| {
        let start = value.as_bytes().get(..MULTIPART.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(MULTIPART))
    });
    if status != StatusCode::PARTIAL_CONTENT || is_multipart || !is_strong(metadata) {
        return None;
    }
    ranges::parse_content_range(headers)
}

/// Prefix of the media type of several ranges: the body then is not the bytes themselves.
const MULTIPART: &[u8] = b"multipart/byteranges";

/// Whether the fields contain a strong validator (RFC 9110 §8.8.1): only that guarantees equal bytes.
fn is_strong(metadata: &CacheMetadata) -> bool {
    metadata.etag.as_ref().map_or_else(|| metadata.has_strong_date(), |tag| !tag.weak)
}

/// Whether two strong validators are the same.
fn is_same(one: &CacheMetadata, other: &CacheMetadata) -> bool {
    match (&one.etag, &other.etag) {
        (Some(one), Some(other)) => one.raw == other.raw,
        (None, None) => one.last_modified == other.last_modified,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests;
