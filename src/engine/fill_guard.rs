//! Drop guard of a fill: ends it in every case, even after a panic.
//!
//! Owns: notifying the readers and removing the fetch; recording the outcome of a background fill. Never
//! touches: fetching.

use std::sync::Arc;

use crate::decide::StaleReason;
use crate::engine::collapse::InFlightKey;
use crate::engine::fills::Fills;
use crate::engine::inflight::InFlightFetch;
use crate::upstream::outcome::error::UpstreamError;

/// Ends a fill when dropped. If the task dies early (a panic in a dependency), its readers get an error
/// instead of waiting, and no further request joins. After a regular end the guard only records the
/// outcome, because the first published state and the first end of the body are final.
pub(super) struct FillGuard {
    pub(super) fills: Arc<Fills>,
    pub(super) fetch: Arc<InFlightFetch>,
    pub(super) in_flight_key: Option<InFlightKey>,
    pub(super) route: usize,
    pub(super) trigger: Option<StaleReason>,
    pub(super) outcome: FillOutcome,
}

impl Drop for FillGuard {
    fn drop(&mut self) {
        if let Some(place) = &self.in_flight_key {
            self.fills.in_flight_fetches.remove(place, &self.fetch);
        }
        self.fetch.fail_unless_published(UpstreamError::Internal);
        self.fetch.body.finish(Err(UpstreamError::Internal));
        if let Some(trigger) = self.trigger {
            self.fills.telemetry.refresh(self.route, trigger.token(), self.outcome.token());
        }
    }
}

/// The effect of a fill on the stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FillOutcome {
    /// The origin replied 304: the stored response stays.
    Confirmed,
    /// A new response replaced it.
    Replaced,
    /// The response arrived but is not stored.
    NotStored,
    /// No response, a truncated one, or an error.
    Failed,
}

impl FillOutcome {
    fn token(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Replaced => "replaced",
            Self::NotStored => "not-stored",
            Self::Failed => "failed",
        }
    }
}
