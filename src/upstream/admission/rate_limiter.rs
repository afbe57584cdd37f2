//! Rate limits of an upstream: limits that the operator configured, and limits learned from responses.
//!
//! Owns: when the next call may go out. Pure: time is an argument. Never touches: the order of calls
//! (`wait_queue`), waiting.

mod window;

use std::time::{Duration, Instant};

use crate::semantics::rate_limit::RateLimitState;

pub(in crate::upstream) use crate::upstream::admission::rate_limiter::window::{
    SavedWindow, SlidingWindow, Write,
};

/// A limit learned from the origin's responses.
#[derive(Debug, Default)]
pub(in crate::upstream) enum AdaptiveLimit {
    /// No response yet: one call goes out to learn the limit.
    #[default]
    Unknown,
    /// The call that learns the limit is in flight.
    Probing,
    /// The responses state no limits.
    Unadvertised,
    /// The responses state this limit.
    Known(ObservedLimit),
}

/// A known limit.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::upstream) struct ObservedLimit {
    /// Calls per window.
    pub(in crate::upstream) limit: u64,
    /// Calls that may still go out in this window.
    pub(in crate::upstream) left: u64,
    /// When this window ends.
    pub(in crate::upstream) resets: Instant,
    /// The length of a window.
    pub(in crate::upstream) window: Option<Duration>,
    /// Calls that went out and have no response yet.
    unanswered: u64,
}

impl AdaptiveLimit {
    /// How long until a call may go out. Zero: now. `None`: once the call in flight gets a response.
    pub(in crate::upstream) fn wait(&mut self, now: Instant) -> Option<Duration> {
        match self {
            Self::Unknown | Self::Unadvertised => Some(Duration::ZERO),
            Self::Probing => None,
            Self::Known(known) => Some(known.wait(now)),
        }
    }

    /// Records that a call goes out.
    pub(in crate::upstream) fn send(&mut self) {
        match self {
            Self::Unknown => *self = Self::Probing,
            Self::Probing | Self::Unadvertised => {}
            Self::Known(known) => {
                known.left = known.left.saturating_sub(1);
                known.unanswered += 1;
            }
        }
    }

    /// When the window that the origin stated ends.
    pub(in crate::upstream) fn resets(&self) -> Option<Instant> {
        self.known().map(|known| known.resets)
    }

    /// The limit, if it is known.
    pub(in crate::upstream) fn known(&self) -> Option<&ObservedLimit> {
        match self {
            Self::Known(known) => Some(known),
            Self::Unknown | Self::Probing | Self::Unadvertised => None,
        }
    }

    /// How many calls may go out, if the limit is known.
    pub(in crate::upstream) fn remaining(&self, now: Instant) -> Option<u64> {
        self.known().map(|known| known.left_at(now))
    }

    /// A call ended without a response that states limits.
    pub(in crate::upstream) fn on_no_response(&mut self) {
        match self {
            Self::Probing => *self = Self::Unknown,
            Self::Known(known) => known.unanswered = known.unanswered.saturating_sub(1),
            Self::Unknown | Self::Unadvertised => {}
        }
    }

    /// A response arrived; `quota` contains the limits that it states.
    pub(in crate::upstream) fn on_response(&mut self, quota: Option<&RateLimitState>, now: Instant) {
        self.on_no_response();
        let update = quota.and_then(QuotaUpdate::from_state);
        match (&mut *self, update) {
            (Self::Known(known), Some(update)) => known.apply(update, now),
            (Self::Unknown | Self::Probing | Self::Unadvertised, Some(update)) => {
                *self = Self::Known(ObservedLimit::new(update, now));
            }
            (Self::Unknown | Self::Probing, None) => *self = Self::Unadvertised,
            (Self::Unadvertised | Self::Known(_), None) => {}
        }
    }
}

/// The fields of a quota that the limit needs.
#[derive(Clone, Copy)]
struct QuotaUpdate {
    limit: Option<u64>,
    left: u64,
    resets_in: Duration,
    window: Option<Duration>,
}

impl QuotaUpdate {
    fn from_state(quota: &RateLimitState) -> Option<Self> {
        let (left, resets_in) = (quota.remaining?, quota.resets_in?);
        Some(Self { limit: quota.limit, left, resets_in, window: quota.window })
    }
}

impl ObservedLimit {
    fn new(update: QuotaUpdate, now: Instant) -> Self {
        Self {
            limit: update.limit.unwrap_or(update.left + 1).max(1),
            left: update.left,
            resets: now.checked_add(update.resets_in).unwrap_or(now),
            window: update.window.or(Some(update.resets_in).filter(|time| !time.is_zero())),
            unanswered: 0,
        }
    }

    /// How many calls may go out at `now`.
    pub(in crate::upstream) fn left_at(&self, now: Instant) -> u64 {
        if now >= self.resets { self.limit } else { self.left }
    }

    fn wait(&mut self, now: Instant) -> Duration {
        if now >= self.resets && self.left < self.limit {
            // The next window begins with the next call, whose response states its length.
            self.left = self.limit;
            let window = self.window.unwrap_or_default();
            self.resets = now.checked_add(window).unwrap_or(now);
        }
        if self.left > 0 { Duration::ZERO } else { self.resets.saturating_duration_since(now) }
    }

    /// Within a window the smaller number is used: calls may be in flight, or made by other clients. If the
    /// origin states a later end, it has begun a new window.
    fn apply(&mut self, update: QuotaUpdate, now: Instant) {
        self.limit = update.limit.unwrap_or(self.limit).max(1);
        let resets = now.checked_add(update.resets_in).unwrap_or(now);
        let is_new_window = resets.saturating_duration_since(self.resets) > self.slack();
        if is_new_window {
            self.left = update.left.saturating_sub(self.unanswered);
            self.resets = resets;
            self.window = update.window.or(self.window.max(Some(update.resets_in)));
        } else {
            self.left = self.left.min(update.left);
            // An end in whole seconds is never before the real one.
            self.resets = self.resets.max(resets.min(self.resets + self.slack()));
        }
    }

    /// The difference between responses in the stated end of the same window.
    fn slack(&self) -> Duration {
        let quarter = self.window.unwrap_or_default() / 4;
        quarter.clamp(Duration::from_millis(50), Duration::from_secs(2))
    }
}

#[cfg(test)]
mod tests;
