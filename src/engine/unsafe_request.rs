//! Effect of requests that may change a resource on stored responses: where the outcome is known (RFC
//! 9111 §4.4), and where it is not.
//!
//! Owns: the ids of a target under every query rule that has applied; how long a response waits until
//! its invalidation is durable. Never touches: requests in transit (`proxy`).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use crate::engine::Engine;
use crate::semantics::invalidation;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::store::generations::{PurgeKind, PurgeScope};

/// Maximum time that the response to an unsafe method waits until its invalidation is on disk.
const MAX_DURABLE_WAIT: Duration = Duration::from_millis(50);

/// Guards a sent request that may change a resource, while its outcome is unknown. If it is dropped in
/// that state, stored responses of the target are outdated: they may only be served on errors.
pub struct UnknownOutcomeGuard {
    engine: Arc<Engine>,
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
        if self.engine.invalidate_scopes(&scopes, PurgeKind::Superseded, "unknown-outcome") {
            self.engine.await_durable().await;
        }
    }
}

impl Drop for UnknownOutcomeGuard {
    fn drop(&mut self) {
        self.engine.invalidate_scopes(&self.scopes, PurgeKind::Superseded, "unknown-outcome");
    }
}

impl Engine {
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
        let scopes: Vec<PurgeScope> =
            targets.iter().flat_map(|target| self.purge_scopes(target)).collect();
        let changed = self.invalidate_scopes(&scopes, PurgeKind::Hard, "unsafe-method");
        let result = then();
        if changed {
            self.await_durable().await;
        }
        result
    }

    /// Returns a guard for a request that is about to be sent; `None`: the request cannot change
    /// anything.
    pub fn guard_outcome(self: &Arc<Self>, request: &ProxyRequest) -> Option<UnknownOutcomeGuard> {
        let scopes = || self.purge_scopes(&request.target).into_iter().collect();
        invalidation::may_change(request)
            .then(|| UnknownOutcomeGuard { engine: Arc::clone(self), scopes: scopes() })
    }

    /// The client may rely on its response, so the response waits briefly for the disk. A slow or
    /// missing disk must not block responses; the store logs its failures.
    async fn await_durable(&self) {
        let _late = timeout(MAX_DURABLE_WAIT, self.store.flush()).await;
    }

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
