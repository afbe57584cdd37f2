//! Places for admin connections: few, apart for each kind of client, and soon lost by a connection that
//! uses its place for nothing.
//!
//! Owns: how many connections of a kind there are at once, and which makes room for the next.
//! Never touches: sockets; what a connection's turn is (`patience`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::clock::Clock;

/// Kinds of clients. Each has places of its own: a flood of one kind does not reach the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientKind {
    /// This host's: its health checks must be answered whatever others do.
    Local,
    /// Other hosts' that are admitted.
    Remote,
    /// Those that are told that they are not admitted.
    Refused,
}

impl ClientKind {
    /// Connections at once.
    pub(super) const fn places(self) -> usize {
        match self {
            Self::Local => 16,
            Self::Remote => 48,
            Self::Refused => 8,
        }
    }
}

/// A connection's phase. Connections in a phase that comes first here make room first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// No request has begun, or its answer has been sent.
    Idle,
    /// A request is coming in.
    Receiving,
    /// An answer waits for its client to take it.
    Sending,
    /// A request is being handled: the connection keeps its place.
    Handled,
}

/// A client sends its request as soon as it is connected: one that has not after this time is in no hurry.
const HURRY: Duration = Duration::from_millis(100);

/// All places.
#[derive(Default)]
pub(super) struct ConnectionSlots {
    taken: Mutex<SlotsInUse>,
    left: Notify,
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
    /// Dropped to tell the connection that its place is another's.
    _stays: oneshot::Sender<()>,
}

impl ConnectionSlots {
    /// A place for a client of this kind, if need be that of a connection that only sits there.
    /// `None`: there is none at present.
    pub(super) fn take(self: &Arc<Self>, kind: ClientKind) -> Option<ConnectionSlot> {
        let now = self.clock.instant();
        let mut taken = self.taken.lock();
        if taken.holders.iter().filter(|holder| holder.kind == kind).count() >= kind.places() {
            let at = taken.makes_room(kind, now)?;
            drop(taken.holders.swap_remove(at));
        }
        let id = taken.next;
        taken.next += 1;
        let (stays, told) = oneshot::channel();
        let holder = SlotHolder { id, kind, phase: Phase::Idle, since: now, _stays: stays };
        taken.holders.push(holder);
        Some(ConnectionSlot { seat: SlotIndex { places: Arc::clone(self), id }, told, lost: false })
    }

    /// The same, waiting until there is one.
    pub(super) async fn wait_for(self: &Arc<Self>, kind: ClientKind) -> ConnectionSlot {
        loop {
            if let Some(place) = self.take(kind) {
                return place;
            }
            // Either a connection leaves, or time passes for those that only sit there.
            let _left = timeout(HURRY, self.left.notified()).await;
        }
    }
}

impl SlotsInUse {
    /// The connection whose place the next one of this kind gets.
    fn makes_room(&self, kind: ClientKind, now: Instant) -> Option<usize> {
        let sits = |holder: &SlotHolder| {
            holder.kind == kind
                && holder.phase != Phase::Handled
                && now.saturating_duration_since(holder.since) >= HURRY
        };
        let all = self.holders.iter().enumerate().filter(|(_, holder)| sits(holder));
        all.min_by_key(|(_, holder)| (holder.phase, holder.since)).map(|(at, _)| at)
    }
}

/// A connection's place; given back when dropped.
pub(super) struct ConnectionSlot {
    seat: SlotIndex,
    told: oneshot::Receiver<()>,
    lost: bool,
}

impl ConnectionSlot {
    /// The connection's phase from now on.
    pub(super) fn turn_to(&self, phase: Phase) {
        self.seat.turn(|before| if before == Phase::Handled { before } else { phase });
    }

    /// Whether the place is another's by now; else the task is woken when it is.
    pub(super) fn is_lost(&mut self, context: &mut Context<'_>) -> bool {
        // The channel may not be asked again once it has told.
        self.lost = self.lost || Pin::new(&mut self.told).poll(context).is_ready();
        self.lost
    }

    /// The place, for who handles the connection's requests.
    pub(super) fn seat(&self) -> SlotIndex {
        self.seat.clone()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.seat.places.taken.lock().holders.retain(|holder| holder.id != self.seat.id);
        self.seat.places.left.notify_one();
    }
}

/// Which place it is.
#[derive(Clone)]
pub(super) struct SlotIndex {
    places: Arc<ConnectionSlots>,
    id: u64,
}

impl SlotIndex {
    /// A request of this connection is handled for as long as the value lives.
    pub(super) fn handle(self) -> RequestGuard {
        self.turn(|_before| Phase::Handled);
        RequestGuard(self)
    }

    fn turn(&self, next: impl FnOnce(Phase) -> Phase) {
        let now = self.places.clock.instant();
        let mut taken = self.places.taken.lock();
        if let Some(holder) = taken.holders.iter_mut().find(|holder| holder.id == self.id) {
            let phase = next(holder.phase);
            if holder.phase != phase {
                (holder.phase, holder.since) = (phase, now);
            }
        }
    }
}

/// A request that is being handled.
pub(super) struct RequestGuard(SlotIndex);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.turn(|_handled| Phase::Sending);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn full(places: &Arc<ConnectionSlots>, kind: ClientKind) -> Vec<ConnectionSlot> {
        (0..kind.places()).map(|_| places.take(kind).unwrap()).collect()
    }

    fn lost(all: &mut [ConnectionSlot]) -> Vec<usize> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let lost = all
            .iter_mut()
            .enumerate()
            .filter_map(|(index, place)| place.is_lost(&mut context).then_some(index));
        lost.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_only_sits_there_makes_room_the_longest_first_and_one_that_is_served_never()
     {
        let places = Arc::new(ConnectionSlots::default());
        let mut all = full(&places, ClientKind::Refused);
        assert!(places.take(ClientKind::Refused).is_none(), "all have only just come");
        advance(HURRY).await;
        let handled = all[0].seat().handle();
        all[1].turn_to(Phase::Receiving);
        all[2].turn_to(Phase::Receiving);
        all[2].turn_to(Phase::Idle);
        advance(HURRY).await;
        // The silent ones, then the one that was answered last, then the one that is slow to ask.
        let mut later: Vec<_> = (3..8).map(|_| places.take(ClientKind::Refused).unwrap()).collect();
        assert_eq!(lost(&mut all), [3, 4, 5, 6, 7]);
        later.push(places.take(ClientKind::Refused).unwrap());
        assert_eq!(lost(&mut all), [2, 3, 4, 5, 6, 7]);
        later.push(places.take(ClientKind::Refused).unwrap());
        assert_eq!(lost(&mut all), [1, 2, 3, 4, 5, 6, 7]);
        assert!(
            places.take(ClientKind::Refused).is_none(),
            "one is served, the others have just come"
        );
        drop(handled);
        assert!(lost(&mut later).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_kind_of_client_takes_the_places_of_another() {
        let places = Arc::new(ConnectionSlots::default());
        let (mut remote, mut refused) =
            (full(&places, ClientKind::Remote), full(&places, ClientKind::Refused));
        advance(HURRY).await;
        let local = full(&places, ClientKind::Local);
        assert!(lost(&mut remote).is_empty() && lost(&mut refused).is_empty());
        drop(local);
        assert!(places.take(ClientKind::Local).is_some(), "places are given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_a_place_gets_the_next_that_is_free() {
        let places = Arc::new(ConnectionSlots::default());
        let mut all = full(&places, ClientKind::Local);
        let handled: Vec<_> = all.iter().map(|place| place.seat().handle()).collect();
        let other = Arc::clone(&places);
        let waiting = tokio::spawn(async move { other.wait_for(ClientKind::Local).await });
        advance(10 * HURRY).await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(all.pop());
        drop(waiting.await.unwrap());
        drop(handled);
    }
}
