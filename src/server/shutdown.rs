//! How a larder ends: nobody's answer is cut that could have been finished in time.
//!
//! Owns: the order of the end. Never touches: how a connection notices it (`front::stage`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::frontend::drain::DrainState;
use crate::server::Server;
use crate::server::runtime::Runtime;
use crate::store::Store;

/// How long a connection without a request may stay when larder stops: a client that asks again
/// within it is told with its answer that there will be no further one.
const GRACE: Duration = Duration::from_secs(1);

/// How long what is cut may take to be gone, and the store to be written.
const LAST: Duration = Duration::from_secs(5);

impl Server {
    /// Stops: no new connections, requests in flight are finished within `limits.drain`, then
    /// whatever is left is cut. Returns whether all were finished.
    pub async fn stop(self) -> bool {
        let drain = self.drain();
        self.stop_within(drain).await
    }

    /// [`Server::stop`] with another deadline.
    pub async fn stop_within(mut self, drain: Duration) -> bool {
        self.withdraw().await;
        self.stage.send_replace(DrainState::Closing { grace: GRACE.min(drain) });
        let finished = self.finish(drain).await;
        release(Arc::clone(&self.estate)).await;
        // To the very end it said that larder is not ready, and how it went.
        self.admin_stop.send_replace(true);
        self.join().await;
        finished
    }

    /// [`Server::stop`] for a larder that has taken the sockets over: it accepts already, so idle
    /// connections have until the deadline for one more answer, and gets the store at once.
    pub async fn hand_over(mut self) -> bool {
        let drain = self.drain();
        self.stage.send_replace(DrainState::Closing { grace: drain });
        self.admin_stop.send_replace(true);
        let released = release(Arc::clone(&self.estate));
        let (finished, ()) = tokio::join!(self.finish(drain), released);
        self.join().await;
        finished
    }

    fn drain(&self) -> Duration {
        self.estate.house().config.limits.drain
    }

    /// Nobody can take the sockets over any more.
    async fn withdraw(&mut self) {
        self.sockets.clear();
        if let Some(offer) = self.offer.take() {
            offer.stop_offering().await;
        }
    }

    /// Whether everything was finished in time; what was not is cut.
    async fn finish(&mut self, drain: Duration) -> bool {
        for accepting in self.accepting.drain(..) {
            // It takes in who has connected, then ends; one that panicked has ended too.
            let _ended = accepting.await;
        }
        let finished = self.emptied(drain).await;
        self.stage.send_replace(DrainState::Over);
        if !finished {
            self.emptied(LAST).await;
        }
        finished
    }

    /// Whether no connection is left within this time.
    async fn emptied(&self, within: Duration) -> bool {
        let all = u32::try_from(self.connections).unwrap_or(u32::MAX);
        timeout(within, self.places.acquire_many(all)).await.is_ok()
    }

    async fn join(self) {
        if let Some(administering) = self.administering {
            // As above.
            let _ended = administering.await;
        }
    }
}

/// The last rows of upstreams' limits are exact: no call is counted ahead in them.
async fn release(estate: Arc<Runtime>) {
    estate.ground.traffics.close();
    if timeout(LAST, estate.ground.store.release()).await.is_err() {
        tracing::warn!("The store did not let go in time; what it had not written is lost");
    }
}
