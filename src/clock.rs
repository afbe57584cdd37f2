//! The time: read in this file only, handed down as a value, turned by hand in tests.
//!
//! Owns: every reading of the operating system's clocks.
//! Never touches: what the time is used for.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// Where the wall-clock time comes from. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    hand: Option<Arc<Mutex<SystemTime>>>,
}

impl Clock {
    /// The operating system's clock.
    pub fn system() -> Self {
        Self { hand: None }
    }

    /// A clock that stands at `start` until [`Clock::advance`] turns it.
    pub fn by_hand(start: SystemTime) -> Self {
        Self { hand: Some(Arc::new(Mutex::new(start))) }
    }

    /// The wall-clock time now.
    pub fn now(&self) -> SystemTime {
        match &self.hand {
            Some(hand) => *hand.lock(),
            None => read_system(),
        }
    }

    /// Turns a hand-turned clock forward; the operating system's clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Some(hand) = &self.hand {
            let mut time = hand.lock();
            *time = time.checked_add(by).unwrap_or(*time);
        }
    }
}

/// The monotonic time, for measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn read_system() -> SystemTime {
    SystemTime::now()
}
