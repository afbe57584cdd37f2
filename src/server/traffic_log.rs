//! The task that logs the requests of each minute.
//!
//! Owns: its interval and its end. Never touches: the counts and the line (`telemetry::traffic`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::frontend::drain::DrainState;
use crate::telemetry::Telemetry;

/// Logs the requests of each minute that had any, until the server stops.
pub(super) async fn run(telemetry: Arc<Telemetry>, clock: Clock, mut drain: watch::Receiver<DrainState>) {
    let mut before = telemetry.traffic();
    loop {
        let stops = tokio::select! {
            () = clock.sleep(INTERVAL) => false,
            // If the sender is gone, the server is as well.
            _stopped = drain.wait_for(|state| *state != DrainState::Open) => true,
        };
        before = telemetry.log_traffic(&before);
        if stops {
            return;
        }
    }
}

const INTERVAL: Duration = Duration::from_secs(60);
