//! The stored response as a value: what the origin sent and when, without any conclusion from it.
//!
//! Owns: the shape of an entry in every store tier; the fields that a hit leaves out. Never touches: policy
//! (lifetime and windows are computed from the current policy at each read).

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

/// A response as stored. It is complete, except a 206: that is the raw form of a
/// [`partial::PartialResponse`], and only that type may serve it. Kept behind an `Arc`; never changed, only
/// replaced. `Debug` shows no field value and no body.
#[derive(Clone)]
pub struct StoredResponse {
    /// The status.
    pub status: StatusCode,
    /// The origin's fields as a hit sends them, hop-by-hop fields removed (RFC 9111 §3.1).
    pub headers: HeaderMap,
    /// The origin's fields that apply to the original exchange only: stored, but not part of a hit.
    pub withheld: HeaderMap,
    /// The body, as received.
    pub body: Bytes,
    /// The request fields that select it (RFC 9111 §4.1).
    pub vary: VaryFields,
    /// The variant of the request that fetched it.
    pub variant: VariantId,
    /// Time when the request was sent.
    pub request_time: SystemTime,
    /// Time when the head was received.
    pub response_time: SystemTime,
    /// The age on arrival (RFC 9111 §4.2.3, `corrected_initial_age`).
    pub initial_age: Duration,
    /// Order number of the request: of two responses the one with the higher number is the newer, whichever
    /// arrived first.
    pub order: u64,
    /// Cache metadata, read once from the fields and `status`: everything that affects freshness and
    /// validation.
    pub metadata: CacheMetadata,
    /// Whether the request carried `Authorization` (RFC 9111 §3.5).
    pub authorized: bool,
    /// Whether it is the response to a `HEAD`: its `Content-Length` is that of a body that larder does not have.
    pub head_only: bool,
    /// Whether it is stale, whatever its lifetime, and since when.
    pub outdated: Option<ForcedStale>,
    /// Tracks `body` up to its last reader.
    tracked_body: Option<Arc<evicted_bodies::Body>>,
}

/// Marks a response as stale whatever its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForcedStale {
    /// Since when.
    pub at: SystemTime,
    /// A newer response exists: this one may be served for errors (stale-if-error) only. Otherwise an
    /// operator marked it as stale, and all windows of stale responses start at that time.
    pub superseded: bool,
}

/// The parts of a stored response that determine whether it may be used.
#[derive(Debug, Clone, Copy)]
pub struct FreshnessInput<'a> {
    /// Its cache metadata.
    pub metadata: &'a CacheMetadata,
    /// The status that policy is applied to.
    pub status: StatusCode,
    /// Time when it was received.
    pub response_time: SystemTime,
    /// Its age at that time.
    pub initial_age: Duration,
    /// Whether it is stale, whatever its lifetime.
    pub outdated: Option<ForcedStale>,
}

impl<'a> From<&'a StoredResponse> for FreshnessInput<'a> {
    fn from(stored: &'a StoredResponse) -> Self {
        Self {
            metadata: &stored.metadata,
            status: stored.status,
            response_time: stored.response_time,
            initial_age: stored.initial_age,
            outdated: stored.outdated,
        }
    }
}

impl<'a> FreshnessInput<'a> {
    /// The input of a complete response as it is, of a partial one as if it were complete: to compute how
    /// long an entry is of use, not whether it satisfies a request.
    pub fn from_complete_or_partial(stored: &'a StoredResponse) -> Self {
        let status = if stored.is_part() { StatusCode::OK } else { stored.status };
        Self { status, ..stored.into() }
    }
}

/// Whether the field applies to one exchange and would mislead in a later one: the rest of a rate limit, or
/// the time to wait.
///
/// ```
/// # use http::{HeaderName, header::{ETAG, RETRY_AFTER}};
/// use larder::stored::is_withheld_from_hits;
///
/// assert!(is_withheld_from_hits(&RETRY_AFTER));
/// assert!(is_withheld_from_hits(&HeaderName::from_static("x-ratelimit-remaining")));
/// assert!(!is_withheld_from_hits(&ETAG));
/// ```
pub fn is_withheld_from_hits(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-ratelimit") || text.starts_with("ratelimit") || name == RETRY_AFTER
}

impl StoredResponse {
    /// A response with the fields to store; the times are those when the request was sent and when the head
    /// arrived.
    pub fn new(
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
        (vary, variant): (VaryFields, VariantId),
        (request_time, response_time): (SystemTime, SystemTime),
    ) -> Self {
        let headers = compact(headers);
        let metadata = CacheMetadata::from_response(status, &headers);
        let initial_age = freshness::initial_age(&metadata, request_time, response_time);
        let (headers, withheld) = split_withheld(headers);
        let (tracked_body, body) = evicted_bodies::Body::track(body);
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
            order: 0,
            metadata,
            authorized: false,
            head_only: false,
            outdated: None,
            tracked_body,
        }
    }

    /// The same, with whether the request carried `Authorization`.
    #[must_use]
    pub fn with_authorized(mut self, authorized: bool) -> Self {
        self.authorized = authorized;
        self
    }

    /// The same, with whether it is the response to a `HEAD`.
    #[must_use]
    pub fn with_head_only(mut self, head_only: bool) -> Self {
        self.head_only = head_only;
        self
    }

    /// The same, with this age on arrival instead of the one that its fields and times give.
    #[must_use]
    pub fn with_initial_age(mut self, initial_age: Duration) -> Self {
        self.initial_age = initial_age;
        self
    }

    /// The same, with the order number of its request.
    #[must_use]
    pub fn with_order(mut self, order: u64) -> Self {
        self.order = order;
        self
    }

    /// The same, marked as stale.
    #[must_use]
    pub fn outdated(&self, outdated: ForcedStale) -> Self {
        Self { outdated: Some(outdated), ..self.clone() }
    }

    /// The same with another body.
    #[must_use]
    pub fn with_body(self, body: Bytes) -> Self {
        let (tracked_body, body) = evicted_bodies::Body::track(body);
        Self { body, tracked_body, ..self }
    }

    /// A guard of a store for the body, which counts in `evicted_bodies` when the last guard is dropped;
    /// `None`: the body is too small.
    pub fn guard_body(&self, evicted_bodies: &EvictedBodies) -> Option<StoredBodyGuard> {
        self.tracked_body.as_ref().map(|body| body.guard(evicted_bodies))
    }

    /// Whether the body is as long as the origin announced. No other body may be stored: it would be taken
    /// for complete.
    pub fn is_whole(&self) -> bool {
        let bodiless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut lengths = self.headers.get_all(CONTENT_LENGTH).iter();
        bodiless || self.head_only || lengths.all(|length| is_length(length, self.body.len()))
    }

    /// Whether it is partial, and usable as a [`partial::PartialResponse`] only.
    pub fn is_part(&self) -> bool {
        self.status == StatusCode::PARTIAL_CONTENT
    }

    /// The fields of a hit, without `Age`: that is [`StoredResponse::age`] at the time of the hit.
    pub fn hit_headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    /// The fields about rate limits, which a hit contains only if its route says so.
    pub fn limit_headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.withheld.iter().filter(|(name, _)| is_withheld_from_hits(name))
    }

    /// All stored fields.
    pub fn all_headers(&self) -> HeaderMap {
        let mut all = self.headers.clone();
        all.extend(self.withheld.clone());
        all
    }

    /// The age now (RFC 9111 §4.2.3).
    pub fn age(&self, now: SystemTime) -> Duration {
        freshness::current_age(self.initial_age, self.response_time, now)
    }

    /// Approximate number of bytes in memory.
    pub fn weight(&self) -> usize {
        let fields = fields_weight(&self.headers) + fields_weight(&self.withheld);
        size_of::<Self>() + self.body.len() + fields + self.vary.weight() + self.metadata.weight()
    }

    /// Whether a 304 with these fields applies to this response (RFC 9111 §4.3.4). If not, the complete
    /// response must be requested again.
    pub fn is_updated_by(&self, not_modified: &HeaderMap) -> bool {
        validation::applies_to(not_modified, &self.headers, &self.metadata)
    }

    /// This response updated by a 304 to its validators (RFC 9111 §3.2, §4.3.4). A 304 may contain
    /// `no-store`, `private` or `Set-Cookie`: the result serves the current request, and is stored only as
    /// [`StoredResponse::with_headers`] with the fields that `Policy::storability` allows of its
    /// [`StoredResponse::all_headers`].
    #[must_use]
    pub fn freshened(
        &self,
        not_modified: &HeaderMap,
        request_time: SystemTime,
        response_time: SystemTime,
    ) -> Self {
        let headers = compact(&validation::freshen(&self.all_headers(), not_modified));
        let metadata = CacheMetadata::from_response(self.status, &headers);
        let initial_age = freshness::initial_age(&metadata, request_time, response_time);
        let outdated = None;
        Self {
            request_time,
            response_time,
            initial_age,
            outdated,
            ..self.with_headers_and_metadata(headers, metadata)
        }
    }

    /// The same response with only these fields.
    #[must_use]
    pub fn with_headers(&self, headers: &HeaderMap) -> Self {
        let headers = compact(headers);
        let metadata = CacheMetadata::from_response(self.status, &headers);
        self.with_headers_and_metadata(headers, metadata)
    }

    fn with_headers_and_metadata(&self, headers: HeaderMap, metadata: CacheMetadata) -> Self {
        let (headers, withheld) = split_withheld(headers);
        Self { headers, withheld, metadata, ..self.clone() }
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

/// Whether each member of a `Content-Length` is this number (RFC 9110 §8.6).
fn is_length(length: &HeaderValue, bytes: usize) -> bool {
    let mut members = length.as_bytes().split(|byte| *byte == b',');
    members.all(|member| {
        let digits = member.trim_ascii();
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<usize>().ok());
        plain && number == Some(bytes)
    })
}

/// Approximate number of bytes of memory that fields take, used or not.
fn fields_weight(headers: &HeaderMap) -> usize {
    // A bucket, and its share of the indices.
    const BUCKET: usize = 112;
    // Size of a second value of a name in a vector that grows by doubling.
    const MORE: usize = 144;
    // A name that the `http` crate does not predefine: two allocations.
    const NAME: usize = 40;
    let more = headers.len() - headers.keys_len();
    let names: usize = headers.keys().map(|name| name.as_str().len() + NAME).sum();
    let values: usize = headers.values().map(HeaderValue::len).sum();
    headers.capacity() * BUCKET + more * MORE + names + values
}

/// Copies the fields into one separate allocation: as received their values are slices of a connection's read
/// buffer, which each stored response would otherwise keep alive.
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

/// Splits the fields into those of a hit and those it leaves out. Done once, so that a hit filters nothing.
fn split_withheld(headers: HeaderMap) -> (HeaderMap, HeaderMap) {
    let is_withheld = |name: &HeaderName| *name == AGE || is_withheld_from_hits(name);
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
