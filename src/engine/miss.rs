//! A request that goes to the origin, with the facts collected about it before.
//!
//! Owns: the facts that joining, filling and waiting share. Never touches: acting on them.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;

use crate::decide::{self, DecisionInput, ForwardReason};
use crate::engine::collapse::InFlightKey;
use crate::key::CacheKey;
use crate::semantics::freshness;
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::storability::CacheKind;
use crate::semantics::vary::VariantId;
use crate::stored::StoredResponse;
use crate::upstream::interim::Interims;
use crate::upstream::routed_request::RoutedRequest;

/// A request that the store could not serve alone.
pub(crate) struct Miss<'a> {
    pub(crate) routed: &'a Arc<RoutedRequest>,
    pub(crate) key: &'a CacheKey,
    pub(crate) reason: ForwardReason,
    /// The stored response, if there is one.
    pub(crate) stored: Option<Arc<StoredResponse>>,
    pub(crate) variant: Option<VariantId>,
    pub(crate) validate: bool,
    pub(crate) fallback: bool,
    /// Whether to forward the request's range instead of fetching the whole.
    pub(crate) ranged: bool,
    /// Receives the interim responses of a call that this request leads.
    pub(crate) interims: &'a Arc<Interims>,
    /// [`crate::store::Store::puts`] before the lookup in memory.
    pub(crate) puts: u64,
}

impl Miss<'_> {
    /// The request.
    pub(super) fn request(&self) -> &ProxyRequest {
        &self.routed.request
    }

    /// The stored response that may be served on errors.
    pub(super) fn fallback_response(&self) -> Option<&StoredResponse> {
        self.stored.as_deref().filter(|_| self.fallback)
    }

    /// The kind of cache that larder is for the request.
    pub(super) fn cache(&self) -> CacheKind {
        self.key.scope().cache_kind()
    }

    /// The input for decisions about the request at `now`.
    pub(super) fn decision_input(&self, now: SystemTime) -> DecisionInput<'_> {
        self.routed.decision_input(self.key, now)
    }

    /// Whether the client demands a response of the origin.
    pub(super) fn insists_on_origin(&self) -> bool {
        self.reason == ForwardReason::Request || self.routed.directives.demands_revalidation()
    }

    /// The key under which equal requests join the fill.
    pub(super) fn in_flight_key(&self) -> InFlightKey {
        InFlightKey { key: self.key.clone(), variant: self.variant }
    }

    /// Switches to the request's own variant, because the in-flight fetch is for another one.
    pub(super) fn switch_variant(&mut self, variant: VariantId) {
        self.variant = Some(variant);
        if self.stored.is_none() {
            self.reason = ForwardReason::VaryMiss;
        }
    }

    /// The remaining freshness of a stored response, in seconds.
    pub(super) fn ttl(&self, stored: &StoredResponse, now: SystemTime) -> i64 {
        decide::ttl(&self.routed.policy, self.cache(), stored, now)
    }

    /// The freshness of a response when it was received, in seconds.
    pub(super) fn ttl_of(&self, status: StatusCode, metadata: &CacheMetadata, received: SystemTime) -> i64 {
        let fresh = self.routed.policy.freshness(metadata, status, self.cache(), received);
        fresh.state(freshness::initial_age(metadata, received, received), received, received).ttl()
    }
}
