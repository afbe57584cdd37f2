//! Connects the upstream limits with the store that persists them; neither depends on the other.
//!
//! Owns: passing rows between the two, at the current time. Never touches: the content of the rows.

use std::sync::{Arc, Weak};

use async_trait::async_trait;

use crate::clock::Clock;
use crate::store::state_db::{RowSource, Rows};
use crate::store::tiered::TieredStore;
use crate::telemetry::cost::StateRow;
use crate::upstream::admission::{LimitStore, UpstreamRegistry};

/// The upstream limits, as the store sees them.
pub(super) struct UpstreamLimitRows {
    pub(super) registry: Arc<UpstreamRegistry>,
    pub(super) clock: Clock,
}

impl RowSource for UpstreamLimitRows {
    fn restore(&self, rows: &Rows) -> usize {
        let rows = rows.iter().map(|(key, value)| (&key[..], &value[..]));
        self.registry.restore(rows, self.clock.now(), self.clock.instant())
    }

    fn changed(&self) -> Vec<StateRow> {
        self.registry.changed_rows(self.clock.now(), self.clock.instant())
    }
}

/// The store, as the limits see it. The reference is weak, because the store owns the limits.
#[derive(Debug)]
pub(super) struct LimitStorage(pub(super) Weak<TieredStore>);

#[async_trait]
impl LimitStore for LimitStorage {
    async fn flush(&self) {
        if let Some(store) = self.0.upgrade() {
            // The store logs a failure, and it affects no response.
            let _flushed = store.flush_state().await;
        }
    }

    fn flush_soon(&self) {
        if let Some(store) = self.0.upgrade() {
            store.nudge();
        }
    }
}
