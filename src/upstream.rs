//! Access to origins: DNS, addresses, connections, deadlines; one admission control for every call.
//!
//! Owns: the trait [`Origin`], through which the engine makes calls, and its implementation.
//! Never touches: stored responses; what a client receives.

pub mod admission;
pub mod client;
pub mod connect;
pub mod in_flight_bytes;
pub mod interim;
pub mod outcome;
pub mod retry;
pub mod routed_request;
pub mod routing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::semantics::target::Target;
use crate::upstream::admission::ReplayedRefusal;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::rejection::{RejectReason, Rejection};
use crate::upstream::interim::Interims;
use crate::upstream::outcome::CallOutcome;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::reason::Reason;

/// A `GET` to an origin, as a fill sends it.
#[derive(Clone)]
pub struct UpstreamRequest {
    /// The call's context for admission control.
    pub context: CallContext,
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// The queue for interim (1xx) responses; `None`: they are dropped.
    pub interims: Option<Arc<Interims>>,
}

/// An origin's response whose body has not been read yet.
pub struct UpstreamResponse {
    /// The final status.
    pub status: StatusCode,
    /// The fields as received, hop-by-hop ones included.
    pub headers: HeaderMap,
    /// When the request was sent.
    pub request_time: SystemTime,
    /// When the head was received.
    pub response_time: SystemTime,
    /// How the body is delimited.
    pub framing: BodyFraming,
    /// The classified result of the call.
    pub outcome: CallOutcome,
    /// A rule inspects bodies and this one could not be inspected, so the outcome may be incomplete.
    pub body_uninspected: bool,
    /// Why the call had to wait before it was sent, if it did.
    pub wait_reason: Option<RejectReason>,
    /// The body.
    pub body: Box<dyn Body>,
    /// The time from the call after which the response is no longer stored.
    pub storing_limit: Duration,
}

/// How a response body is delimited (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// By a declared length in bytes.
    Length(u64),
    /// By a marker in the stream (chunked coding, or HTTP/2's `END_STREAM`).
    Delimited,
    /// By the end of the connection: a truncated body cannot be told from a complete one.
    Close,
}

/// A response body that is read piece by piece.
#[async_trait]
pub trait Body: Send {
    /// The next piece; `None` when the body is complete. A truncated body is an error, never `None`.
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError>;

    /// Bytes that the origin may send before they are read.
    fn receive_window(&self) -> usize {
        0
    }
}

/// Makes calls: over the network, or to a scripted origin in tests.
#[async_trait]
pub trait Origin: Send + Sync {
    /// Sends `call` and returns as soon as the head of the final response has arrived.
    async fn fetch(&self, call: &UpstreamRequest) -> Result<UpstreamResponse, UpstreamError>;

    /// Why a call would be blocked right now; `None`: it would be admitted or queued.
    fn check_admission(&self, call: &CallContext) -> Option<Rejection> {
        let _ = call;
        None
    }

    /// The body of a response stalls or fails after its head counted as a success.
    fn on_failed_body(&self, call: &CallContext, failure: UpstreamError) {
        let (_, _) = (call, failure);
    }

    /// Reports that the origin cut the body of a background refresh, whose head was a success.
    fn on_cut_refresh(&self, call: &CallContext, failure: UpstreamError) {
        let (_, _) = (call, failure);
    }

    /// Takes a retry of a call from the upstream's retry budget. `wait` is the backoff before the
    /// retry, `reason` the failure before. False: the budget is spent, or a cooldown outlasts the call's maximum wait.
    fn try_acquire_retry(&self, call: &CallContext, reason: Reason, wait: Duration) -> bool {
        let (_, _, _) = (call, reason, wait);
        true
    }

    /// Whether a call is not to be retried: the retries of a call like it have just failed.
    fn are_retries_paused(&self, call: &CallContext) -> bool {
        let _ = call;
        false
    }

    /// All retries of this call have failed: calls like it are not retried until its cooldown is over.
    fn pause_retries(&self, call: &CallContext) {
        let _ = call;
    }

    /// The API's last refusal for the client of a call that is not made.
    fn last_refusal(&self, call: &CallContext, rejection: Rejection) -> Option<ReplayedRefusal> {
        let (_, _) = (call, rejection);
        None
    }

    /// The canonical target of the resource that the target leads to; `None`: the target itself.
    fn canonical_target(&self, _target: &Target) -> Option<Target> {
        None
    }
}
