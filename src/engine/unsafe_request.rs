//! What requests that may change something do to what is stored: where the outcome is known (RFC 9111 §4.4), and
//! where it is not.
//!
//! Owns: which ids a target is stored under, by every rule that ever counted; how long an answer waits for its
//! invalidation to last. Never touches: requests on their way (`proxy`).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use crate::engine::Engine;
use crate::semantics::invalidation;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::store::generations::{PurgeKind, PurgeScope};

/// How long the answer to an unsafe method waits for its invalidation to be on disk.
const SETTLE: Duration = Duration::from_millis(50);

/// A request that may change something was sent, and what came of it is not known. Dropped so, what is stored
/// of its target is outdated: it may stand in for errors, and for nothing else.
pub struct UnknownOutcomeGuard {
    engine: Arc<Engine>,
    reach: Vec<PurgeScope>,
}

impl UnknownOutcomeGuard {
    /// It is known: the origin has answered, and not as a gateway that does not know either.
    pub fn resolved(mut self) {
        self.reach.clear();
    }

    /// It will not be known.
    pub async fn stays(mut self) {
        let reach = std::mem::take(&mut self.reach);
        if self.engine.changed(&reach, PurgeKind::Superseded, "unknown-outcome") {
            self.engine.lasts().await;
        }
    }
}

impl Drop for UnknownOutcomeGuard {
    fn drop(&mut self) {
        self.engine.changed(&self.reach, PurgeKind::Superseded, "unknown-outcome");
    }
}

impl Engine {
    /// An unsafe method was answered through the pass-through: what it invalidates is unusable from now on
    /// (RFC 9111 §4.4), and after a restart too.
    /// `then`: to be done at once behind it, before it is waited for that it lasts.
    pub async fn invalidate<T>(
        &self,
        asked: &ProxyRequest,
        status: StatusCode,
        headers: &HeaderMap,
        then: impl FnOnce() -> T,
    ) -> T {
        let moved = |target: &Target| self.origin.moved(target);
        let targets = invalidation::targets(asked, status, headers, moved);
        let reach: Vec<PurgeScope> = targets.iter().flat_map(|target| self.reach(target)).collect();
        let changed = self.changed(&reach, PurgeKind::Hard, "unsafe-method");
        let done = then();
        if changed {
            self.lasts().await;
        }
        done
    }

    /// A request is sent to its origin: what is in doubt until it is answered. `None`: it changes nothing.
    pub fn doubt(self: &Arc<Self>, asked: &ProxyRequest) -> Option<UnknownOutcomeGuard> {
        let reach = || self.reach(&asked.target).into_iter().collect();
        invalidation::may_change(asked)
            .then(|| UnknownOutcomeGuard { engine: Arc::clone(self), reach: reach() })
    }

    /// The client may take its answer for a promise: it waits a little for the disk. A disk that is slower,
    /// or gone, must not hold answers up; what it says the log tells.
    async fn lasts(&self) {
        let _late = timeout(SETTLE, self.store.flush()).await;
    }

    pub(super) fn changed(
        &self,
        reach: &[PurgeScope],
        kind: PurgeKind,
        source: &'static str,
    ) -> bool {
        let count = reach.iter().filter(|one| self.store.invalidate(**one, kind)).count();
        if count > 0 {
            self.account.invalidated(source, count as u64);
        }
        count > 0
    }
}
