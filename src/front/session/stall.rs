//! How long a client is waited for, where a wait is polled and not awaited.
//!
//! Owns: the two timers of that. Never touches: connections.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::front::io::STALLED;
use crate::front::session::ClientError;

/// How often a connection that cannot be read on is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Lets a client take nothing for [`STALLED`] at most. Made when there is something to wait for.
#[derive(Default)]
pub(super) struct Stall(Option<Pin<Box<Sleep>>>);

impl Stall {
    /// The client has taken something.
    pub(super) fn moved(&mut self) {
        self.0 = None;
    }

    /// Nothing can be written now; ready once that has been so for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ClientError> {
        let late = self.0.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        late.as_mut().poll(cx).map(|()| ClientError::Stalled)
    }
}

/// Looks at a connection now and then.
#[derive(Default)]
pub(super) struct Look(Option<Pin<Box<Sleep>>>);

impl Look {
    /// Ready once `is_over`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, is_over: impl Fn() -> bool) -> Poll<()> {
        loop {
            if is_over() {
                return Poll::Ready(());
            }
            let next = self.0.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            ready!(next.as_mut().poll(cx));
            self.0 = None;
        }
    }
}
