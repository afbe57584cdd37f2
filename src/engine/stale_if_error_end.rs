//! What ends the right of a stored answer to stand in for errors: that the thing is gone, or that its asker may
//! not have it.
//!
//! Owns: for whom an answer does so. Never touches: how long it is remembered (`remembered`), what is fresh.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::engine::Engine;
use crate::key::CacheKey;
use crate::policy::{Policy, ScopeRule, StaleIfErrorEnd};
use crate::semantics::request::ProxyRequest;
use crate::store::Lookup;
use crate::stored::StoredResponse;

/// What stands in a request for larder's own credential until it leaves.
pub const OWN_CREDENTIAL: HeaderValue = HeaderValue::from_static("larder");

impl Engine {
    /// `asked`, whose place in the order of questions is `order`, was answered so, and not for a limit of
    /// calls: what was asked for before it may stand in for errors no more, as the policy says.
    pub(crate) async fn ends(
        &self,
        asked: &ProxyRequest,
        policy: &Policy,
        key: &CacheKey,
        status: StatusCode,
        order: u64,
    ) {
        let whose = policy.stale_if_error.ended_by(status);
        // What one credential may not have others may.
        let of_asker = whose == Some(StaleIfErrorEnd::Asker)
            && !(policy.scope == ScopeRule::Shared && self.shows_a_credential(asked));
        if whose == Some(StaleIfErrorEnd::All) {
            let targets = self.targets(&asked.target);
            for target in targets.into_iter().filter(|target| self.store.may_keep(*target)) {
                self.remembered.end(target, order);
            }
        }
        // Credentials that are made up have nothing stored: no number of them makes larder forget the ends of others.
        if of_asker && self.store.may_keep(key.target_id()) {
            let found = self.lookup(asked, key, policy).await;
            if matches!(found, Lookup::Found(_) | Lookup::OtherVariants(_)) {
                self.remembered.end(key.id(), order);
            }
        }
    }

    /// Whether a stored answer may still stand in for errors, as far as later answers bear on that.
    pub(crate) fn has_its_right(&self, key: &CacheKey, stored: &StoredResponse) -> bool {
        self.remembered.may_stand_in([key.target_id(), key.id()], stored.asked)
    }

    /// The same of what is stored, if anything is.
    pub(crate) fn falls_back(&self, key: &CacheKey, stored: Option<&StoredResponse>) -> bool {
        stored.is_none_or(|stored| self.has_its_right(key, stored))
    }

    /// A credential of its client's own; larder's is the same for all.
    fn shows_a_credential(&self, asked: &ProxyRequest) -> bool {
        let own = |(name, value): (&HeaderName, &HeaderValue)| {
            self.keyring.is_credential(name) && *value != OWN_CREDENTIAL
        };
        asked.headers.iter().any(own)
    }
}
