//! The master switch: one for all requests, turned while they run.
//!
//! Owns: what it says now. Never touches: what that means for a request (`answer`).

use std::sync::atomic::{AtomicU8, Ordering};

use http::StatusCode;

use crate::policy::Mode;
use crate::telemetry::problem::Problem;

/// The answer to what only an origin could answer while larder is offline.
pub const OFFLINE_PROBLEM: Problem = Problem::new(
    StatusCode::GATEWAY_TIMEOUT,
    "offline",
    "larder is offline (`larder mode`) and nothing usable is stored; no API was called",
    "http_request_denied",
);

/// The master switch. Looking at it costs one load: every hit does.
#[derive(Debug)]
pub struct ModeSwitch(AtomicU8);

impl ModeSwitch {
    /// A switch that says `mode`.
    pub fn new(mode: Mode) -> Self {
        Self(AtomicU8::new(number(mode)))
    }

    /// What it says.
    pub fn mode(&self) -> Mode {
        // Relaxed: nothing else is published with it.
        match self.0.load(Ordering::Relaxed) {
            BYPASS => Mode::Bypass,
            OFFLINE => Mode::Offline,
            _ => Mode::Cache,
        }
    }

    /// Turns it; what it said before.
    pub fn turn(&self, mode: Mode) -> Mode {
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
    fn it_says_what_it_was_turned_to() {
        let switch = ModeSwitch::new(Mode::Cache);
        let mut before = Mode::Cache;
        for mode in Mode::ALL.into_iter().chain([Mode::Bypass, Mode::Cache]) {
            assert_eq!(switch.turn(mode), before);
            assert_eq!(switch.mode(), mode);
            before = mode;
        }
    }
}
