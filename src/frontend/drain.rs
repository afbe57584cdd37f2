//! How far the end of a larder has come, as its connections see it.
//!
//! Owns: the stages. Never touches: who says them (`server`).

use std::time::Duration;

/// A stage. They only follow one another, never go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainState {
    /// Requests are taken.
    Open,
    /// No new connection. Each answer that begins from now on is the last of its connection; one
    /// without a request is closed after this grace, counted from here or from its last answer.
    Closing {
        /// How long a client has to notice, by its next request, that there will be no further one.
        grace: Duration,
    },
    /// Whatever is still open is cut.
    Over,
}

impl DrainState {
    /// Whether an answer that begins now is the last of its connection.
    pub fn is_closing(self) -> bool {
        self.grace().is_some()
    }

    /// How long a connection without a request may stay; `None`: as long as `limits.idle` says.
    pub fn grace(self) -> Option<Duration> {
        match self {
            Self::Open => None,
            Self::Closing { grace } => Some(grace),
            Self::Over => Some(Duration::ZERO),
        }
    }
}
