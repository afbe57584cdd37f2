//! Rate limits of an upstream: limits that the operator configured, and limits learned from responses.
//!
//! Owns: when the next call may go out. Pure: time is an argument. Never touches: the order of calls
//! (`wait_queue`), waiting.

mod window;

use std::time::{Duration, Instant};

use crate::semantics::rate_limit::{LimitUnit, RateLimitState};

pub(in crate::upstream) use crate::upstream::admission::rate_limiter::window::{
    SavedWindow, SlidingWindow, Write,
};

/// The maximum number of limits that an origin states at once.
const MAX_LIMITS: usize = 16;

/// The limits learned from the origin's responses.
#[derive(Debug, Default)]
pub(in crate::upstream) enum AdaptiveLimit {
    /// No response yet: one call goes out to learn the limit.
    #[default]
    Unknown,
    /// The call that learns the limit is in flight.
    Probing,
    /// The responses state no limits.
    Unadvertised,
    /// The responses state these limits. All of them apply.
    Known(Vec<ObservedLimit>),
}

/// A known limit.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::upstream) struct ObservedLimit {
    /// Its name, if the origin states several.
    pub(in crate::upstream) name: Box<str>,
    /// Calls per window.
    pub(in crate::upstream) limit: u64,
    /// Calls that may still go out in this window.
    pub(in crate::upstream) left: u64,
    /// When this window ends.
    pub(in crate::upstream) resets: Instant,
    /// The length of a window.
    pub(in crate::upstream) window: Option<Duration>,
    /// Whether a call uses up one. Otherwise only responses state what is left.
    counts_calls: bool,
    /// Calls that went out and have no response yet.
    unanswered: u64,
}

impl AdaptiveLimit {
    /// How long until a call may go out. Zero: now. `None`: once the call in flight gets a response.
    pub(in crate::upstream) fn wait(&mut self, now: Instant) -> Option<Duration> {
        match self {
            Self::Unknown | Self::Unadvertised => Some(Duration::ZERO),
            Self::Probing => None,
            Self::Known(all) => all.iter_mut().map(|known| known.wait(now)).max(),
        }
    }

    /// Records that a call goes out.
    pub(in crate::upstream) fn send(&mut self) {
        match self {
            Self::Unknown => *self = Self::Probing,
            Self::Probing | Self::Unadvertised => {}
            Self::Known(all) => all.iter_mut().for_each(ObservedLimit::send),
        }
    }

    /// When the last of the windows that the origin stated ends.
    pub(in crate::upstream) fn resets(&self) -> Option<Instant> {
        self.known().iter().map(|known| known.resets).max()
    }

    /// The limits, if they are known.
    pub(in crate::upstream) fn known(&self) -> &[ObservedLimit] {
        match self {
            Self::Known(all) => all,
            Self::Unknown | Self::Probing | Self::Unadvertised => &[],
        }
    }

    /// How many calls may go out, if a limit is known.
    pub(in crate::upstream) fn remaining(&self, now: Instant) -> Option<u64> {
        self.known().iter().map(|known| known.left_at(now)).min()
    }

    /// A call ended without a response that states limits.
    pub(in crate::upstream) fn on_no_response(&mut self) {
        match self {
            Self::Probing => *self = Self::Unknown,
            Self::Known(all) => {
                for known in all {
                    known.unanswered = known.unanswered.saturating_sub(1);
                }
            }
            Self::Unknown | Self::Unadvertised => {}
        }
    }

    /// A response arrived; `limits` are those that it states.
    pub(in crate::upstream) fn on_response<'q>(
        &mut self,
        limits: impl IntoIterator<Item = &'q RateLimitState>,
        now: Instant,
    ) {
        self.on_no_response();
        for update in limits.into_iter().filter_map(QuotaUpdate::from_state) {
            self.apply(update, now);
        }
        if matches!(self, Self::Unknown | Self::Probing) {
            *self = Self::Unadvertised;
        }
    }

    fn apply(&mut self, update: QuotaUpdate<'_>, now: Instant) {
        match self {
            Self::Known(all) => match all.iter().position(|known| *known.name == *update.name) {
                Some(place) => all[place].apply(update, now),
                None if all.len() < MAX_LIMITS => all.push(ObservedLimit::new(update, now)),
                None => {}
            },
            Self::Unknown | Self::Probing | Self::Unadvertised => {
                *self = Self::Known(vec![ObservedLimit::new(update, now)]);
            }
        }
    }
}

/// The fields of a quota that the limit needs.
#[derive(Clone, Copy)]
struct QuotaUpdate<'q> {
    name: &'q str,
    limit: Option<u64>,
    left: u64,
    resets_in: Duration,
    window: Option<Duration>,
    counts_calls: bool,
}

impl<'q> QuotaUpdate<'q> {
    fn from_state(quota: &'q RateLimitState) -> Option<Self> {
        let (left, resets_in) = (quota.remaining?, quota.resets_in?);
        let counts_calls = quota.unit == LimitUnit::Calls;
        let (limit, window) = (quota.limit, quota.window);
        Some(Self { name: &quota.name, limit, left, resets_in, window, counts_calls })
    }
}

impl ObservedLimit {
    fn new(update: QuotaUpdate<'_>, now: Instant) -> Self {
        Self {
            name: update.name.into(),
            limit: update.limit.unwrap_or(update.left + 1).max(1),
            left: update.left,
            resets: now.checked_add(update.resets_in).unwrap_or(now),
            window: update.window.or(Some(update.resets_in).filter(|time| !time.is_zero())),
            counts_calls: update.counts_calls,
            unanswered: 0,
        }
    }

    fn send(&mut self) {
        if self.counts_calls {
            self.left = self.left.saturating_sub(1);
        }
        self.unanswered += 1;
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
    fn apply(&mut self, update: QuotaUpdate<'_>, now: Instant) {
        self.limit = update.limit.unwrap_or(self.limit).max(1);
        let resets = now.checked_add(update.resets_in).unwrap_or(now);
        let is_new_window = resets.saturating_duration_since(self.resets) > self.slack();
        if is_new_window {
            let in_flight = if self.counts_calls { self.unanswered } else { 0 };
            self.left = update.left.saturating_sub(in_flight);
            self.resets = resets;
            self.window = update.window.or(self.window.max(Some(update.resets_in)));
        } else {
            // Other units are not counted here, and some are given back (a balance that fills up).
            self.left = if self.counts_calls { self.left.min(update.left) } else { update.left };
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
