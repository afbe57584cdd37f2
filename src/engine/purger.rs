//! Invalidates stored responses: for the operator, and for requests that may change a resource, where the
//! outcome is known (RFC 9111 §4.4) and where it is not.
//!
//! Owns: the ids under which a URL is stored, under every query rule that has applied; making a purge
//! durable before it is acknowledged; how long a response waits until its invalidation is durable. Never
//! touches: the operator's request (`admin`), requests in transit (`proxy`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use crate::engine::deps::EngineDeps;
use crate::engine::persistent_facts::PersistentFacts;
use crate::key::KeyBuilder;
use crate::semantics::invalidation;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::store::Store;
use crate::store::generations::{PurgeKind, PurgeScope};
use crate::telemetry::Telemetry;
use crate::upstream::Origin;

/// Maximum time that the response to an unsafe method waits until its invalidation is on disk.
const MAX_DURABLE_WAIT: Duration = Duration::from_millis(50);

/// Invalidates the stored responses of an engine.
pub struct Purger {
    store: Arc<dyn Store>,
    origin: Arc<dyn Origin>,
    telemetry: Arc<Telemetry>,
    key_builder: Arc<KeyBuilder>,
    persistent_facts: Arc<PersistentFacts>,
}

impl Purger {
    pub(super) fn new(deps: &EngineDeps) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(&deps.store),
            origin: Arc::clone(&deps.origin),
            telemetry: Arc::clone(&deps.telemetry),
            key_builder: Arc::clone(&deps.key_builder),
            persistent_facts: Arc::clone(&deps.persistent_facts),
        })
    }

    /// The target under which responses for `target` are stored: where an upstream moves it, or `target`
    /// itself.
    pub fn effective_target(&self, target: &Target) -> Target {
        self.origin.canonical_target(target).unwrap_or_else(|| target.clone())
    }

    /// The scopes under which responses for `target` (an effective target) may be stored, including
    /// those by the query rules of removed routes, because such routes may come back.
    pub fn purge_scopes(&self, target: &Target) -> BTreeSet<PurgeScope> {
        self.target_ids(target).into_iter().map(PurgeScope::Target).collect()
    }

    /// The same as ids.
    pub(super) fn target_ids(&self, target: &Target) -> BTreeSet<u128> {
        let id = |rule| self.key_builder.target_id(target, &rule);
        self.persistent_facts.rules().into_iter().map(id).collect()
    }

    /// Invalidates or outdates everything in `scopes`, fills in flight included. Returns once the purge
    /// is durable. `Err`: why it is not durable, although it is already in effect in this process.
    pub async fn purge(&self, scopes: &BTreeSet<PurgeScope>, kind: PurgeKind) -> Result<(), String> {
        for scope in scopes {
            self.store.invalidate(*scope, kind);
        }
        self.telemetry.invalidated("purge", scopes.len() as u64);
        self.store.flush().await
    }

    /// Handles the response to an unsafe method that passed through: the invalidated responses are
    /// unusable from now on (RFC 9111 §4.4), also after a restart.
    /// `then` runs directly after the invalidation, before waiting for it to become durable.
    pub async fn invalidate<T>(
        &self,
        request: &ProxyRequest,
        status: StatusCode,
        headers: &HeaderMap,
        then: impl FnOnce() -> T,
    ) -> T {
        let moved = |target: &Target| self.origin.canonical_target(target);
        let targets = invalidation::targets(request, status, headers, moved);
        let scopes: Vec<PurgeScope> = targets.iter().flat_map(|target| self.purge_scopes(target)).collect();
        let changed = self.invalidate_scopes(&scopes, PurgeKind::Hard, "unsafe-method");
        let result = then();
        if changed {
            self.await_durable().await;
        }
        result
    }

    /// Returns a guard for a request that is about to be sent; `None`: the request cannot change anything.
    pub fn guard_outcome(self: &Arc<Self>, request: &ProxyRequest) -> Option<UnknownOutcomeGuard> {
        let scopes = || self.purge_scopes(&request.target).into_iter().collect();
        invalidation::may_change(request)
            .then(|| UnknownOutcomeGuard { purger: Arc::clone(self), scopes: scopes() })
    }

    /// The client may rely on its response, so the response waits briefly for the disk. A slow or
    /// missing disk must not block responses; the store logs its failures.
    async fn await_durable(&self) {
        let _late = timeout(MAX_DURABLE_WAIT, self.store.flush()).await;
    }

    /// Invalidates `scopes`, for the reason `source`. Returns whether anything of them may be stored.
    pub(super) fn invalidate_scopes(
        &self,
        scopes: &[PurgeScope],
        kind: PurgeKind,
        source: &'static str,
    ) -> bool {
        let count = scopes.iter().filter(|scope| self.store.invalidate(**scope, kind)).count();
        if count > 0 {
            self.telemetry.invalidated(source, count as u64);
        }
        count > 0
    }
}

/// Guards a sent request that may change a resource, while its outcome is unknown. If it is dropped in
/// that state, stored responses of the target are outdated: they may only be served on errors.
pub struct UnknownOutcomeGuard {
    purger: Arc<Purger>,
    scopes: Vec<PurgeScope>,
}

impl UnknownOutcomeGuard {
    /// The outcome is known: the origin has responded, and not as a gateway with unknown outcome.
    pub fn resolved(mut self) {
        self.scopes.clear();
    }

    /// The outcome stays unknown.
    pub async fn invalidate_unresolved(mut self) {
        let scopes = std::mem::take(&mut self.scopes);
        if self.purger.invalidate_scopes(&scopes, PurgeKind::Superseded, "unknown-outcome") {
            self.purger.await_durable().await;
        }
    }
}

impl Drop for UnknownOutcomeGuard {
    fn drop(&mut self) {
        self.purger.invalidate_scopes(&self.scopes, PurgeKind::Superseded, "unknown-outcome");
    }
}
