//! Operator access to stored responses: list and purge.
//!
//! Owns: the ids under which a URL is stored; making a purge durable before it is acknowledged. Never
//! touches: the operator's request (`admin`).

use std::collections::BTreeSet;

use crate::decide;
use crate::engine::Engine;
use crate::policy::Policy;
use crate::semantics::storability::CacheKind;
use crate::semantics::target::Target;
use crate::store::generations::{PurgeKind, PurgeScope};
use crate::store::{EntryId, EntryInfo};

/// Number of entries counted per page.
const COUNT_PAGE: usize = 1000;

impl Engine {
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
    pub(crate) fn target_ids(&self, target: &Target) -> BTreeSet<u128> {
        let id = |rule| self.key_builder.target_id(target, &rule);
        self.persistent_facts.rules().into_iter().map(id).collect()
    }

    /// Invalidates or outdates everything in `scopes`, fills in flight included. Returns once the purge
    /// is durable. `Err`: why it is not durable, although it is already in effect in this process.
    pub async fn purge(
        &self,
        scopes: &BTreeSet<PurgeScope>,
        kind: PurgeKind,
    ) -> Result<(), String> {
        for scope in scopes {
            self.store.invalidate(*scope, kind);
        }
        self.telemetry.invalidated("purge", scopes.len() as u64);
        self.store.flush().await
    }

    /// Number of stored responses in `scopes`.
    pub async fn count(&self, scopes: &BTreeSet<PurgeScope>) -> u64 {
        let mut count = 0;
        for scope in scopes {
            let target = match scope {
                PurgeScope::Target(target) => Some(*target),
                PurgeScope::All => None,
            };
            let mut after = None;
            loop {
                let page = self.list(after, COUNT_PAGE, target).await;
                count += page.len() as u64;
                match page.last() {
                    Some(last) if page.len() == COUNT_PAGE => after = Some(last.id),
                    Some(_) | None => break,
                }
            }
        }
        count
    }

    /// At most `limit` stored responses after `after`, of one target or of all.
    pub async fn list(
        &self,
        after: Option<EntryId>,
        limit: usize,
        target: Option<u128>,
    ) -> Vec<EntryInfo> {
        self.store.list(after, limit, target).await
    }

    /// The remaining freshness of a stored response under `policy` now, in seconds.
    pub fn ttl(&self, entry: &EntryInfo, kind: CacheKind, policy: &Policy) -> i64 {
        decide::ttl(policy, kind, &entry.stored, self.clock.now())
    }
}
