//! Slots for admin connections: few, separate for each kind of client, and soon taken away from a
//! connection that is not in use.
//!
//! Owns: the number of concurrent connections of each kind, and the choice of the one to evict.
//! Never touches: sockets; the phases of a connection (`timeout`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::clock::Clock;

/// Kinds of clients. Each has its own slots, so a flood of one kind does not affect the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientKind {
    /// Clients on this host: its health checks must always get a response.
    Local,
    /// Admitted clients on other hosts.
    Remote,
    /// Clients that are not admitted and get an error.
    Refused,
}

impl ClientKind {
    /// Maximum number of concurrent connections.
    pub(super) const fn max_connections(self) -> usize {
        match self {
            Self::Local => 16,
            Self::Remote => 48,
            Self::Refused => 8,
        }
    }
}

/// The phase of a connection. Connections are evicted in the order of their phases here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// No request has begun, or the last response has been sent.
    Idle,
    /// A request is being received.
    Receiving,
    /// A response is being sent.
    Sending,
    /// A request is being handled: the connection keeps its slot.
    Handled,
}

/// The time in a phase after which a connection can be evicted. Clients usually send their request as
/// soon as they are connected.
const EVICTABLE_AFTER: Duration = Duration::from_millis(100);

/// All slots.
#[derive(Default)]
pub(super) struct ConnectionSlots {
    in_use: Mutex<SlotsInUse>,
    released: Notify,
    clock: Clock,
}

#[derive(Default)]
struct SlotsInUse {
    holders: Vec<SlotHolder>,
    next: u64,
}

struct SlotHolder {
    id: u64,
    kind: ClientKind,
    phase: Phase,
    since: Instant,
    /// Dropped to notify the connection that it has lost its slot.
    _evict: oneshot::Sender<()>,
}

impl ConnectionSlots {
    /// A slot for a client of this kind, if necessary that of a connection that is not in use.
    /// `None`: none is available at present.
    pub(super) fn try_acquire(self: &Arc<Self>, kind: ClientKind) -> Option<ConnectionSlot> {
        let now = self.clock.instant();
        let mut in_use = self.in_use.lock();
        if in_use.holders.iter().filter(|holder| holder.kind == kind).count() >= kind.max_connections() {
            let at = in_use.to_evict(kind, now)?;
            drop(in_use.holders.swap_remove(at));
        }
        let id = in_use.next;
        in_use.next += 1;
        let (evict, evicted) = oneshot::channel();
        let holder = SlotHolder { id, kind, phase: Phase::Idle, since: now, _evict: evict };
        in_use.holders.push(holder);
        Some(ConnectionSlot { index: SlotIndex { slots: Arc::clone(self), id }, evicted, lost: false })
    }

    /// As [`ConnectionSlots::try_acquire`], but waits until a slot is available.
    pub(super) async fn acquire(self: &Arc<Self>, kind: ClientKind) -> ConnectionSlot {
        loop {
            if let Some(slot) = self.try_acquire(kind) {
                return slot;
            }
            // Either a connection ends, or one has been idle for long enough.
            let _released = timeout(EVICTABLE_AFTER, self.released.notified()).await;
        }
    }
}

impl SlotsInUse {
    /// The connection to evict for the next one of this kind.
    fn to_evict(&self, kind: ClientKind, now: Instant) -> Option<usize> {
        let is_evictable = |holder: &SlotHolder| {
            holder.kind == kind
                && holder.phase != Phase::Handled
                && now.saturating_duration_since(holder.since) >= EVICTABLE_AFTER
        };
        let all = self.holders.iter().enumerate().filter(|(_, holder)| is_evictable(holder));
        all.min_by_key(|(_, holder)| (holder.phase, holder.since)).map(|(at, _)| at)
    }
}

/// The slot of a connection; released on drop.
pub(super) struct ConnectionSlot {
    index: SlotIndex,
    evicted: oneshot::Receiver<()>,
    lost: bool,
}

impl ConnectionSlot {
    /// Sets the phase of the connection, except while a request is being handled.
    pub(super) fn set_phase(&self, phase: Phase) {
        self.index.update(|before| if before == Phase::Handled { before } else { phase });
    }

    /// Whether the slot was taken away; if not, the task is woken when it is.
    pub(super) fn is_evicted(&mut self, context: &mut Context<'_>) -> bool {
        // The channel must not be polled again after it has completed.
        self.lost = self.lost || Pin::new(&mut self.evicted).poll(context).is_ready();
        self.lost
    }

    /// The index of the slot, for the handlers of the connection's requests.
    pub(super) fn index(&self) -> SlotIndex {
        self.index.clone()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.index.slots.in_use.lock().holders.retain(|holder| holder.id != self.index.id);
        self.index.slots.released.notify_one();
    }
}

/// Identifies a slot.
#[derive(Clone)]
pub(super) struct SlotIndex {
    slots: Arc<ConnectionSlots>,
    id: u64,
}

impl SlotIndex {
    /// Marks a request of this connection as being handled until the guard is dropped.
    pub(super) fn begin_request(self) -> RequestGuard {
        self.update(|_before| Phase::Handled);
        RequestGuard(self)
    }

    fn update(&self, next: impl FnOnce(Phase) -> Phase) {
        let now = self.slots.clock.instant();
        let mut in_use = self.slots.in_use.lock();
        if let Some(holder) = in_use.holders.iter_mut().find(|holder| holder.id == self.id) {
            let phase = next(holder.phase);
            if holder.phase != phase {
                (holder.phase, holder.since) = (phase, now);
            }
        }
    }
}

/// A request that is being handled; the response is being sent after the drop.
pub(super) struct RequestGuard(SlotIndex);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.update(|_handled| Phase::Sending);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn full(slots: &Arc<ConnectionSlots>, kind: ClientKind) -> Vec<ConnectionSlot> {
        (0..kind.max_connections()).map(|_| slots.try_acquire(kind).unwrap()).collect()
    }

    fn lost(all: &mut [ConnectionSlot]) -> Vec<usize> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let lost = all
            .iter_mut()
            .enumerate()
            .filter_map(|(index, slot)| slot.is_evicted(&mut context).then_some(index));
        lost.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_idle_longest_is_evicted_and_one_in_use_never() {
        let slots = Arc::new(ConnectionSlots::default());
        let mut all = full(&slots, ClientKind::Refused);
        assert!(slots.try_acquire(ClientKind::Refused).is_none(), "all have only just connected");
        advance(EVICTABLE_AFTER).await;
        let handled = all[0].index().begin_request();
        all[1].set_phase(Phase::Receiving);
        all[2].set_phase(Phase::Receiving);
        all[2].set_phase(Phase::Idle);
        advance(EVICTABLE_AFTER).await;
        // First the silent ones, then the one with a completed request, then the one with a slow request.
        let mut later: Vec<_> = (3..8).map(|_| slots.try_acquire(ClientKind::Refused).unwrap()).collect();
        assert_eq!(lost(&mut all), [3, 4, 5, 6, 7]);
        later.push(slots.try_acquire(ClientKind::Refused).unwrap());
        assert_eq!(lost(&mut all), [2, 3, 4, 5, 6, 7]);
        later.push(slots.try_acquire(ClientKind::Refused).unwrap());
        assert_eq!(lost(&mut all), [1, 2, 3, 4, 5, 6, 7]);
        assert!(
            slots.try_acquire(ClientKind::Refused).is_none(),
            "one is in use, the others have just connected"
        );
        drop(handled);
        assert!(lost(&mut later).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_kind_of_client_takes_the_slots_of_another() {
        let slots = Arc::new(ConnectionSlots::default());
        let (mut remote, mut refused) = (full(&slots, ClientKind::Remote), full(&slots, ClientKind::Refused));
        advance(EVICTABLE_AFTER).await;
        let local = full(&slots, ClientKind::Local);
        assert!(lost(&mut remote).is_empty() && lost(&mut refused).is_empty());
        drop(local);
        assert!(slots.try_acquire(ClientKind::Local).is_some(), "slots are released");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_a_slot_gets_the_next_free_one() {
        let slots = Arc::new(ConnectionSlots::default());
        let mut all = full(&slots, ClientKind::Local);
        let handled: Vec<_> = all.iter().map(|slot| slot.index().begin_request()).collect();
        let other = Arc::clone(&slots);
        let waiting = tokio::spawn(async move { other.acquire(ClientKind::Local).await });
        advance(10 * EVICTABLE_AFTER).await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(all.pop());
        drop(waiting.await.unwrap());
        drop(handled);
    }
}
