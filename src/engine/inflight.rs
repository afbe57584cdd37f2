//! A fill as its readers see it: waited for, then a head with a growing body, a confirmed stored
//! response, or a failure.
//!
//! Owns: what a fill publishes and when readers wake. Never touches: how it is fetched, who may have
//! it (`share`).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
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
use crate::upstream::error::UpstreamError;

/// How many clients of one key may ask for themselves at once while no head has come.
const OWN_HEADS: usize = 4;

/// What a fill has come to so far.
#[derive(Clone)]
pub(crate) enum FillState {
    /// The origin confirmed the stored response (304).
    Confirmed(Revalidated),
    /// A final head; the body grows.
    Head(Arc<ResponseHead>),
    /// No head, and there will be none.
    Failed(UpstreamError),
}

/// A first try that failed, while the fill goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptFailure {
    /// What stale-if-error goes by.
    pub(crate) failure: policy::ErrorClass,
    /// What the origin answered, if it did.
    pub(crate) status: Option<StatusCode>,
    /// The word for it in answers, logs and metrics.
    pub(crate) cause: &'static str,
}

/// What a reader that has something stale is told first.
pub(crate) enum FillEvent {
    /// The fill has come to this.
    Published(FillState),
    /// It goes on, but not well.
    Trouble(AttemptFailure),
}

/// A stored response with what a 304 said of it.
#[derive(Clone)]
pub(crate) struct Revalidated {
    /// For the reader that asked.
    pub(crate) own: Arc<StoredResponse>,
    /// For other readers: what is stored of it, or why nothing is (a 304 may bring `Set-Cookie`,
    /// `private` or `no-store`).
    pub(crate) shared: Result<Arc<StoredResponse>, NotStoredReason>,
}

/// The head of an answer, as readers need it.
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    /// For the reader that asked: the origin's end-to-end fields.
    pub(crate) own: HeaderMap,
    /// When it was received: a share of its lifetime may go by that.
    pub(crate) received: SystemTime,
    /// For other readers: the fields that are kept, or why nothing is.
    pub(crate) shared: Result<HeaderMap, NotStoredReason>,
    /// What it is to stale-if-error: a body may say more than its status.
    pub(crate) failure: policy::ErrorClass,
    /// The word for that.
    pub(crate) cause: &'static str,
    /// Why it came later than it might have.
    pub(crate) detail: Option<(&'static str, &'static str)>,
    pub(crate) said: CacheMetadata,
    pub(crate) vary: Vary,
    /// The variant of the request that was sent.
    pub(crate) variant: Option<VariantId>,
    /// The announced length of the body.
    pub(crate) length: Option<u64>,
    /// Whether it is a part that was asked for and is kept as one.
    pub(crate) part: bool,
}

impl ResponseHead {
    /// The status that policy goes by: a part is kept as its whole would be.
    pub(crate) fn kept_as(&self) -> StatusCode {
        if self.part { StatusCode::OK } else { self.status }
    }

    /// Whether this is an error that stale-if-error or the retries are about: waiters share it rather
    /// than hammer a failing origin, unless it is somebody's own (RFC 9111 §5.2.2.7).
    pub(crate) fn is_shared_error(&self, policy: &Policy, cache: CacheKind) -> bool {
        let heard = &policy.effective_metadata(&self.said).cache_control;
        let private = cache == CacheKind::Shared && heard.has(Directive::Private);
        let retried = policy.retry.repeats(&Method::GET) && policy.retry.covers(self.failure);
        (policy.stale_if_error.covers(self.failure) || retried)
            && !self.said.has_set_cookie
            && !private
            && matches!(self.vary, Vary::Fields(_))
    }
}

/// One fill, shared by all who wait for it.
pub(crate) struct InFlightFetch {
    state: Mutex<Option<FillState>>,
    trouble: Mutex<Option<AttemptFailure>>,
    changed: Notify,
    /// Its call has to wait for its turn: another one would have to as well.
    pub(crate) in_line: Arc<AtomicBool>,
    /// Taken before the origin was asked.
    watch: InvalidationWatch,
    begun: PendingCallGuard,
    /// Bounds how many of its waiters ask for themselves at once.
    pub(crate) own_heads: Arc<Semaphore>,
    /// The body; readers attach while they wait for the head.
    pub(crate) body: Arc<SharedBody>,
}

impl InFlightFetch {
    pub(crate) fn new(
        watch: InvalidationWatch,
        begun: PendingCallGuard,
        body: Arc<SharedBody>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(None),
            trouble: Mutex::new(None),
            changed: Notify::new(),
            in_line: Arc::default(),
            watch,
            begun,
            own_heads: Arc::new(Semaphore::new(OWN_HEADS)),
            body,
        })
    }

    /// When it was, in the order of invalidations.
    pub(crate) fn mark(&self) -> Epoch {
        self.watch.mark
    }

    /// Its place among all that is asked for.
    pub(crate) fn order(&self) -> &RequestOrder {
        self.begun.order()
    }

    /// Publishes what the fill has come to and wakes everybody. Said once.
    pub(crate) fn publish(&self, published: FillState) {
        *self.state.lock() = Some(published);
        self.changed.notify_waiters();
    }

    /// Publishes a failure if nothing was published yet.
    pub(crate) fn fail_unless_published(&self, failure: UpstreamError) {
        self.state.lock().get_or_insert(FillState::Failed(failure));
        self.changed.notify_waiters();
    }

    /// The first try failed, and there will be others: who has something stale need not wait.
    pub(crate) fn trouble(&self, trouble: AttemptFailure) {
        self.trouble.lock().get_or_insert(trouble);
        self.changed.notify_waiters();
    }

    /// Whether a try has failed: who waits waits for the others.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble.lock().is_some()
    }

    /// Waits for what the fill comes to, or for trouble on the way there.
    pub(crate) async fn next_event(&self) -> FillEvent {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(published) = self.state.lock().clone() {
                return FillEvent::Published(published);
            }
            if let Some(trouble) = *self.trouble.lock() {
                return FillEvent::Trouble(trouble);
            }
            changed.await;
        }
    }

    /// Waits for the head, the confirmation or the failure.
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
