//! Stores the response to a `POST` that states it is what a later `GET` would fetch (RFC 9110 §9.3.3).
//!
//! Owns: when such a response is stored. Never touches: its delivery to the client, which is not delayed
//! or changed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LOCATION};
use http::{HeaderMap, StatusCode};

use crate::engine::pass_through::{PassThroughEffects, PassThroughStart};
use crate::engine::pending_calls::PendingCallGuard;
use crate::key::CacheKey;
use crate::policy::cacheability::ResponseToStore;
use crate::policy::{Mode, Policy};
use crate::semantics::freshness;
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::vary::{VariantId, Vary, VaryFields};
use crate::store::generations::InvalidationWatch;
use crate::stored::StoredResponse;
use crate::upstream::in_flight_bytes::BufferedPieces;

/// A response that is copied while it passes through.
pub struct PostCapture {
    key: CacheKey,
    policy: Arc<Policy>,
    authorized: bool,
    headers: HeaderMap,
    vary: (VaryFields, VariantId),
    /// Taken after the invalidation by the response itself.
    watch: InvalidationWatch,
    /// The request's position in the request order.
    pending_call: Arc<PendingCallGuard>,
    times: (SystemTime, SystemTime),
    /// The age on arrival.
    initial_age: Duration,
    body: BufferedPieces,
    largest: usize,
}

impl PostCapture {
    /// Adds a piece. False if the body is too large to be stored or exceeds the budget for buffered
    /// bodies: drop the capture.
    pub fn push(&mut self, piece: &Bytes) -> bool {
        let fits = self.body.len() + piece.len() <= self.largest;
        fits && self.body.push(piece.clone()).is_ok()
    }
}

impl PassThroughEffects {
    /// Starts a capture if the response to a `POST` may serve later `GET`s. Called with the response head,
    /// after the invalidation, for a body whose end is detectable. The response needs explicit freshness and
    /// a `Content-Location` that equals the target.
    pub fn capture_post(
        &self,
        start: &PassThroughStart,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<PostCapture> {
        let (get, pending_call) = start.get.as_ref()?;
        let (request, policy) = (&get.request, &get.policy);
        // The client's own Accept-Encoding was sent, not the reduced one on which variants depend.
        let encoded = headers.contains_key(CONTENT_ENCODING);
        let eligible = status == StatusCode::OK && self.switch.mode() != Mode::Bypass;
        if !eligible || encoded || !self.is_the_target(request, headers) {
            return None;
        }
        let key = get.key.clone().ok()?;
        let kind = key.scope().cache_kind();
        let now = self.clock.now();
        let metadata = CacheMetadata::from_response(status, headers);
        freshness::explicit_lifetime(policy.effective_metadata(&metadata), kind, now)?;
        let response = ResponseToStore { status, headers, metadata: &metadata };
        let kept = policy.storability(request, response, kind).ok()?;
        let Vary::Fields(fields) = Vary::from_response(&kept) else { return None };
        let variant = self.lookup.variant(request, &fields);
        Some(PostCapture {
            watch: self.store.watch(key.target_id()),
            key,
            policy: Arc::clone(policy),
            authorized: request.headers.contains_key(AUTHORIZATION),
            headers: kept,
            vary: (fields, variant),
            pending_call: Arc::clone(pending_call),
            times: (start.time, now),
            initial_age: freshness::initial_age(&metadata, start.time, now),
            body: BufferedPieces::new(&self.in_flight),
            largest: self.max_object,
        })
    }

    /// Stores the captured response once it has passed whole.
    pub fn store_captured(&self, capture: PostCapture) {
        let PostCapture { key, policy, authorized, headers, vary, .. } = capture;
        let PostCapture { watch, pending_call, times, initial_age, body, .. } = capture;
        let stored = StoredResponse::new(StatusCode::OK, &headers, body.joined(), vary, times);
        let order = pending_call.order();
        let stored = stored.with_initial_age(initial_age).with_authorized(authorized);
        let stored = stored.with_order(order.number());
        self.pending_calls.overtake_older(&key, Some(stored.variant), order.number());
        if order.is_overtaken(Some(stored.variant)) {
            return;
        }
        self.updates.store_response(&key, &policy, Arc::new(stored), watch.epoch);
    }

    fn is_the_target(&self, request: &ProxyRequest, headers: &HeaderMap) -> bool {
        headers
            .get(CONTENT_LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| request.target.resolve(location))
            .is_some_and(|location| self.purger.effective_target(&location) == request.target)
    }
}
