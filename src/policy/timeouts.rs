//! Deadlines of calls: soft ones, from which something better than waiting is used if there is any, and hard
//! ones, which end a call.
//!
//! Owns: the values, and which deadline applies to a call. Never touches: timers, the configuration file.

use std::time::Duration;

/// A deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// From then on a stale response is served and the call counts as slow, but it goes on.
    Soft(Duration),
    /// The call ends.
    Hard(Duration),
    /// Neither.
    Off,
}

impl Deadline {
    /// The time after which the call ends; `None`: only `limits.patience` ends it.
    pub fn hard(self) -> Option<Duration> {
        match self {
            Self::Hard(time) => Some(time),
            Self::Soft(_) | Self::Off => None,
        }
    }

    /// The time after which the call counts as slow.
    pub fn soft(self) -> Option<Duration> {
        match self {
            Self::Soft(time) => Some(time),
            Self::Hard(_) | Self::Off => None,
        }
    }

    /// The time, soft or hard.
    pub fn time(self) -> Option<Duration> {
        self.hard().or(self.soft())
    }
}

/// The timeouts of calls to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection is established, TLS included, over all addresses.
    pub connect: Duration,
    /// From the last byte of the request to the response head.
    pub first_byte: Deadline,
    /// Between two reads of a response body.
    pub between_bytes: Deadline,
    /// From the first attempt: no retry begins later, and with a hard deadline no response is stored later.
    pub total: Deadline,
    /// The longest wait for anything that has no hard deadline of its own (`limits.patience`).
    pub patience: Duration,
}

/// The timeouts that a route or an upstream sets; the others are those of the upstream, or the defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeoutOverrides {
    /// `connect`.
    pub connect: Option<Duration>,
    /// `first_byte`.
    pub first_byte: Option<Deadline>,
    /// `between_bytes`.
    pub between_bytes: Option<Deadline>,
    /// `total`.
    pub total: Option<Deadline>,
}

impl Timeouts {
    /// These timeouts, with those that `overrides` sets.
    #[must_use]
    pub fn with(self, overrides: &TimeoutOverrides) -> Self {
        Self {
            connect: overrides.connect.unwrap_or(self.connect),
            first_byte: overrides.first_byte.unwrap_or(self.first_byte),
            between_bytes: overrides.between_bytes.unwrap_or(self.between_bytes),
            total: overrides.total.unwrap_or(self.total),
            patience: self.patience,
        }
    }

    /// How long a call waits for the head of a response, at most.
    pub fn head_limit(&self) -> Duration {
        self.first_byte.hard().unwrap_or(self.patience)
    }

    /// How long a body may be silent, at most.
    pub fn body_limit(&self) -> Duration {
        self.between_bytes.hard().unwrap_or(self.patience)
    }

    /// The time from the call after which its response is no longer stored.
    pub fn storing_limit(&self) -> Duration {
        self.total.hard().unwrap_or(self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_hard_deadlines_end_a_call_before_its_patience() {
        let usual = Timeouts::default();
        assert_eq!(usual.first_byte.soft(), Some(30 * SECOND));
        assert_eq!([usual.head_limit(), usual.body_limit(), usual.storing_limit()], [usual.patience; 3]);
        let written = TimeoutOverrides {
            first_byte: Some(Deadline::Hard(SECOND)),
            between_bytes: Some(Deadline::Off),
            ..TimeoutOverrides::default()
        };
        let written = usual.with(&written);
        assert_eq!((written.head_limit(), written.body_limit()), (SECOND, usual.patience));
        assert_eq!((written.first_byte.soft(), written.between_bytes.time()), (None, None));
        assert_eq!((written.connect, written.total), (usual.connect, usual.total));
    }
}
