//! The metrics and the log event of each call to an origin.
//!
//! Owns: that each call is recorded once. Never touches: how the call affects later calls (`permit`).

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use crate::clock::Clock;
use crate::telemetry::{Telemetry, UpstreamEvent};
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::routing::UpstreamTarget;

/// A call in flight. If it is dropped without an outcome, it is recorded as abandoned.
pub struct CallTimer {
    telemetry: Arc<Telemetry>,
    /// The target of the call.
    pub(super) target: UpstreamTarget,
    route: usize,
    since: Instant,
    clock: Clock,
    recorded: bool,
}

impl CallTimer {
    pub(super) fn new(telemetry: Arc<Telemetry>, target: UpstreamTarget, route: usize, clock: Clock) -> Self {
        Self { telemetry, target, route, since: clock.instant(), clock, recorded: false }
    }

    /// Records that the head of the final response arrived.
    pub fn on_response(&mut self, status: StatusCode) {
        self.record(Ok(status));
    }

    /// Records that no head arrived.
    pub fn on_failure(&mut self, error: UpstreamError) {
        self.record(Err(error));
    }

    fn record(&mut self, outcome: Result<StatusCode, UpstreamError>) {
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        self.telemetry.upstream_call(&UpstreamEvent {
            upstream: self.target.index,
            route: self.route,
            host: &self.target.host,
            port: self.target.port,
            outcome: outcome.map_err(UpstreamError::token),
            duration: self.clock.instant().saturating_duration_since(self.since),
        });
    }
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        self.record(Err(UpstreamError::Abandoned));
    }
}
