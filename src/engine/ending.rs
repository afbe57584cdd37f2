//! How a fill ends, whatever happens to its task.
//!
//! Owns: that readers are told and nobody joins any more, even after a panic; the outcome of a
//! background fill in the account. Never touches: fetching.

use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::collapse::FlightKey;
use crate::engine::flight::Flight;
use crate::upstream::failure::Failure;

/// The end of a fill. Should its task die half-way (a panic in a dependency), its readers are told,
/// not left waiting, and nobody joins it any more. After a regular end only the account is new: the
/// first word counts.
pub(super) struct Ending {
    pub(super) engine: Arc<Engine>,
    pub(super) flight: Arc<Flight>,
    pub(super) place: Option<FlightKey>,
    pub(super) route: usize,
    pub(super) trigger: Option<&'static str>,
    pub(super) outcome: Outcome,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            self.engine.flights.leave(place, &self.flight);
        }
        self.flight.fail_unless_published(Failure::Internal);
        self.flight.body.finish(Err(Failure::Internal));
        if let Some(trigger) = self.trigger {
            self.engine.account.refresh(self.route, trigger, self.outcome.token());
        }
    }
}

/// What a fill did to the stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The origin said 304: it goes on.
    Confirmed,
    /// A new one took its place.
    Replaced,
    /// The answer came, but is not one to store.
    NotStored,
    /// No answer, a cut one, or an error.
    Failed,
}

impl Outcome {
    fn token(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Replaced => "replaced",
            Self::NotStored => "not-stored",
            Self::Failed => "failed",
        }
    }
}
