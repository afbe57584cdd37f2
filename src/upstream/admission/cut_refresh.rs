//! A body that fails after its head counted as a success: the origin is silent, or cuts a background refresh.
//!
//! Owns: its effect on later calls, and the log line of a refresh. Never touches: the body (`engine::fill`).

use crate::telemetry::CutRefreshEvent;
use crate::upstream::admission::AdmissionControl;
use crate::upstream::admission::call::{CallContext, LimitKeys};
use crate::upstream::admission::feedback::CallReport;
use crate::upstream::admission::state::Admission;
use crate::upstream::outcome::classify;
use crate::upstream::outcome::error::UpstreamError;

impl AdmissionControl {
    /// The head of the response counted as a success, but the body of this refresh was cut.
    pub fn on_cut_refresh(&self, call: &CallContext, failure: UpstreamError) {
        let target = call.target();
        self.telemetry.refresh_cut(&CutRefreshEvent {
            upstream: target.index,
            route: call.routed.route_index,
            host: &target.host,
            port: target.port,
            error: failure.token(),
        });
        self.on_failed_body(call, failure);
    }

    /// The key of the call gets the cooldown of a failure: otherwise each request for which a stale response
    /// could be served would start another such call.
    pub fn on_failed_body(&self, call: &CallContext, failure: UpstreamError) {
        let Some(outcome) = classify::failure(failure) else { return };
        let Some(upstream) = self.upstream_state(call) else { return };
        let keys = LimitKeys::new(call);
        let report = CallReport { keys: &keys, outcome: &outcome, now: self.clock.instant() };
        upstream.limiter.lock().on_outcome(report, &Admission::default());
        upstream.recheck.notify_waiters();
    }
}
