//! Pauses of retries: where the retries of one request have failed, later requests are not retried until
//! the cooldown is over.
//!
//! Owns: the calls whose retries are paused, and until when. Pure: time is an argument. Never touches: the
//! first call of a request, which is always made; cooldowns (`cooldown`).
//!
//! An SDK that retries by itself would multiply larder's retries by its own.

use std::collections::HashMap;
use std::time::Instant;

use crate::upstream::admission::MAX_LIMITS;
use crate::upstream::admission::cooldown::CooldownScope;

/// The paused retries of an upstream.
#[derive(Debug, Default)]
pub(super) struct RetryPauses {
    until: HashMap<CooldownScope, Instant>,
}

impl RetryPauses {
    /// Pauses the retries of all calls in `scope` until this time.
    pub(super) fn begin(&mut self, scope: CooldownScope, until: Instant, now: Instant) {
        if self.until.len() >= MAX_LIMITS {
            self.until.retain(|_, until| *until > now);
        }
        if self.until.len() >= MAX_LIMITS {
            self.until.clear();
        }
        let known = self.until.entry(scope).or_insert(until);
        *known = until.max(*known);
    }

    /// Whether retries of a call in all of these scopes are paused.
    pub(super) fn cover(&self, scopes: &[CooldownScope], now: Instant) -> bool {
        let is_paused = |scope| self.until.get(scope).is_some_and(|until| *until > now);
        scopes.iter().any(is_paused)
    }

    /// Ends the pauses of these scopes after a success.
    pub(super) fn end(&mut self, scopes: &[CooldownScope]) {
        for scope in scopes {
            self.until.remove(scope);
        }
    }

    /// Whether no retries are paused.
    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);
    const KEY: CooldownScope = CooldownScope::Key(1);

    #[test]
    fn a_pause_lasts_until_its_time_or_a_success() {
        let (mut pauses, now) = (RetryPauses::default(), Clock::system().instant());
        pauses.begin(KEY, now + 30 * SECOND, now);
        pauses.begin(KEY, now + 20 * SECOND, now);
        assert!(pauses.cover(&[CooldownScope::Upstream, KEY], now + 29 * SECOND), "it is not shortened");
        assert!(!pauses.cover(&[CooldownScope::Upstream, CooldownScope::Key(2)], now));
        assert!(!pauses.cover(&[KEY], now + 30 * SECOND));
        pauses.end(&[KEY]);
        assert!(pauses.is_empty());
    }

    #[test]
    fn the_number_of_pauses_is_bounded() {
        let (mut pauses, now) = (RetryPauses::default(), Clock::system().instant());
        for key in 0..3 * MAX_LIMITS as u128 {
            pauses.begin(CooldownScope::Key(key), now + SECOND, now);
            assert!(pauses.cover(&[CooldownScope::Key(key)], now), "the newest holds");
        }
        assert!(pauses.until.len() <= MAX_LIMITS);
    }
}
