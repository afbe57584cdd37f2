//! How fast an upstream may be asked: limits that the operator configured, and limits that its answers
//! tell of.
//!
//! Owns: when the next call may go out. Pure: the time is an argument. Never touches: who is next
//! (`line`), waiting.

mod window;

use std::time::{Duration, Instant};

use crate::semantics::rate_limit::RateLimitState;

pub(super) use crate::upstream::rate_limiter::window::{Kept, SlidingWindow, Write};

/// A limit as the origin's answers tell of it.
#[derive(Debug, Default)]
pub(super) enum AdaptiveLimit {
    /// Nothing was heard yet: one call finds out.
    #[default]
    Unknown,
    /// The call that finds out is on its way.
    Asking,
    /// Its answers say nothing of limits.
    Silent,
    /// They do.
    Known(ObservedLimit),
}

/// A limit that is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ObservedLimit {
    /// Calls in a window.
    pub(super) limit: u64,
    /// Calls that may still go out in this one.
    pub(super) left: u64,
    /// When this one ends.
    pub(super) resets: Instant,
    /// How long a window is.
    pub(super) window: Option<Duration>,
    /// Calls that went out and are not answered.
    unanswered: u64,
}

impl AdaptiveLimit {
    /// How long until a call may go out; zero: now; `None`: when the one under way is answered.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        match self {
            Self::Unknown | Self::Silent => Some(Duration::ZERO),
            Self::Asking => None,
            Self::Known(known) => Some(known.wait(now)),
        }
    }

    /// A call goes out.
    pub(super) fn send(&mut self) {
        match self {
            Self::Unknown => *self = Self::Asking,
            Self::Asking | Self::Silent => {}
            Self::Known(known) => {
                known.left = known.left.saturating_sub(1);
                known.unanswered += 1;
            }
        }
    }

    /// When the window ends that the origin speaks of.
    pub(super) fn resets(&self) -> Option<Instant> {
        match self {
            Self::Known(known) => Some(known.resets),
            Self::Unknown | Self::Asking | Self::Silent => None,
        }
    }

    /// How many calls may go out, where the origin has said it.
    pub(super) fn spare(&self, now: Instant) -> Option<u64> {
        match self {
            Self::Known(known) => Some(known.left_at(now)),
            Self::Unknown | Self::Asking | Self::Silent => None,
        }
    }

    /// A call ended without an answer that says anything.
    pub(super) fn on_no_answer(&mut self) {
        match self {
            Self::Asking => *self = Self::Unknown,
            Self::Known(known) => known.unanswered = known.unanswered.saturating_sub(1),
            Self::Unknown | Self::Silent => {}
        }
    }

    /// An answer came; `quota` is what it says of limits.
    pub(super) fn on_response(&mut self, quota: Option<&RateLimitState>, now: Instant) {
        self.on_no_answer();
        let told = quota.and_then(QuotaUpdate::of);
        match (&mut *self, told) {
            (Self::Known(known), Some(told)) => known.correct(told, now),
            (Self::Unknown | Self::Asking | Self::Silent, Some(told)) => {
                *self = Self::Known(ObservedLimit::new(told, now));
            }
            (Self::Unknown | Self::Asking, None) => *self = Self::Silent,
            (Self::Silent | Self::Known(_), None) => {}
        }
    }
}

/// What is needed of a quota to keep to it.
#[derive(Clone, Copy)]
struct QuotaUpdate {
    limit: Option<u64>,
    left: u64,
    resets_in: Duration,
    window: Option<Duration>,
}

impl QuotaUpdate {
    fn of(quota: &RateLimitState) -> Option<Self> {
        let (left, resets_in) = (quota.remaining?, quota.resets_in?);
        Some(Self { limit: quota.limit, left, resets_in, window: quota.window })
    }
}

impl ObservedLimit {
    fn new(told: QuotaUpdate, now: Instant) -> Self {
        Self {
            limit: told.limit.unwrap_or(told.left + 1).max(1),
            left: told.left,
            resets: now.checked_add(told.resets_in).unwrap_or(now),
            window: told.window.or(Some(told.resets_in).filter(|time| !time.is_zero())),
            unanswered: 0,
        }
    }

    /// How many calls may go out at `now`.
    pub(super) fn left_at(&self, now: Instant) -> u64 {
        if now >= self.resets { self.limit } else { self.left }
    }

    fn wait(&mut self, now: Instant) -> Duration {
        if now >= self.resets && self.left < self.limit {
            // The next window begins with the next call; how long it lasts its answer tells.
            self.left = self.limit;
            let window = self.window.unwrap_or_default();
            self.resets = now.checked_add(window).unwrap_or(now);
        }
        if self.left > 0 { Duration::ZERO } else { self.resets.saturating_duration_since(now) }
    }

    /// Within a window the smaller number counts: calls may be under way, or made by others. Once the
    /// origin speaks of a later end, it has begun another window.
    fn correct(&mut self, told: QuotaUpdate, now: Instant) {
        self.limit = told.limit.unwrap_or(self.limit).max(1);
        let resets = now.checked_add(told.resets_in).unwrap_or(now);
        let another = resets.saturating_duration_since(self.resets) > self.slack();
        if another {
            self.left = told.left.saturating_sub(self.unanswered);
            self.resets = resets;
            self.window = told.window.or(self.window.max(Some(told.resets_in)));
        } else {
            self.left = self.left.min(told.left);
            // An end that is told in whole seconds is never before the real one.
            self.resets = self.resets.max(resets.min(self.resets + self.slack()));
        }
    }

    /// By how much the end of one window is told differently from answer to answer.
    fn slack(&self) -> Duration {
        let quarter = self.window.unwrap_or_default() / 4;
        quarter.clamp(Duration::from_millis(50), Duration::from_secs(2))
    }
}

#[cfg(test)]
mod tests;
