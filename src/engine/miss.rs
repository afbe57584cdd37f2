//! A request that goes to the origin, with the facts collected about it before.
//!
//! Owns: the facts that joining, filling and waiting share. Never touches: acting on them.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;

use crate::decide::{self, ForwardReason};
use crate::engine::collapse::InFlightKey;
use crate::key::CacheKey;
use crate::policy::Policy;
use crate::route::table::Route;
use crate::semantics::freshness;
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::storability::CacheKind;
use crate::semantics::vary::VariantId;
use crate::stored::StoredResponse;
use crate::upstream::interim::Interims;

/// A request that the store could not serve alone.
pub(crate) struct Miss<'a> {
    pub(crate) request: &'a ProxyRequest,
    pub(crate) route: &'a Route,
    pub(crate) policy: &'a Policy,
    pub(crate) key: CacheKey,
    pub(crate) cache: CacheKind,
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
}

impl Miss<'_> {
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
    pub(crate) fn ttl(&self, stored: &StoredResponse, now: SystemTime) -> i64 {
        decide::ttl(self.policy, self.cache, stored, now)
    }

    /// The freshness of a response when it was received, in seconds.
    pub(crate) fn ttl_of(
        &self,
        status: StatusCode,
        metadata: &CacheMetadata,
        received: SystemTime,
    ) -> i64 {
        let fresh = self.policy.freshness(metadata, status, self.cache, received);
        fresh.state(freshness::initial_age(metadata, received, received), received, received).ttl()
    }
}
