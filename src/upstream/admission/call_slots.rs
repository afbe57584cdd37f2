//! The slots of the calls in flight of an upstream (`rate_limit.in_flight`), and the calls that wait for one.
//!
//! Owns: whether one more call may be in flight; calls that their clients stall, which give their slot up.
//! Never touches: all other limits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::upstream::admission::wait_queue::WaitQueue;

/// How long a call that its client stalls keeps a slot that other calls wait for.
const STALL_TIME: Duration = Duration::from_secs(1);

/// The slots of an upstream.
#[derive(Debug, Default)]
pub(super) struct CallSlots {
    /// Calls that wait because too many calls are in flight.
    pub(super) queue: WaitQueue,
    pub(super) in_flight: usize,
    /// Calls in flight that their clients stall, not counted in `in_flight`; the oldest first.
    stalled: VecDeque<ClientStall>,
    last_number: u64,
}

/// A call that its client stalls.
#[derive(Debug)]
struct ClientStall {
    number: u64,
    since: Instant,
    /// Notifies the call that it must end.
    preempted: Arc<Notify>,
}

/// The slot of a call among the calls in flight of its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum CallSlot {
    /// Counted for `rate_limit.in_flight`.
    InFlight,
    /// Stalled by its client, with its number among the stalled calls.
    Stalled(u64),
    /// None: the call has ended.
    #[default]
    Released,
}

impl CallSlots {
    /// A slot for one more call.
    pub(super) fn take(&mut self) -> CallSlot {
        self.in_flight += 1;
        CallSlot::InFlight
    }

    /// The client stalls the call: its slot goes to other calls. Returns the notification that ends the call.
    pub(super) fn stall(&mut self, slot: &mut CallSlot, now: Instant) -> Option<Arc<Notify>> {
        if *slot != CallSlot::InFlight {
            return None;
        }
        self.release(slot);
        self.last_number += 1;
        let (number, preempted) = (self.last_number, Arc::<Notify>::default());
        let stall = ClientStall { number, since: now, preempted: Arc::clone(&preempted) };
        self.stalled.push_back(stall);
        *slot = CallSlot::Stalled(number);
        Some(preempted)
    }

    /// The client that stalled the call has left, and the call continues. It counts as in flight again, even
    /// above the limit. No more calls go out until enough have ended, so clients cannot leave any number of
    /// calls behind. A call that was notified to end gets no slot.
    pub(super) fn resume(&mut self, slot: &mut CallSlot) {
        if let CallSlot::Stalled(number) = *slot {
            let had_slot = self.stalled.iter().any(|stall| stall.number == number);
            self.release(slot);
            if had_slot {
                *slot = self.take();
            }
        }
    }

    /// The call is no longer in flight.
    pub(super) fn release(&mut self, slot: &mut CallSlot) {
        match std::mem::take(slot) {
            CallSlot::InFlight => self.in_flight -= 1,
            CallSlot::Stalled(number) => self.stalled.retain(|stall| stall.number != number),
            CallSlot::Released => return,
        }
        self.queue.wake();
    }

    /// Whether one more call may be in flight, if at most `most` may be. Each response may count towards a ban,
    /// so no more calls are in flight than the responses that are `allowed` before the ban guard trips. If
    /// stalled calls use up that number, the oldest must end. `Err`: no capacity; the time until a stalled
    /// call must end, if any.
    pub(super) fn check_capacity(
        &mut self,
        most: usize,
        allowed: Option<u64>,
        now: Instant,
    ) -> Result<(), Option<Duration>> {
        if self.in_flight >= most {
            return Err(None);
        }
        let Some(allowed) = allowed else { return Ok(()) };
        while (self.in_flight + self.stalled.len()) as u64 >= allowed {
            let oldest = self.stalled.front().filter(|_| (self.in_flight as u64) < allowed);
            let since = oldest.ok_or(None)?.since;
            let left = STALL_TIME.saturating_sub(now.saturating_duration_since(since));
            if !left.is_zero() {
                return Err(Some(left));
            }
            if let Some(oldest) = self.stalled.pop_front() {
                oldest.preempted.notify_one();
            }
        }
        Ok(())
    }
}
