//! Stores the response to a `POST` that states it is what a later `GET` would fetch (RFC 9110 §9.3.3).
//!
//! Owns: when such a response is stored. Never touches: its delivery to the client, which is not delayed
//! or changed.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LOCATION};
use http::{HeaderMap, Method, StatusCode};

use crate::engine::Engine;
use crate::engine::head_update::{PassThroughStart, as_a_get};
use crate::engine::pending_calls::PendingCallGuard;
use crate::key::CacheKey;
use crate::policy::{Mode, Policy};
use crate::route::table::Route;
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
    metadata: CacheMetadata,
    vary: (VaryFields, VariantId),
    /// Taken after the invalidation by the response itself.
    watch: InvalidationWatch,
    /// The request's position in the request order.
    pending_call: Arc<PendingCallGuard>,
    times: (SystemTime, SystemTime),
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

impl Engine {
    /// Starts a capture if the response to a `POST` may serve later `GET`s of `route`. Called with the
    /// response head, after the invalidation, for a body whose end is detectable. The response needs
    /// explicit freshness and a `Content-Location` that equals the target.
    pub fn capture_post(
        &self,
        request: &ProxyRequest,
        route: &Route,
        sent: &PassThroughStart,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<PostCapture> {
        // The client's own Accept-Encoding was sent, not the reduced one on which variants depend.
        let encoded = headers.contains_key(CONTENT_ENCODING);
        let eligible = request.method == Method::POST
            && status == StatusCode::OK
            && self.switch.mode() != Mode::Bypass;
        if !eligible || encoded || !self.is_the_target(request, headers) {
            return None;
        }
        let get = as_a_get(request);
        let key = self.key_builder.key(&get, &route.policy);
        let kind = key.scope().cache_kind();
        let now = self.clock.now();
        let metadata = CacheMetadata::from_response(status, headers);
        freshness::explicit_lifetime(route.policy.effective_metadata(&metadata), kind, now)?;
        let kept = route.policy.storability(&get, status, headers, &metadata, kind).ok()?;
        let Vary::Fields(fields) = Vary::from_response(&kept) else { return None };
        let variant = self.variant(&get, &fields);
        let (pending_call, watch) = (sent.pending_call()?, self.store.watch(key.target_id()));
        Some(PostCapture {
            key,
            policy: Arc::clone(&route.policy),
            authorized: request.headers.contains_key(AUTHORIZATION),
            headers: kept,
            metadata,
            vary: (fields, variant),
            watch,
            pending_call,
            times: (sent.time, now),
            body: BufferedPieces::new(&self.in_flight),
            largest: self.limits.max_object,
        })
    }

    /// Stores the captured response once it has passed whole.
    pub fn store_captured(&self, capture: PostCapture) {
        let PostCapture { key, policy, authorized, headers, metadata, vary, .. } = capture;
        let PostCapture { watch, pending_call, times, body, .. } = capture;
        let age = freshness::initial_age(&metadata, times.0, times.1);
        let stored = StoredResponse::new(StatusCode::OK, &headers, body.joined(), vary, times, age);
        let order = pending_call.order();
        let stored = stored.with_authorized(authorized).with_order(order.number());
        self.pending_calls.overtake_older(&key, Some(stored.variant), order.number());
        if order.is_overtaken(Some(stored.variant)) {
            return;
        }
        self.store_response(&key, &policy, Arc::new(stored), watch.epoch);
    }

    fn is_the_target(&self, request: &ProxyRequest, headers: &HeaderMap) -> bool {
        headers
            .get(CONTENT_LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| request.target.resolve(location))
            .map(|location| self.origin.canonical_target(&location).unwrap_or(location))
            .is_some_and(|location| location == request.target)
    }
}
