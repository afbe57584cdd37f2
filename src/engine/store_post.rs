//! A `POST` whose answer says that it is what a later `GET` would bring (RFC 9110 §9.3.3).
//!
//! Owns: when such an answer is stored. Never touches: how it passes to its client, which is not
//! slowed down or changed.

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

/// An answer that is copied while it passes.
pub struct PostCapture {
    key: CacheKey,
    policy: Arc<Policy>,
    authorized: bool,
    headers: HeaderMap,
    said: CacheMetadata,
    vary: (VaryFields, VariantId),
    /// Behind the invalidation that it brought itself.
    watch: InvalidationWatch,
    /// Its place among all that was asked for.
    begun: Arc<PendingCallGuard>,
    times: (SystemTime, SystemTime),
    body: BufferedPieces,
    largest: usize,
}

impl PostCapture {
    /// Adds a piece; false once the body is larger than what is stored, or there is no room for it among
    /// all bodies that are held: give the recording up.
    pub fn push(&mut self, piece: &Bytes) -> bool {
        let fits = self.body.len() + piece.len() <= self.largest;
        fits && self.body.push(piece.clone()).is_ok()
    }
}

impl Engine {
    /// The head of the answer to a `POST` that was `sent` and invalidated what it had to, whose body's end is
    /// told: a recording, if the answer may serve later `GET`s of `route`. It needs explicit freshness, and a `Content-Location` that
    /// is the target.
    pub fn record(
        &self,
        asked: &ProxyRequest,
        route: &Route,
        sent: &PassThroughStart,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<PostCapture> {
        // The client's own Accept-Encoding went out, not the reduced one that variants go by.
        let encoded = headers.contains_key(CONTENT_ENCODING);
        let eligible = asked.method == Method::POST
            && status == StatusCode::OK
            && self.switch.mode() != Mode::Bypass;
        if !eligible || encoded || !self.is_the_target(asked, headers) {
            return None;
        }
        let get = as_a_get(asked);
        let key = self.keyring.key(&get, &route.policy);
        let kind = key.scope().cache_kind();
        let now = self.clock.now();
        let said = CacheMetadata::of(status, headers);
        freshness::explicit_lifetime(route.policy.effective_metadata(&said), kind, now)?;
        let kept = route.policy.storability(&get, status, headers, &said, kind).ok()?;
        let Vary::Fields(fields) = Vary::of(&kept) else { return None };
        let variant = self.variant(&get, &fields);
        let (begun, watch) = (sent.begun()?, self.store.watch(key.target_id()));
        Some(PostCapture {
            key,
            policy: Arc::clone(&route.policy),
            authorized: asked.headers.contains_key(AUTHORIZATION),
            headers: kept,
            said,
            vary: (fields, variant),
            watch,
            begun,
            times: (sent.time, now),
            body: BufferedPieces::new(&self.in_flight),
            largest: self.bounds.max_object,
        })
    }

    /// The answer has passed whole: it is stored.
    pub fn recorded(&self, recording: PostCapture) {
        let PostCapture { key, policy, authorized, headers, said, vary, .. } = recording;
        let PostCapture { watch, begun, times, body, .. } = recording;
        let age = freshness::initial_age(&said, times.0, times.1);
        let stored = StoredResponse::new(StatusCode::OK, &headers, body.joined(), vary, times, age);
        let order = begun.order();
        let stored = stored.fetched_with(authorized).asked_as(order.asked());
        self.underway.answered(&key, Some(stored.variant), order.asked());
        if order.is_overtaken(Some(stored.variant)) {
            return;
        }
        self.store_response(&key, &policy, Arc::new(stored), watch.mark);
    }

    fn is_the_target(&self, asked: &ProxyRequest, headers: &HeaderMap) -> bool {
        headers
            .get(CONTENT_LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| asked.target.resolve(location))
            .map(|location| self.origin.moved(&location).unwrap_or(location))
            .is_some_and(|location| location == asked.target)
    }
}
