//! Waiting for a fill: builds one client's response from the state that the fill publishes.
//!
//! Owns: whether this client may share the response, the length of the wait. Never touches: fetching, the
//! choice between a response and a stale one (`responder`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::decide::ErrorClass;
use crate::engine::body::BodyReader;
use crate::engine::inflight::{FillEvent, FillState, InFlightFetch, ResponseHead, Revalidated};
use crate::engine::lookup::StoreLookup;
use crate::engine::miss::Miss;
use crate::engine::responder::{Responder, Role};
use crate::engine::response::ClientResponse;
use crate::semantics::vary::{VariantId, Vary};
use crate::upstream::outcome::reason::Reason;
use crate::upstream::retry::AttemptFailure;

/// The result of waiting for a fill.
pub(crate) enum WaitOutcome {
    /// A response for this client.
    Reply(Box<ClientResponse>),
    /// The response is another variant; this client's variant is this one.
    OtherVariant(VariantId),
    /// The response is not shareable: fetch separately.
    FetchSeparately(Option<OwnedSemaphorePermit>),
}

impl WaitOutcome {
    fn reply(reply: ClientResponse) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// One client that waits for a fill.
pub(super) struct FillWaiter<'a> {
    pub(super) responder: &'a Responder,
    pub(super) lookup: &'a StoreLookup,
    pub(super) miss: &'a Miss<'a>,
    pub(super) fetch: &'a Arc<InFlightFetch>,
}

impl FillWaiter<'_> {
    /// Waits for the client's own fill and returns its response in every case.
    pub(super) async fn lead(self, reader: BodyReader) -> ClientResponse {
        let Self { responder, miss, .. } = self;
        let published = match self.next_state().await {
            Ok(published) => published,
            Err(reply) => return *reply,
        };
        match published {
            FillState::Failed(failure) => responder.failed(miss, failure),
            FillState::Confirmed(Revalidated { own, shared }) => {
                responder.revalidated(miss, &own, shared.is_ok(), Role::Leader)
            }
            FillState::Head(head) => responder
                .stale_for_error(miss, &head)
                .unwrap_or_else(|| Responder::growing(miss, &head, reader, Role::Leader)),
        }
    }

    /// Waits for another client's fill until it publishes its state, at most about `coalesce.wait`.
    pub(super) async fn wait(self, reader: BodyReader) -> WaitOutcome {
        let Self { responder, miss, fetch, .. } = self;
        let wait = miss.routed.policy.coalesce_wait;
        let published = match timeout(wait, self.next_state()).await {
            Ok(Ok(published)) => published,
            Ok(Err(reply)) => return WaitOutcome::Reply(reply),
            // The fill has retries left: a separate call would only add one more.
            Err(_elapsed) if fetch.has_failed_attempt() => fetch.published().await,
            Err(_elapsed) => match self.on_timeout().await {
                Ok(published) => published,
                Err(outcome) => return outcome,
            },
        };
        match published {
            FillState::Failed(failure) => WaitOutcome::reply(responder.failed(miss, failure)),
            FillState::Confirmed(Revalidated { shared: Ok(stored), .. }) => {
                WaitOutcome::reply(responder.revalidated(miss, &stored, true, Role::Waiter))
            }
            // Not shareable: every waiter fetches separately and does not wait for another.
            FillState::Confirmed(Revalidated { shared: Err(_), .. }) => WaitOutcome::FetchSeparately(None),
            FillState::Head(head) => self.share(&head, reader),
        }
    }

    /// Waits for the state of the fill. If an attempt fails and a stale response is stored, it is served
    /// at once; the fill continues in the background.
    async fn next_state(&self) -> Result<FillState, Box<ClientResponse>> {
        match self.fetch.next_event().await {
            FillEvent::Published(state) => Ok(state),
            FillEvent::AttemptFailed(failure) => {
                match self.responder.stale_for_failed_fill(self.miss, failure) {
                    Some(reply) => Err(Box::new(reply)),
                    None => Ok(self.fetch.published().await),
                }
            }
        }
    }

    /// Handles the end of the wait without a head: serves a stale response if there is one. Otherwise
    /// the client fetches separately as soon as few enough others do, or takes the state of the fill if
    /// that comes first.
    async fn on_timeout(&self) -> Result<FillState, WaitOutcome> {
        let fetch = self.fetch;
        let failure = AttemptFailure::new(ErrorClass::Timeout, Reason::CoalesceWait);
        if let Some(reply) = self.responder.stale_for_failed_fill(self.miss, failure) {
            return Err(WaitOutcome::reply(reply));
        }
        if fetch.is_queued.load(Ordering::Relaxed) {
            return Ok(fetch.published().await);
        }
        tokio::select! {
            published = fetch.published() => Ok(published),
            Ok(permit) = Arc::clone(&fetch.separate_fetches).acquire_owned() => {
                Err(WaitOutcome::FetchSeparately(Some(permit)))
            }
        }
    }

    /// The waiter's result for a head: a stale response instead of an error, a shared body, or neither.
    fn share(&self, head: &ResponseHead, reader: BodyReader) -> WaitOutcome {
        let miss = self.miss;
        if let Some(reply) = self.responder.stale_for_error(miss, head) {
            return WaitOutcome::reply(reply);
        }
        if head.shared.is_err() && !head.is_shared_error(&miss.routed.policy, miss.cache()) {
            return WaitOutcome::FetchSeparately(None);
        }
        match self.other_variant(head) {
            Some(other) => WaitOutcome::OtherVariant(other),
            None => WaitOutcome::reply(Responder::growing(miss, head, reader, Role::Waiter)),
        }
    }

    /// The client's variant, if it differs from the fetched one.
    fn other_variant(&self, head: &ResponseHead) -> Option<VariantId> {
        let Vary::Fields(fields) = &head.vary else { return None };
        let variant = self.lookup.variant(self.miss.request(), fields);
        (head.variant != Some(variant)).then_some(variant)
    }
}
