//! A request that goes to the origin, with all that was found out about it on the way there.
//!
//! Owns: the facts that joining, filling and following share. Never touches: acting on them.

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

/// A request the store could not answer alone.
pub(crate) struct Miss<'a> {
    pub(crate) asked: &'a ProxyRequest,
    pub(crate) route: &'a Route,
    pub(crate) policy: &'a Policy,
    pub(crate) key: CacheKey,
    pub(crate) cache: CacheKind,
    pub(crate) why: ForwardReason,
    /// What is stored, if anything.
    pub(crate) stored: Option<Arc<StoredResponse>>,
    pub(crate) variant: Option<VariantId>,
    pub(crate) validate: bool,
    pub(crate) fallback: bool,
    /// Ask for the range that the request asks for, not for the whole.
    pub(crate) ranged: bool,
    /// Where the interim answers of a call that this request leads go.
    pub(crate) interims: &'a Arc<Interims>,
}

impl Miss<'_> {
    /// Where others who want the same find the fill.
    pub(super) fn place(&self) -> InFlightKey {
        InFlightKey { key: self.key.clone(), variant: self.variant }
    }

    /// The answer that others wait for is another variant: go on with one's own.
    pub(super) fn move_to(&mut self, variant: VariantId) {
        self.variant = Some(variant);
        if self.stored.is_none() {
            self.why = ForwardReason::VaryMiss;
        }
    }

    /// The remaining freshness of a stored response, seconds.
    pub(crate) fn ttl(&self, stored: &StoredResponse, now: SystemTime) -> i64 {
        decide::ttl(self.policy, self.cache, stored, now)
    }

    /// The freshness that an answer had when it was received, seconds.
    pub(crate) fn ttl_of(
        &self,
        status: StatusCode,
        said: &CacheMetadata,
        received: SystemTime,
    ) -> i64 {
        let fresh = self.policy.freshness(said, status, self.cache, received);
        fresh.standing(freshness::initial_age(said, received, received), received, received).ttl()
    }
}
