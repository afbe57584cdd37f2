//! The state of a fill that its leader and waiters share: pending, then a head with a growing body, a
//! revalidated stored response, or a failure.
//!
//! Owns: publishing the state and waking the readers. Never touches: fetching, access to the response
//! (`waiter`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::engine::body::SharedBody;
use crate::engine::pending_calls::{PendingCallGuard, RequestOrder};
use crate::policy::{self, Policy};
use crate::semantics::cache_control::Directive;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::storability::{CacheKind, NotStoredReason};
use crate::semantics::vary::{VariantId, Vary};
use crate::store::generations::{Epoch, InvalidationWatch};
use crate::stored::StoredResponse;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::reason::Reason;
use crate::upstream::retry::AttemptFailure;

/// Maximum number of separate fetches for one key at once while no head has arrived.
const MAX_SEPARATE_FETCHES: usize = 4;

/// The published state of a fill.
#[derive(Clone)]
pub(crate) enum FillState {
    /// The origin confirmed the stored response (304).
    Confirmed(Revalidated),
    /// The final head has arrived; the body grows.
    Head(Arc<ResponseHead>),
    /// The fill failed without a head.
    Failed(UpstreamError),
}

/// The first event for a reader that has a stale response.
pub(crate) enum FillEvent {
    /// The fill published its state.
    Published(FillState),
    /// An attempt failed and the fill continues.
    AttemptFailed(AttemptFailure),
}

/// A stored response updated by a 304.
#[derive(Clone)]
pub(crate) struct Revalidated {
    /// For the leader.
    pub(crate) own: Arc<StoredResponse>,
    /// For waiters: the stored response, or why it is not stored (a 304 may contain `Set-Cookie`,
    /// `private` or `no-store`).
    pub(crate) shared: Result<Arc<StoredResponse>, NotStoredReason>,
}

/// The head of a response, as readers need it.
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    /// For the leader: the origin's end-to-end fields.
    pub(crate) own: HeaderMap,
    /// When it was received; a share of its lifetime may depend on it.
    pub(crate) received: SystemTime,
    /// For waiters: the stored fields, or why the response is not stored.
    pub(crate) shared: Result<HeaderMap, NotStoredReason>,
    /// The error class for stale-if-error: a body may indicate an error that the status does not.
    pub(crate) failure: policy::ErrorClass,
    /// The reason of a stale response in place of this one.
    pub(crate) reason: Reason,
    /// Why the response came later than possible.
    pub(crate) detail: Option<(&'static str, Reason)>,
    pub(crate) metadata: CacheMetadata,
    pub(crate) vary: Vary,
    /// The variant of the request that was sent.
    pub(crate) variant: Option<VariantId>,
    /// The announced length of the body.
    pub(crate) length: Option<u64>,
    /// Whether the response is a requested part and is stored as one.
    pub(crate) part: bool,
}

impl ResponseHead {
    /// The error that the response reports, if it does.
    pub(crate) fn failure(&self) -> AttemptFailure {
        let (class, reason) = (self.failure, self.reason);
        AttemptFailure { status: Some(self.status), ..AttemptFailure::new(class, reason) }
    }

    /// The status for policy decisions: a part counts as its whole.
    pub(crate) fn policy_status(&self) -> StatusCode {
        if self.part { StatusCode::OK } else { self.status }
    }

    /// Whether this is an error that stale-if-error or the retries cover. Waiters share it, so that they
    /// do not overload a failing origin, unless the response is private (RFC 9111 §5.2.2.7).
    pub(crate) fn is_shared_error(&self, policy: &Policy, cache: CacheKind) -> bool {
        let cache_control = &policy.effective_metadata(&self.metadata).cache_control;
        let private = cache == CacheKind::Shared && cache_control.has(Directive::Private);
        let retried = policy.retry.is_retryable(&Method::GET) && policy.retry.covers(self.failure);
        (policy.stale_if_error.covers(self.failure) || retried)
            && !self.metadata.has_set_cookie
            && !private
            && matches!(self.vary, Vary::Fields(_))
    }
}

/// One fill, shared by all its readers.
pub(crate) struct InFlightFetch {
    state: Mutex<Option<FillState>>,
    /// The failure of the first attempt, while the fill continues.
    first_failure: Mutex<Option<AttemptFailure>>,
    changed: Notify,
    /// Whether the soft deadline for the head has passed.
    is_slow: AtomicBool,
    /// Set when the call is queued; waiters then do not start their own fetch.
    pub(crate) is_queued: Arc<AtomicBool>,
    /// Taken before the call is sent.
    watch: InvalidationWatch,
    pending_call: PendingCallGuard,
    /// Limits how many waiters fetch separately at once.
    pub(crate) separate_fetches: Arc<Semaphore>,
    /// The body; readers attach while they wait for the head.
    pub(crate) body: Arc<SharedBody>,
}

impl InFlightFetch {
    pub(crate) fn new(
        watch: InvalidationWatch,
        pending_call: PendingCallGuard,
        body: Arc<SharedBody>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(None),
            first_failure: Mutex::new(None),
            changed: Notify::new(),
            is_slow: AtomicBool::new(false),
            is_queued: Arc::default(),
            watch,
            pending_call,
            separate_fetches: Arc::new(Semaphore::new(MAX_SEPARATE_FETCHES)),
            body,
        })
    }

    /// The epoch in which the fetch began.
    pub(crate) fn epoch(&self) -> Epoch {
        self.watch.epoch
    }

    /// The position of the fetch's request in the request order.
    pub(crate) fn order(&self) -> &RequestOrder {
        self.pending_call.order()
    }

    /// Publishes the state and wakes all readers. Called once.
    pub(crate) fn publish(&self, published: FillState) {
        *self.state.lock() = Some(published);
        self.changed.notify_waiters();
    }

    /// Publishes a failure if nothing was published yet.
    pub(crate) fn fail_unless_published(&self, failure: UpstreamError) {
        self.state.lock().get_or_insert(FillState::Failed(failure));
        self.changed.notify_waiters();
    }

    /// Records that the first attempt failed and others follow; readers with a stale response need not wait.
    pub(crate) fn report_failed_attempt(&self, failure: AttemptFailure) {
        self.first_failure.lock().get_or_insert(failure);
        self.changed.notify_waiters();
    }

    /// Records that the soft deadline for the head has passed: readers with a stale response need not wait.
    pub(crate) fn report_slow(&self) {
        self.is_slow.store(true, Ordering::Relaxed);
        let error = UpstreamError::FirstByteTimeout;
        self.report_failed_attempt(AttemptFailure::new(policy::ErrorClass::Timeout, Reason::Error(error)));
    }

    /// Whether the soft deadline for the head has passed.
    pub(crate) fn is_slow(&self) -> bool {
        self.is_slow.load(Ordering::Relaxed)
    }

    /// Returns once the call is slow and no client waits for it.
    pub(crate) async fn abandoned_while_slow(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_slow() {
                break;
            }
            changed.await;
        }
        self.body.audience().until_absent().await;
    }

    /// Whether an attempt has failed; waiters then wait for the retries.
    pub(crate) fn has_failed_attempt(&self) -> bool {
        self.first_failure.lock().is_some()
    }

    /// Waits for the published state, or for a failed attempt before it.
    pub(crate) async fn next_event(&self) -> FillEvent {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(published) = self.state.lock().clone() {
                return FillEvent::Published(published);
            }
            if let Some(failure) = *self.first_failure.lock() {
                return FillEvent::AttemptFailed(failure);
            }
            changed.await;
        }
    }

    /// Waits for the head, the 304, or the failure.
    pub(crate) async fn published(&self) -> FillState {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(published) = self.state.lock().clone() {
                return published;
            }
            changed.await;
        }
    }
}
