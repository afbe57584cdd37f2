//! Graceful shutdown: no response is truncated that could have been finished in time.
//!
//! Owns: the order of the shutdown steps. Never touches: how a connection detects the shutdown
//! (`frontend::drain`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::frontend::drain::DrainState;
use crate::server::Server;
use crate::server::runtime::Runtime;
use crate::store::Store;

/// How long a connection without a request stays open after the shutdown began. A client that sends a
/// request within that time gets a response that announces the end of the connection.
const GRACE: Duration = Duration::from_secs(1);

/// Maximum time for closing the remaining connections, and for writing the store.
const FORCED_CLOSE: Duration = Duration::from_secs(5);

impl Server {
    /// Stops: accepts no new connections, finishes the requests in flight within `limits.drain`, then
    /// closes the remaining connections. Returns whether all requests were finished.
    pub async fn stop(self) -> bool {
        let drain = self.drain();
        self.stop_within(drain).await
    }

    /// [`Server::stop`] with another deadline.
    pub async fn stop_within(mut self, drain: Duration) -> bool {
        self.stop_offering().await;
        self.drain_state.send_replace(DrainState::Closing { grace: GRACE.min(drain) });
        let finished = self.finish(drain).await;
        release(Arc::clone(&self.runtime)).await;
        // The admin listener stops last, so that it reports larder as not ready until the end.
        self.admin_stop.send_replace(true);
        self.join().await;
        finished
    }

    /// [`Server::stop`] after another process has taken over the sockets. That process accepts already, so
    /// idle connections may send one more request until the deadline, and the store is released at once.
    pub async fn hand_over(mut self) -> bool {
        let drain = self.drain();
        self.drain_state.send_replace(DrainState::Closing { grace: drain });
        self.admin_stop.send_replace(true);
        let released = release(Arc::clone(&self.runtime));
        let (finished, ()) = tokio::join!(self.finish(drain), released);
        self.join().await;
        finished
    }

    fn drain(&self) -> Duration {
        self.runtime.pipeline().config.limits.drain
    }

    /// Withdraws the offer of the sockets.
    async fn stop_offering(&mut self) {
        self.sockets.clear();
        if let Some(offer) = self.handover_listener.take() {
            offer.stop_offering().await;
        }
    }

    /// Waits for open connections; closes those that remain at the deadline. Returns whether none remained.
    async fn finish(&mut self, drain: Duration) -> bool {
        for accepting in self.accept_tasks.drain(..) {
            // The task accepts the queued connections, then ends. A task that panicked has ended, too.
            let _ended = accepting.await;
        }
        let finished = self.all_closed(drain).await;
        self.drain_state.send_replace(DrainState::Over);
        if !finished {
            self.all_closed(FORCED_CLOSE).await;
        }
        finished
    }

    /// Whether all connections are closed within this time.
    async fn all_closed(&self, within: Duration) -> bool {
        let all = u32::try_from(self.connections).unwrap_or(u32::MAX);
        timeout(within, self.connection_slots.acquire_many(all)).await.is_ok()
    }

    async fn join(self) {
        if let Some(administering) = self.admin_task {
            // As above.
            let _ended = administering.await;
        }
    }
}

/// Releases the store. The limit rows are written last and exactly, without calls reserved ahead.
async fn release(runtime: Arc<Runtime>) {
    runtime.shared.upstream_registry.close();
    if timeout(FORCED_CLOSE, runtime.shared.store.release()).await.is_err() {
        tracing::warn!("The store did not close in time; unwritten data is lost");
    }
}
