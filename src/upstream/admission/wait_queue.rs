//! The queue of calls: clients before background work, each in the order of arrival.
//!
//! Owns: the order, and waking the first call. Never touches: whether the first call may go out.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::upstream::admission::rejection::RejectReason;

/// The position of a call. It is the same in every queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueuePosition {
    /// Sorted first: clients precede background work.
    pub(super) background: bool,
    /// The number of the call in the order of arrival.
    pub(super) number: u64,
}

/// The queue in which a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueKind {
    Window(u128),
    Learned(u128),
    InFlight,
}

impl QueueKind {
    /// The reason to reject a call that waited too long in this queue.
    pub(super) fn timeout_reason(self) -> RejectReason {
        match self {
            Self::Window(_) | Self::Learned(_) => RejectReason::RateLimit,
            Self::InFlight => RejectReason::InFlight,
        }
    }
}

/// A queue.
#[derive(Debug, Default)]
pub(super) struct WaitQueue {
    waiting: BTreeMap<QueuePosition, Arc<Notify>>,
}

impl WaitQueue {
    /// Joins the queue, if the call is not in it yet. Returns the notification for when it is the first.
    pub(super) fn join(&mut self, position: QueuePosition) -> Arc<Notify> {
        Arc::clone(self.waiting.entry(position).or_default())
    }

    /// Leaves the queue and wakes the call that is first then.
    pub(super) fn leave(&mut self, position: QueuePosition) {
        if self.waiting.remove(&position).is_some() {
            self.wake();
        }
    }

    /// Whether no call with an earlier position waits.
    pub(super) fn is_first(&self, position: QueuePosition) -> bool {
        self.waiting.first_key_value().is_none_or(|(first, _)| *first >= position)
    }

    /// The number of calls before this position.
    pub(super) fn ahead(&self, position: QueuePosition) -> usize {
        self.waiting.range(..position).count()
    }

    /// Wakes the first call, which checks again whether it may go out.
    pub(super) fn wake(&self) {
        if let Some((_, first)) = self.waiting.first_key_value() {
            first.notify_one();
        }
    }

    /// Whether no call waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number of calls that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(background: bool, number: u64) -> QueuePosition {
        QueuePosition { background, number }
    }

    #[test]
    fn clients_precede_background_work_and_each_keeps_its_order() {
        let mut queue = WaitQueue::default();
        for position in [position(true, 0), position(false, 3), position(false, 1), position(true, 2)] {
            queue.join(position);
        }
        let order = [position(false, 1), position(false, 3), position(true, 0), position(true, 2)];
        for (at, position) in order.into_iter().enumerate() {
            assert_eq!(queue.ahead(position), 0, "{at}");
            assert!(queue.is_first(position), "{at}");
            queue.leave(position);
        }
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn leaving_the_queue_wakes_the_next_call() {
        let mut queue = WaitQueue::default();
        queue.join(position(false, 1));
        let second = queue.join(position(false, 2));
        queue.leave(position(false, 1));
        second.notified().await;
    }
}
