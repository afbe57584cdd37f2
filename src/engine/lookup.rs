//! Looks up stored responses for routed requests, in memory or in all tiers.
//!
//! Owns: which of the stored responses may still be reused under the current policy; finding parts.
//! Never touches: freshness, the choice of a response.

use std::sync::Arc;

use crate::engine::deps::EngineDeps;
use crate::key::{CacheKey, KeyBuilder};
use crate::semantics::request::ProxyRequest;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::{Lookup, Store, StoreQuery};
use crate::stored::partial::PartialResponse;
use crate::upstream::routed_request::RoutedRequest;

/// The result of a lookup in memory.
pub struct MemoryLookup {
    pub(super) found: Lookup,
    /// [`Store::puts`] before the lookup.
    pub(super) puts: u64,
}

/// Finds stored responses.
pub(crate) struct StoreLookup {
    store: Arc<dyn Store>,
    key_builder: Arc<KeyBuilder>,
}

impl StoreLookup {
    pub(super) fn new(deps: &EngineDeps) -> Arc<Self> {
        let (store, key_builder) = (Arc::clone(&deps.store), Arc::clone(&deps.key_builder));
        Arc::new(Self { store, key_builder })
    }

    /// The variant that `request` selects among those by `fields`.
    pub(crate) fn variant(&self, request: &ProxyRequest, fields: &VaryFields) -> VariantId {
        self.key_builder.variant(fields, &request.headers)
    }

    /// Looks up `key` in memory, and remembers when.
    pub(super) fn first(&self, routed: &RoutedRequest, key: &CacheKey) -> MemoryLookup {
        // Counted first, so that a response which is stored during the lookup is looked for again.
        let puts = self.store.puts();
        MemoryLookup { found: self.memory(routed, key), puts }
    }

    /// Whether memory may have something new since [`Store::puts`] was `puts`.
    pub(super) fn has_news_since(&self, puts: u64) -> bool {
        self.store.puts() != puts
    }

    /// Whether the response of the request `one` is newer than that of `other`.
    pub(super) fn is_newer(&self, one: u64, other: u64) -> bool {
        self.store.is_newer(one, other)
    }

    /// Looks up `key` in memory only.
    pub(crate) fn memory(&self, routed: &RoutedRequest, key: &CacheKey) -> Lookup {
        let variant = |fields: &VaryFields| self.variant(&routed.request, fields);
        let found = self.store.get(StoreQuery { key, variant: &variant });
        filter_reusable(found, key, routed)
    }

    /// Looks up `key` on disk if `found`, the result of memory, says so.
    pub(crate) async fn disk(&self, routed: &RoutedRequest, key: &CacheKey, found: Lookup) -> Lookup {
        let Lookup::CheckDisk(in_memory) = found else { return found };
        let variant = |fields: &VaryFields| self.variant(&routed.request, fields);
        let found = self.store.load(StoreQuery { key, variant: &variant }, in_memory).await;
        filter_reusable(found, key, routed)
    }

    /// Looks up `key` in all tiers.
    pub(crate) async fn all_tiers(&self, routed: &RoutedRequest, key: &CacheKey) -> Lookup {
        self.disk(routed, key, self.memory(routed, key)).await
    }

    /// The stored part of the response of `key`, from memory only.
    pub(crate) fn part_in_memory(&self, routed: &RoutedRequest, key: &CacheKey) -> Option<PartialResponse> {
        // Without parts, a miss needs no second lookup.
        let may_have_part = self.store.has_parts_in_memory();
        may_have_part.then(|| as_part(self.memory(routed, &key.for_partial()))).flatten()
    }

    /// The stored part of the response of `key`, from any tier. A part on disk is in memory afterwards.
    pub(crate) async fn part(&self, routed: &RoutedRequest, key: &CacheKey) -> Option<PartialResponse> {
        as_part(self.all_tiers(routed, &key.for_partial()).await)
    }
}

/// Filters out stored responses that may not be reused. A reload can change the policy, under which a
/// response may no longer be shared. A part is only valid under a key of parts, the response to a `HEAD` only
/// under a key of those, and a whole only under a key of wholes.
fn filter_reusable(found: Lookup, key: &CacheKey, routed: &RoutedRequest) -> Lookup {
    match found {
        Lookup::Found(stored)
            if stored.is_part() != key.is_for_partial()
                || stored.head_only != key.is_for_head()
                || !routed.policy.is_still_reusable(
                    &stored.metadata,
                    stored.authorized,
                    key.scope().cache_kind(),
                ) =>
        {
            Lookup::Nothing
        }
        found @ (Lookup::Found(_) | Lookup::OtherVariants(_) | Lookup::Nothing | Lookup::CheckDisk(_)) => {
            found
        }
    }
}

fn as_part(found: Lookup) -> Option<PartialResponse> {
    match found {
        Lookup::Found(stored) => PartialResponse::from_stored(stored),
        Lookup::OtherVariants(_) | Lookup::Nothing | Lookup::CheckDisk(_) => None,
    }
}
