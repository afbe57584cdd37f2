//! How long a client is waited for, where a wait is polled and not awaited.
//!
//! Owns: the two timers of that. Never touches: connections.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::front::io::STALLED;
use crate::front::session::ClientError;
use crate::upstream::in_flight::InFlight;

/// How often a connection that cannot be read on is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Lets a client take nothing for as long as [`InFlight::patiently`] does. Made when there is something to
/// wait for.
pub(super) struct Stall {
    in_flight: Arc<InFlight>,
    late: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stall {
    pub(super) fn new(in_flight: &Arc<InFlight>) -> Self {
        Self { in_flight: Arc::clone(in_flight), late: None }
    }

    /// The client has taken something.
    pub(super) fn moved(&mut self) {
        self.late = None;
    }

    /// Nothing can be written now; ready once that has been so for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ClientError> {
        let late = self.late.get_or_insert_with(|| {
            let in_flight = Arc::clone(&self.in_flight);
            Box::pin(async move {
                let taken = std::future::pending::<()>();
                let _late = in_flight.patiently(STALLED, taken).await;
            })
        });
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
