//! The stored response as a value: what the origin said and when, nothing that was concluded from it.
//!
//! Owns: the shape of what every store tier keeps; which fields a hit leaves out.
//! Never touches: policy (lifetime and windows are computed from the current policy at each read).

pub mod evicted_bodies;
pub mod partial;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{AGE, CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::semantics::freshness;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::validation;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::stored::evicted_bodies::{EvictedBodies, StoredBodyGuard};

/// A response as stored, complete but for one kind: a 206 is the raw form of a [`part::PartialResponse`], which
/// nothing but that takes for an answer. Kept behind an `Arc`; never changed, only replaced.
/// `Debug` shows no field value and no body.
#[derive(Clone)]
pub struct StoredResponse {
    /// The status.
    pub status: StatusCode,
    /// The origin's fields as a hit sends them, hop-by-hop fields removed (RFC 9111 §3.1).
    pub headers: HeaderMap,
    /// The origin's fields that told of its one exchange with larder: kept, but no part of a hit.
    pub withheld: HeaderMap,
    /// The body, as received.
    pub body: Bytes,
    /// Which request fields chose it (RFC 9111 §4.1).
    pub vary: VaryFields,
    /// The variant of the request that fetched it.
    pub variant: VariantId,
    /// When the request was sent.
    pub request_time: SystemTime,
    /// When the head was received.
    pub response_time: SystemTime,
    /// The age it had on arrival (RFC 9111 §4.2.3, `corrected_initial_age`).
    pub initial_age: Duration,
    /// Its place in the order in which answers were asked for: of two the higher one is the newer, whichever
    /// came first.
    pub asked: u64,
    /// The fields and `status`, read once: what bears on freshness and validation.
    pub said: CacheMetadata,
    /// Whether the request carried `Authorization` (RFC 9111 §3.5).
    pub authorized: bool,
    /// Whether it is stale, whatever its lifetime, and since when.
    pub outdated: Option<ForcedStale>,
    /// `body` to its last reader.
    followed: Option<Arc<evicted_bodies::Body>>,
}

/// That an answer is stale whatever its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForcedStale {
    /// Since when.
    pub at: SystemTime,
    /// There is something newer: it may stand in for errors, and for nothing else. Else an operator has called it
    /// stale, and all windows of stale answers run from then.
    pub superseded: bool,
}

/// What of a stored response bears on whether it may be used.
#[derive(Debug, Clone, Copy)]
pub struct FreshnessInput<'a> {
    /// What its fields say.
    pub said: &'a CacheMetadata,
    /// The status that policy goes by.
    pub status: StatusCode,
    /// When it was received.
    pub response_time: SystemTime,
    /// The age it had then.
    pub initial_age: Duration,
    /// Whether it is stale, whatever its lifetime.
    pub outdated: Option<ForcedStale>,
}

impl<'a> From<&'a StoredResponse> for FreshnessInput<'a> {
    fn from(stored: &'a StoredResponse) -> Self {
        Self {
            said: &stored.said,
            status: stored.status,
            response_time: stored.response_time,
            initial_age: stored.initial_age,
            outdated: stored.outdated,
        }
    }
}

impl<'a> FreshnessInput<'a> {
    /// Of a whole as it is, of a part as its whole would be: for who asks how long something stays of
    /// use, not whether it answers.
    pub fn of_either(stored: &'a StoredResponse) -> Self {
        let status = if stored.is_part() { StatusCode::OK } else { stored.status };
        Self { status, ..stored.into() }
    }
}

/// Whether the field tells of one exchange and would mislead in a later one: how much of a rate
/// limit was left then, how long to wait then.
pub fn is_left_out_of_hits(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-ratelimit") || text.starts_with("ratelimit") || name == RETRY_AFTER
}

impl StoredResponse {
    /// A response with the fields that are kept of it; `times` are those of the request's sending
    /// and the head's arrival.
    pub fn new(
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
        (vary, variant): (VaryFields, VariantId),
        (request_time, response_time): (SystemTime, SystemTime),
        initial_age: Duration,
    ) -> Self {
        let headers = compact(headers);
        let said = CacheMetadata::of(status, &headers);
        let (headers, withheld) = parted(headers);
        let (followed, body) = evicted_bodies::Body::follow(body);
        Self {
            status,
            headers,
            withheld,
            body,
            vary,
            variant,
            request_time,
            response_time,
            initial_age,
            asked: 0,
            said,
            authorized: false,
            outdated: None,
            followed,
        }
    }

    /// The same, fetched by a request that did or did not carry `Authorization`.
    #[must_use]
    pub fn fetched_with(mut self, authorized: bool) -> Self {
        self.authorized = authorized;
        self
    }

    /// The same, asked for as this one in the order of all.
    #[must_use]
    pub fn asked_as(mut self, asked: u64) -> Self {
        self.asked = asked;
        self
    }

    /// The same, outdated.
    #[must_use]
    pub fn outdated(&self, outdated: ForcedStale) -> Self {
        Self { outdated: Some(outdated), ..self.clone() }
    }

    /// The same with another body.
    #[must_use]
    pub fn with_body(self, body: Bytes) -> Self {
        let (followed, body) = evicted_bodies::Body::follow(body);
        Self { body, followed, ..self }
    }

    /// A store's hold on the body, which counts in `lent` from its end on; `None`: it is too small.
    pub fn hold_body(&self, lent: &EvictedBodies) -> Option<StoredBodyGuard> {
        self.followed.as_ref().map(|body| body.hold(lent))
    }

    /// Whether the body is as long as the origin announced. Nothing else may be kept: it would be
    /// taken for whole.
    pub fn is_whole(&self) -> bool {
        let bodiless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut lengths = self.headers.get_all(CONTENT_LENGTH).iter();
        bodiless || lengths.all(|length| says(length, self.body.len()))
    }

    /// Whether it is a part, good for nothing but as a [`part::PartialResponse`].
    pub fn is_part(&self) -> bool {
        self.status == StatusCode::PARTIAL_CONTENT
    }

    /// The fields of a hit. `Age` is not among them: it is [`StoredResponse::age`] of the moment.
    pub fn hit_headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    /// All fields that are kept.
    pub fn all_headers(&self) -> HeaderMap {
        let mut all = self.headers.clone();
        all.extend(self.withheld.clone());
        all
    }

    /// The age now (RFC 9111 §4.2.3).
    pub fn age(&self, now: SystemTime) -> Duration {
        freshness::current_age(self.initial_age, self.response_time, now)
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        let fields = fields_weight(&self.headers) + fields_weight(&self.withheld);
        size_of::<Self>() + self.body.len() + fields + self.vary.weight() + self.said.weight()
    }

    /// Whether a 304 with these fields speaks of this response (RFC 9111 §4.3.4). Where it does
    /// not, the whole must be asked for again.
    pub fn is_meant_by(&self, not_modified: &HeaderMap) -> bool {
        validation::is_about(not_modified, &self.headers, &self.said)
    }

    /// This response with what a 304 to its validators says (RFC 9111 §3.2, §4.3.4). A 304 may bring
    /// `no-store`, `private` or `Set-Cookie`: what comes out answers the one request, and is stored
    /// only as [`StoredResponse::keeping`] what `Policy::storing` says of its [`StoredResponse::all_headers`].
    #[must_use]
    pub fn freshened(
        &self,
        not_modified: &HeaderMap,
        request_time: SystemTime,
        response_time: SystemTime,
    ) -> Self {
        let headers = compact(&validation::freshen(&self.all_headers(), not_modified));
        let said = CacheMetadata::of(self.status, &headers);
        let initial_age = freshness::initial_age(&said, request_time, response_time);
        let outdated = None;
        Self {
            request_time,
            response_time,
            initial_age,
            outdated,
            ..self.keeping_as(headers, said)
        }
    }

    /// The same response with only these fields.
    #[must_use]
    pub fn keeping(&self, headers: &HeaderMap) -> Self {
        let headers = compact(headers);
        let said = CacheMetadata::of(self.status, &headers);
        self.keeping_as(headers, said)
    }

    fn keeping_as(&self, headers: HeaderMap, said: CacheMetadata) -> Self {
        let (headers, withheld) = parted(headers);
        Self { headers, withheld, said, ..self.clone() }
    }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            self.headers.keys().chain(self.withheld.keys()).map(HeaderName::as_str).collect();
        f.debug_struct("Stored")
            .field("status", &self.status)
            .field("fields", &names)
            .field("body_len", &self.body.len())
            .field("vary", &self.vary)
            .field("variant", &self.variant)
            .field("response_time", &self.response_time)
            .field("initial_age", &self.initial_age)
            .finish_non_exhaustive()
    }
}

/// Whether each member of a `Content-BodyLength` is this number (RFC 9110 §8.6).
fn says(length: &HeaderValue, bytes: usize) -> bool {
    let mut members = length.as_bytes().split(|byte| *byte == b',');
    members.all(|member| {
        let digits = member.trim_ascii();
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<usize>().ok());
        plain && number == Some(bytes)
    })
}

/// About how many bytes of memory fields take, used or not.
fn fields_weight(headers: &HeaderMap) -> usize {
    // A bucket, and its share of the indices.
    const BUCKET: usize = 112;
    // What a second value of a name takes in a vector that grows by doubling.
    const MORE: usize = 144;
    // A name that the `http` crate does not know: two allocations.
    const NAME: usize = 40;
    let more = headers.len() - headers.keys_len();
    let names: usize = headers.keys().map(|name| name.as_str().len() + NAME).sum();
    let values: usize = headers.values().map(HeaderValue::len).sum();
    headers.capacity() * BUCKET + more * MORE + names + values
}

/// The same fields in one piece of memory of their own: as received their values are slices of a
/// connection's read buffer, which each stored response would otherwise keep alive whole.
fn compact(headers: &HeaderMap) -> HeaderMap {
    let mut bytes = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| bytes.extend_from_slice(value.as_bytes()));
    let mut bytes = bytes.freeze();
    let mut own = HeaderMap::with_capacity(headers.keys_len());
    for (name, value) in headers {
        let copy = HeaderValue::from_maybe_shared(bytes.split_to(value.len()))
            .expect("the bytes were a field value before they were copied");
        own.append(name.clone(), copy);
    }
    own
}

/// The fields of a hit, and those it leaves out. Parted once, so that a hit filters nothing.
fn parted(headers: HeaderMap) -> (HeaderMap, HeaderMap) {
    let is_withheld = |name: &HeaderName| *name == AGE || is_left_out_of_hits(name);
    let count = headers.keys().filter(|name| is_withheld(name)).count();
    if count == 0 {
        return (headers, HeaderMap::new());
    }
    // Each as large as it needs to be: a map does not shrink.
    let mut sent = HeaderMap::with_capacity(headers.keys_len() - count);
    let mut withheld = HeaderMap::with_capacity(count);
    for (name, value) in &headers {
        let map = if is_withheld(name) { &mut withheld } else { &mut sent };
        map.append(name.clone(), value.clone());
    }
    (sent, withheld)
}

#[cfg(test)]
mod tests;
