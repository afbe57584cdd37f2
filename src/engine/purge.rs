//! What an operator does with what is stored: look at it, purge it.
//!
//! Owns: which ids a URL is stored under, and that a purge lasts before it is acknowledged.
//! Never touches: how the operator says it (`admin`).

use std::collections::BTreeSet;

use crate::decide;
use crate::engine::Engine;
use crate::policy::Policy;
use crate::semantics::storability::CacheKind;
use crate::semantics::target::Target;
use crate::store::generations::{PurgeKind, PurgeScope};
use crate::store::{EntryId, EntryInfo};

/// How many entries are counted at a time.
const COUNTED: usize = 1000;

impl Engine {
    /// The target by which larder knows what `target` leads to.
    pub fn known_as(&self, target: &Target) -> Target {
        self.origin.moved(target).unwrap_or_else(|| target.clone())
    }

    /// What `target`, as larder knows it, may be stored under: by the rules of routes that are gone, too. They
    /// may come back.
    pub fn reach(&self, target: &Target) -> BTreeSet<PurgeScope> {
        self.targets(target).into_iter().map(PurgeScope::Target).collect()
    }

    /// The same, as ids.
    pub(crate) fn targets(&self, target: &Target) -> BTreeSet<u128> {
        let id = |rule| self.keyring.target_id(target, &rule);
        self.remembered.rules().into_iter().map(id).collect()
    }

    /// Makes what `reach` reaches unusable or outdated, fills in flight included. Returns once that
    /// outlives the process; `Err` says why it would not, though it counts here and now.
    pub async fn purge(&self, reach: &BTreeSet<PurgeScope>, kind: PurgeKind) -> Result<(), String> {
        for one in reach {
            self.store.invalidate(*one, kind);
        }
        self.account.invalidated("purge", reach.len() as u64);
        self.store.flush().await
    }

    /// How many stored answers `reach` reaches.
    pub async fn count(&self, reach: &BTreeSet<PurgeScope>) -> u64 {
        let mut count = 0;
        for one in reach {
            let target = match one {
                PurgeScope::Target(target) => Some(*target),
                PurgeScope::All => None,
            };
            let mut after = None;
            loop {
                let page = self.list(after, COUNTED, target).await;
                count += page.len() as u64;
                match page.last() {
                    Some(last) if page.len() == COUNTED => after = Some(last.place),
                    Some(_) | None => break,
                }
            }
        }
        count
    }

    /// At most `limit` stored answers behind `after`, of one target or of all.
    pub async fn list(
        &self,
        after: Option<EntryId>,
        limit: usize,
        target: Option<u128>,
    ) -> Vec<EntryInfo> {
        self.store.list(after, limit, target).await
    }

    /// The remaining freshness of a stored answer under `policy` now, in seconds.
    pub fn ttl(&self, listed: &EntryInfo, kind: CacheKind, policy: &Policy) -> i64 {
        decide::ttl(policy, kind, &listed.stored, self.clock.now())
    }
}
