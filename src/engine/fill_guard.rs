//! How a fill ends, whatever happens to its task.
//!
//! Owns: that readers are told and nobody joins any more, even after a panic; the outcome of a
//! background fill in the account. Never touches: fetching.

use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::collapse::InFlightKey;
use crate::engine::inflight::InFlightFetch;
use crate::upstream::error::UpstreamError;

/// The end of a fill. Should its task die half-way (a panic in a dependency), its readers are told,
/// not left waiting, and nobody joins it any more. After a regular end only the account is new: the
/// first word counts.
pub(super) struct FillGuard {
    pub(super) engine: Arc<Engine>,
    pub(super) flight: Arc<InFlightFetch>,
    pub(super) place: Option<InFlightKey>,
    pub(super) route: usize,
    pub(super) trigger: Option<&'static str>,
    pub(super) outcome: FillOutcome,
}

impl Drop for FillGuard {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            self.engine.flights.remove(place, &self.flight);
        }
        self.flight.fail_unless_published(UpstreamError::Internal);
        self.flight.body.finish(Err(UpstreamError::Internal));
        if let Some(trigger) = self.trigger {
            self.engine.account.refresh(self.route, trigger, self.outcome.token());
        }
    }
}

/// What a fill did to the stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FillOutcome {
    /// The origin said 304: it goes on.
    Confirmed,
    /// A new one took its place.
    Replaced,
    /// The answer came, but is not one to store.
    NotStored,
    /// No answer, a cut one, or an error.
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
