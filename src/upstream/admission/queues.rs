//! The queues of an upstream: one for each limit, and one for a slot in flight.
//!
//! Owns: in which queue a call waits, and for how long. Never touches: the order within a queue
//! (`wait_queue`), cooldowns.

use std::time::{Duration, Instant};

use crate::policy::upstream::Rate;
use crate::upstream::admission::call::LimitKeys;
use crate::upstream::admission::limit_map::{entry, get_or_shared, own_or_shared};
use crate::upstream::admission::rate_limiter::{AdaptiveLimit, SlidingWindow};
use crate::upstream::admission::state::LimiterState;
use crate::upstream::admission::wait_queue::{QueueKind, QueuePosition, WaitQueue};

impl LimiterState {
    /// The first queue in which the call has to wait, and for how long at least.
    pub(super) fn first_queue(
        &mut self,
        keys: &LimitKeys<'_>,
        learned: Option<u128>,
        position: QueuePosition,
        now: Instant,
    ) -> Option<(QueueKind, Option<Duration>)> {
        let rate_limit = &keys.policy.rate_limit;
        let credential = keys.credential;
        if let Some(rate) = rate_limit.limit {
            let (window, queue) = entry(&mut self.windows, credential, now, || SlidingWindow::new(rate));
            window.set_rate(rate);
            let wait = window.wait(now);
            if !wait.is_zero() || !queue.is_first(position) {
                return Some((QueueKind::Window(credential), Some(wait)));
            }
        }
        if let Some(id) = learned {
            let (limit, queue) = entry(&mut self.learned, id, now, AdaptiveLimit::default);
            let wait = limit.wait(now);
            if wait != Some(Duration::ZERO) || !queue.is_first(position) {
                return Some((QueueKind::Learned(id), wait));
            }
        }
        if !self.slots.queue.is_first(position) {
            return Some((QueueKind::InFlight, None));
        }
        let guard = keys.policy.ban_guard.as_ref();
        let allowed = guard.map(|rule| self.ban_guard.left(rule, now));
        let capacity = self.slots.check_capacity(rate_limit.in_flight, allowed, now);
        capacity.err().map(|wait| (QueueKind::InFlight, wait))
    }

    pub(super) fn queue(&mut self, kind: QueueKind) -> &mut WaitQueue {
        match kind {
            QueueKind::Window(credential) => {
                let rate = Rate { count: 1, per: Duration::from_secs(1) };
                let id = own_or_shared(&self.windows, credential);
                &mut self
                    .windows
                    .entry(id)
                    .or_insert_with(|| (SlidingWindow::new(rate), WaitQueue::default()))
                    .1
            }
            QueueKind::Learned(id) => {
                let id = own_or_shared(&self.learned, id);
                &mut self.learned.entry(id).or_default().1
            }
            QueueKind::InFlight => &mut self.slots.queue,
        }
    }

    /// The estimated wait of the call in a queue, for `Retry-After`.
    pub(super) fn estimate_wait(
        &mut self,
        kind: QueueKind,
        position: QueuePosition,
        now: Instant,
    ) -> Duration {
        let ahead = u32::try_from(self.queue(kind).ahead(position)).unwrap_or(u32::MAX);
        match kind {
            QueueKind::Window(credential) => {
                get_or_shared(&mut self.windows, credential).map(|(window, _)| {
                    let Rate { count, per } = window.rate();
                    window.wait(now).saturating_add(per.saturating_mul(ahead / count.max(1)))
                })
            }
            QueueKind::Learned(id) => {
                get_or_shared(&mut self.learned, id).and_then(|(limit, _)| limit.wait(now))
            }
            QueueKind::InFlight => None,
        }
        .unwrap_or(Duration::from_secs(1))
    }

    /// The number of calls in all queues.
    pub(super) fn waiting(&self) -> usize {
        let windows = self.windows.values().map(|(_, queue)| queue.len());
        let learned = self.learned.values().map(|(_, queue)| queue.len());
        windows.chain(learned).sum::<usize>() + self.slots.queue.len()
    }
}
