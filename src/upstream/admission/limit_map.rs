//! The limits of an upstream by credential or bucket, at most [`MAX_LIMITS`] of a kind.
//!
//! Owns: which limits are evicted, and which credentials share one. Never touches: what a limit allows
//! (`rate_limiter`).

use std::collections::HashMap;
use std::time::Instant;

use crate::upstream::admission::MAX_LIMITS;
use crate::upstream::admission::rate_limiter::{AdaptiveLimit, SlidingWindow};
use crate::upstream::admission::wait_queue::WaitQueue;

/// A limit that may be removed.
pub(super) trait Evictable {
    /// When the limit was last relevant. `None`: it blocks no call, now or soon.
    fn last_relevant(&self, now: Instant) -> Option<Instant>;

    /// Whether it lets out no more calls for now.
    fn is_exhausted(&self, now: Instant) -> bool;
}

impl Evictable for SlidingWindow {
    fn last_relevant(&self, now: Instant) -> Option<Instant> {
        self.last().filter(|_| !self.is_over(now))
    }

    fn is_exhausted(&self, now: Instant) -> bool {
        !self.is_over(now) && self.is_full()
    }
}

impl Evictable for AdaptiveLimit {
    fn last_relevant(&self, now: Instant) -> Option<Instant> {
        self.resets().filter(|resets| *resets > now)
    }

    fn is_exhausted(&self, now: Instant) -> bool {
        self.remaining(now) == Some(0)
    }
}

/// Below this number of evictable limits, none is evicted.
const MIN_EVICTABLE: usize = MAX_LIMITS / 16;

/// The limit that all credentials without a limit of their own share.
const OVERFLOW: u128 = u128::MAX;

/// The entry of `id`. If there are too many entries, those that block no call are removed, then the older
/// half of those with capacity left. If all are exhausted, new credentials share one limit: a client that
/// makes up credentials must not reset the limits of others, nor evade its own.
pub(super) fn entry<T: Evictable>(
    all: &mut HashMap<u128, (T, WaitQueue)>,
    id: u128,
    now: Instant,
    new: impl FnOnce() -> T,
) -> &mut (T, WaitQueue) {
    let known = all.contains_key(&id);
    if !known && all.len() >= MAX_LIMITS {
        make_room(all, now);
    }
    let id = if known || all.len() < MAX_LIMITS { id } else { OVERFLOW };
    all.entry(id).or_insert_with(|| (new(), WaitQueue::default()))
}

fn make_room<T: Evictable>(all: &mut HashMap<u128, (T, WaitQueue)>, now: Instant) {
    all.retain(|_, (limit, queue)| !queue.is_empty() || limit.last_relevant(now).is_some());
    let can_evict = |limit: &T, queue: &WaitQueue| queue.is_empty() && !limit.is_exhausted(now);
    let evictable = all.values().filter(|(limit, queue)| can_evict(limit, queue));
    let mut last: Vec<_> = evictable.map(|(limit, _)| limit.last_relevant(now)).collect();
    // With few evictable limits, each new entry would evict them again.
    if all.len() < MAX_LIMITS || last.len() < MIN_EVICTABLE {
        return;
    }
    let middle = last.len() / 2;
    let (_, middle, _) = last.select_nth_unstable(middle);
    let middle = *middle;
    all.retain(|_, (limit, queue)| !can_evict(limit, queue) || limit.last_relevant(now) > middle);
}

/// The key of the entry of `id`: its own, or the shared one.
pub(super) fn own_or_shared<T>(all: &HashMap<u128, T>, id: u128) -> u128 {
    if all.contains_key(&id) { id } else { OVERFLOW }
}

/// The entry of `id`, or the shared one.
pub(super) fn get_or_shared<T>(all: &mut HashMap<u128, T>, id: u128) -> Option<&mut T> {
    let id = own_or_shared(all, id);
    all.get_mut(&id)
}
