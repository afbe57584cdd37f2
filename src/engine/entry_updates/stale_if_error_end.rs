//! Ends stale-if-error for a stored response: the resource is gone, or the client is not permitted to get it.
//!
//! Owns: for which requests stale-if-error ends. Never touches: how long that is remembered
//! (`persistent_facts`), freshness.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::engine::entry_updates::EntryUpdates;
use crate::engine::router::OWN_CREDENTIAL;
use crate::key::CacheKey;
use crate::policy::{ScopeRule, StaleIfErrorEnd};
use crate::semantics::request::ProxyRequest;
use crate::store::Lookup;
use crate::stored::StoredResponse;
use crate::upstream::routed_request::RoutedRequest;

impl EntryUpdates {
    /// Applies the response to `routed`, which has number `order`: ends stale-if-error for earlier responses
    /// if the policy specifies so for `status`. Not called for a response that is due to a rate limit.
    pub(crate) async fn apply_stale_if_error_end(
        &self,
        routed: &RoutedRequest,
        key: &CacheKey,
        status: StatusCode,
        order: u64,
    ) {
        let RoutedRequest { request, policy, .. } = routed;
        let end = policy.stale_if_error.ended_by(status);
        // A response that one credential may not get may still be permitted for others.
        let of_client = end == Some(StaleIfErrorEnd::SameCredential)
            && !(policy.scope == ScopeRule::Shared && self.has_client_credential(request));
        if end == Some(StaleIfErrorEnd::All) {
            let targets = self.purger.target_ids(&request.target);
            for target in targets.into_iter().filter(|target| self.store.may_contain(*target)) {
                self.persistent_facts.end_stale_if_error(target, order);
            }
        }
        // Invented credentials have no stored responses, so they cannot displace recorded ends of others.
        if of_client && self.store.may_contain(key.target_id()) {
            let found = self.lookup.all_tiers(routed, key).await;
            if matches!(found, Lookup::Found(_) | Lookup::OtherVariants(_)) {
                self.persistent_facts.end_stale_if_error(key.id(), order);
            }
        }
    }

    /// Whether a stored response may still be served on errors, given the later responses.
    pub(crate) fn may_serve_on_error(&self, key: &CacheKey, stored: &StoredResponse) -> bool {
        self.persistent_facts.allows_stale_if_error([key.target_id(), key.id()], stored.order)
    }

    /// Whether the request contains a credential of its client; larder's own is the same for all clients.
    fn has_client_credential(&self, request: &ProxyRequest) -> bool {
        let own = |(name, value): (&HeaderName, &HeaderValue)| {
            self.key_builder.is_credential(name) && *value != OWN_CREDENTIAL
        };
        request.headers.iter().any(own)
    }
}
