//! The mode switch: one for all requests, set while they run.
//!
//! Owns: the current mode. Never touches: the effect of the mode on a request (`request`).

use std::sync::atomic::{AtomicU8, Ordering};

use http::StatusCode;

use crate::policy::Mode;
use crate::telemetry::problem::Problem;

/// The response to a request that only an origin could serve while larder is offline.
pub const OFFLINE_PROBLEM: Problem = Problem::new(
    StatusCode::GATEWAY_TIMEOUT,
    "offline",
    "larder is offline (`larder mode`) and nothing usable is stored; no API was called",
    "http_request_denied",
);

/// The mode switch. Reading it costs one load, because every hit reads it.
#[derive(Debug)]
pub struct ModeSwitch(AtomicU8);

impl ModeSwitch {
    /// Creates a switch with this mode.
    pub fn new(mode: Mode) -> Self {
        Self(AtomicU8::new(number(mode)))
    }

    /// The current mode.
    pub fn mode(&self) -> Mode {
        // Relaxed: no other data is published with it.
        match self.0.load(Ordering::Relaxed) {
            BYPASS => Mode::Bypass,
            OFFLINE => Mode::Offline,
            _ => Mode::Cache,
        }
    }

    /// Sets the mode and returns the previous one.
    pub fn set(&self, mode: Mode) -> Mode {
        let before = self.mode();
        self.0.store(number(mode), Ordering::Relaxed);
        before
    }
}

fn number(mode: Mode) -> u8 {
    match mode {
        Mode::Cache => CACHE,
        Mode::Bypass => BYPASS,
        Mode::Offline => OFFLINE,
    }
}

const CACHE: u8 = 0;
const BYPASS: u8 = 1;
const OFFLINE: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_the_mode_that_was_set() {
        let switch = ModeSwitch::new(Mode::Cache);
        let mut before = Mode::Cache;
        for mode in Mode::ALL.into_iter().chain([Mode::Bypass, Mode::Cache]) {
            assert_eq!(switch.set(mode), before);
            assert_eq!(switch.mode(), mode);
            before = mode;
        }
    }
}
