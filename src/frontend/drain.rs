//! The progress of a shutdown, as connections see it.
//!
//! Owns: the drain states. Never touches: the transitions between them (`server`).

use std::time::Duration;

/// A drain state. The states only advance; they never go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainState {
    /// Connections and requests are accepted.
    Open,
    /// New connections are not accepted. Each response that begins from now on is the last of its
    /// connection. A connection without a request is closed after the grace period, counted from the
    /// start of this state or from the connection's last response.
    Closing {
        /// The time in which a client's next request can still learn from its response that the
        /// connection closes.
        grace: Duration,
    },
    /// All open connections are aborted.
    Over,
}

impl DrainState {
    /// Whether a response that begins now is the last of its connection.
    pub fn is_closing(self) -> bool {
        self.grace().is_some()
    }

    /// How long a connection without a request may stay open; `None`: for `limits.idle`.
    pub fn grace(self) -> Option<Duration> {
        match self {
            Self::Open => None,
            Self::Closing { grace } => Some(grace),
            Self::Over => Some(Duration::ZERO),
        }
    }
}
