//! Reports the store's invalidations to one subscriber, and waits for its confirmation.
//!
//! Owns: the numbers of the reported invalidations; how long a purge and a stored response wait. Never
//! touches: which responses are invalidated; how the subscriber transmits an invalidation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::store::generations::{PurgeKind, PurgeScope};

/// Maximum time that a purge waits for the subscriber; one that does not confirm is about to exit.
const PURGE_WAIT: Duration = Duration::from_secs(2);

/// Maximum time that a response to be stored waits for the subscriber.
const STORE_WAIT: Duration = Duration::from_millis(50);

/// Maximum number of unconfirmed invalidations.
const MAX_UNCONFIRMED: u64 = 262_144;

/// An invalidation, with its position in the order of all those reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalidation {
    /// The number to confirm.
    pub number: u64,
    /// The entries it applies to.
    pub scope: PurgeScope,
    /// Its effect on them.
    pub kind: PurgeKind,
}

/// The feed of a store.
#[derive(Debug, Default)]
pub struct InvalidationFeed {
    subscriber: Mutex<Option<mpsc::UnboundedSender<Invalidation>>>,
    /// Number of invalidations reported.
    sent: AtomicU64,
    /// Number of invalidations that the subscriber has confirmed.
    confirmed: watch::Sender<u64>,
    /// Whether the subscriber once failed to confirm in time: a larder of an earlier version knows only
    /// some of the invalidations.
    is_unresponsive: AtomicBool,
}

impl InvalidationFeed {
    /// Starts queueing invalidations for the caller, in place of an earlier subscriber.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        let (sender, invalidations) = mpsc::unbounded_channel();
        *self.subscriber.lock() = Some(sender);
        self.is_unresponsive.store(false, Ordering::Relaxed);
        Subscription { feed: Arc::clone(self), invalidations }
    }

    /// Records that the subscriber has applied all invalidations up to `number`.
    pub fn confirm(&self, number: u64) {
        self.confirmed.send_modify(|known| *known = number.max(*known));
        if number >= self.sent.load(Ordering::Relaxed) {
            self.is_unresponsive.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn report(&self, scope: PurgeScope, kind: PurgeKind) {
        let subscriber = self.subscriber.lock();
        let Some(sender) = &*subscriber else { return };
        let unconfirmed = self.sent.load(Ordering::Relaxed).saturating_sub(*self.confirmed.borrow());
        if kind == PurgeKind::Superseded && unconfirmed > MAX_UNCONFIRMED {
            // The subscriber does not confirm. It gets no more superseded entries; purges and writes are
            // still reported.
            return;
        }
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        // The receiver is just being dropped: see `Subscription::drop`.
        let _ended = sender.send(Invalidation { number, scope, kind });
    }

    /// Waits after a purge until the subscriber, if there is one, has applied it.
    pub(super) async fn wait_for_purge(&self) {
        let _in_time = timeout(PURGE_WAIT, self.wait_for_confirmation()).await;
    }

    /// Waits a short time until the subscriber, if there is one that responds, has applied everything.
    pub(super) async fn wait_for_put(&self) {
        let is_listening = self.subscriber.lock().is_some() && !self.is_unresponsive.load(Ordering::Relaxed);
        if is_listening && timeout(STORE_WAIT, self.wait_for_confirmation()).await.is_err() {
            self.is_unresponsive.store(true, Ordering::Relaxed);
        }
    }

    async fn wait_for_confirmation(&self) {
        let sent = self.sent.load(Ordering::Relaxed);
        let mut confirmed = self.confirmed.subscribe();
        // The sender belongs to this feed, so it cannot be closed.
        let _confirmed = confirmed.wait_for(|number| *number >= sent).await.map(|number| *number);
    }
}

/// The invalidations since [`InvalidationFeed::subscribe`], until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    feed: Arc<InvalidationFeed>,
    invalidations: mpsc::UnboundedReceiver<Invalidation>,
}

impl Subscription {
    /// The next invalidation; `None`: a later subscriber gets them.
    pub async fn recv(&mut self) -> Option<Invalidation> {
        self.invalidations.recv().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.invalidations.close();
        let mut subscriber = self.feed.subscriber.lock();
        // A later subscription stays: it confirms what it receives.
        if subscriber.take_if(|sender| sender.is_closed()).is_some() {
            self.feed.confirmed.send_replace(self.feed.sent.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PurgeScope = PurgeScope::Target(1);

    /// A larder may hand over to its successor before its predecessor has exited.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_earlier_subscription_keeps_the_later_one() {
        let feed = Arc::new(InvalidationFeed::default());
        let earlier = feed.subscribe();
        let mut later = feed.subscribe();
        drop(earlier);
        feed.report(ONE, PurgeKind::Hard);
        let reported = later.recv().await.expect("the later subscriber gets it");
        assert_eq!((reported.scope, reported.kind), (ONE, PurgeKind::Hard));
        let waiting = timeout(PURGE_WAIT / 2, feed.wait_for_purge()).await;
        assert!(waiting.is_err(), "a purge waits for the later subscriber");
        feed.confirm(reported.number);
        feed.wait_for_purge().await;
        drop(later);
        feed.report(ONE, PurgeKind::Hard);
        feed.wait_for_purge().await;
    }
}
