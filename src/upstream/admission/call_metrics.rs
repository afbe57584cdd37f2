//! What is recorded of each call to an origin.
//!
//! Owns: that it is recorded once. Never touches: what the call means for others (`pass`).

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use crate::clock;
use crate::telemetry::{Telemetry, UpstreamEvent};
use crate::upstream::routing::UpstreamTarget;

/// A call that is under way. Dropped without a word, it counts as abandoned.
pub struct CallTimer {
    account: Arc<Telemetry>,
    /// Where it goes.
    pub(super) place: UpstreamTarget,
    route: usize,
    since: Instant,
    said: bool,
}

impl CallTimer {
    pub(super) fn new(account: Arc<Telemetry>, place: UpstreamTarget, route: usize) -> Self {
        Self { account, place, route, since: clock::monotonic(), said: false }
    }

    /// The head of the final answer came.
    pub fn answered(&mut self, status: StatusCode) {
        self.say(Ok(status));
    }

    /// No head came.
    pub fn failed(&mut self, token: &'static str) {
        self.say(Err(token));
    }

    fn say(&mut self, outcome: Result<StatusCode, &'static str>) {
        if std::mem::replace(&mut self.said, true) {
            return;
        }
        self.account.upstream_call(&UpstreamEvent {
            upstream: self.place.index,
            route: self.route,
            host: &self.place.host,
            port: self.place.port,
            outcome,
            duration: clock::monotonic().saturating_duration_since(self.since),
        });
    }
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        self.say(Err("abandoned"));
    }
}
