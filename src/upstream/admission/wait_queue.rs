//! Who is next: clients before background work, and each in the order in which it came.
//!
//! Owns: the order, and waking the first. Never touches: whether the first may go.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

/// A place in every line that its holder may stand in: it keeps it wherever it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueuePosition {
    /// Sorts first: background work always yields to clients.
    pub(super) background: bool,
    /// When it came.
    pub(super) number: u64,
}

/// One line.
#[derive(Debug, Default)]
pub(super) struct WaitQueue {
    waiting: BTreeMap<QueuePosition, Arc<Notify>>,
}

impl WaitQueue {
    /// Stands in the line, if it does not already; what wakes it when it is the first.
    pub(super) fn join(&mut self, turn: QueuePosition) -> Arc<Notify> {
        Arc::clone(self.waiting.entry(turn).or_default())
    }

    /// Leaves the line; who is the first then looks again.
    pub(super) fn leave(&mut self, turn: QueuePosition) {
        if self.waiting.remove(&turn).is_some() {
            self.wake();
        }
    }

    /// Whether nobody with an earlier turn stands here.
    pub(super) fn is_first(&self, turn: QueuePosition) -> bool {
        self.waiting.first_key_value().is_none_or(|(first, _)| *first >= turn)
    }

    /// How many stand before this turn.
    pub(super) fn ahead(&self, turn: QueuePosition) -> usize {
        self.waiting.range(..turn).count()
    }

    /// The first looks again whether it may go.
    pub(super) fn wake(&self) {
        if let Some((_, first)) = self.waiting.first_key_value() {
            first.notify_one();
        }
    }

    /// Whether nobody stands here.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many stand here.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(background: bool, number: u64) -> QueuePosition {
        QueuePosition { background, number }
    }

    #[test]
    fn clients_are_before_background_work_and_each_in_the_order_of_their_coming() {
        let mut line = WaitQueue::default();
        for turn in [turn(true, 0), turn(false, 3), turn(false, 1), turn(true, 2)] {
            line.join(turn);
        }
        let order = [turn(false, 1), turn(false, 3), turn(true, 0), turn(true, 2)];
        for (at, turn) in order.into_iter().enumerate() {
            assert_eq!(line.ahead(turn), 0, "{at}");
            assert!(line.is_first(turn), "{at}");
            line.leave(turn);
        }
        assert!(line.is_empty());
    }

    #[tokio::test]
    async fn who_leaves_wakes_the_next() {
        let mut line = WaitQueue::default();
        line.join(turn(false, 1));
        let second = line.join(turn(false, 2));
        line.leave(turn(false, 1));
        second.notified().await;
    }
}
