//! A background refresh whose body the origin cut.
//!
//! Owns: its effect on later calls, and its log line. Never touches: the refresh (`engine::fill`).

use crate::telemetry::CutRefreshEvent;
use crate::upstream::admission::AdmissionControl;
use crate::upstream::admission::call::{CallContext, LimitKeys};
use crate::upstream::admission::feedback::CallReport;
use crate::upstream::admission::state::Admission;
use crate::upstream::outcome::classify;
use crate::upstream::outcome::error::UpstreamError;

impl AdmissionControl {
    /// The head of the response counted as a success. Its key gets the cooldown of a failure all the same:
    /// otherwise each request that is served the stale response would start another such call.
    pub fn on_cut_refresh(&self, call: &CallContext, failure: UpstreamError) {
        let Some(outcome) = classify::failure(failure) else { return };
        let target = call.target();
        self.telemetry.refresh_cut(&CutRefreshEvent {
            upstream: target.index,
            route: call.routed.route_index,
            host: &target.host,
            port: target.port,
            error: failure.token(),
        });
        let Some(upstream) = self.upstream_state(call) else { return };
        let keys = LimitKeys::new(call);
        let report = CallReport { keys: &keys, outcome: &outcome, now: self.clock.instant() };
        upstream.limiter.lock().on_outcome(report, &Admission::default());
        upstream.recheck.notify_waiters();
    }
}
