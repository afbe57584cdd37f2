//! The way to the origin: names, addresses, connections, deadlines; one gate for every call.
//!
//! Owns: the trait [`Origin`] that the engine asks, and everything that stands behind it.
//! Never touches: what is stored; what a client sees.

pub mod admission;
mod ban_guard;
pub mod body_inspection;
pub mod buffered_body;
mod circuit_breaker;
pub mod classify;
pub mod client;
pub mod connection_pool;
mod cooldown;
pub mod credit_cost;
pub mod descriptors;
mod dns_cache;
pub mod egress_policy;
pub mod error;
pub mod happy_eyeballs;
mod idle_connections;
pub mod in_flight_bytes;
pub mod interim;
pub mod keep_alive;
pub mod outcome;
pub mod peer;
pub mod pinned_connections;
mod rate_limiter;
pub mod rejection;
pub mod resolve;
pub mod retry;
pub mod routing;
pub mod session;
mod shared_http2;
pub mod status;
pub mod tls_config;
pub mod tls_error;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::config::Timeouts;
use crate::semantics::request::ListenerKind;
use crate::semantics::target::Target;
use crate::upstream::admission::call::CallContext;
use crate::upstream::error::UpstreamError;
use crate::upstream::interim::Interims;
use crate::upstream::outcome::CallOutcome;
use crate::upstream::rejection::{RejectReason, Rejection};

/// A call to an origin, without a body: what a fill sends.
#[derive(Clone)]
pub struct UpstreamRequest {
    /// What it says at the gate.
    pub knock: CallContext,
    /// The method.
    pub method: Method,
    /// What the client asked for; an upstream may turn `http` into `https`.
    pub target: Target,
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// Which kind of listener the request came through: it bounds where the call may go.
    pub listener: ListenerKind,
    /// Where interim answers go; `None`: nobody wants them.
    pub interims: Option<Arc<Interims>>,
}

/// An origin's answer whose body is still to come.
pub struct UpstreamResponse {
    /// The final status.
    pub status: StatusCode,
    /// The fields as received, hop-by-hop ones included.
    pub headers: HeaderMap,
    /// When the request was sent.
    pub request_time: SystemTime,
    /// When the head was received.
    pub response_time: SystemTime,
    /// How the body's end is known.
    pub framing: BodyFraming,
    /// What it means.
    pub verdict: CallOutcome,
    /// Its body may say that it means something else: a rule looks into bodies, and this one was not read.
    pub unread: bool,
    /// What the call had to wait for before it went out.
    pub waited: Option<RejectReason>,
    /// The body.
    pub body: Box<dyn Body>,
    /// How long the whole answer may take, counted from the call, if it is to be stored.
    pub total: Duration,
}

/// How the end of an answer's body is known (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// Announced: this many bytes.
    Length(u64),
    /// Marked in the stream (chunked, or HTTP/2's `END_STREAM`).
    Marked,
    /// The connection's end: a cut body looks like a complete one.
    Close,
}

/// A body as it arrives.
#[async_trait]
pub trait Body: Send {
    /// The next piece; `None` when the body is complete. A cut body is an error, never `None`.
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError>;

    /// How much of it may come before it is read.
    fn ahead(&self) -> usize {
        0
    }
}

/// Whoever can answer a call: the network, or a scripted origin in tests.
#[async_trait]
pub trait Origin: Send + Sync {
    /// Sends `call` and returns once the head of the final answer is there.
    async fn fetch(&self, call: &UpstreamRequest) -> Result<UpstreamResponse, UpstreamError>;

    /// What would keep such a call to `target` back right now.
    fn check_admission(&self, target: &Target, knock: &CallContext) -> Option<Rejection> {
        let (_, _) = (target, knock);
        None
    }

    /// Takes a retry of such a call to `target`, after this wait because of `cause`, from the budget of
    /// all; false: there is none left, or a hold outlasts its patience.
    fn try_acquire_retry(
        &self,
        target: &Target,
        knock: &CallContext,
        cause: &'static str,
        wait: Duration,
    ) -> bool {
        let (_, _, _, _) = (target, knock, cause, wait);
        true
    }

    /// The one target by which larder knows what `target` leads to; `None`: `target` itself.
    fn moved(&self, target: &Target) -> Option<Target> {
        let _ = target;
        None
    }

    /// How long a call to `target` that has no retries may wait for its turn, or for a hold to end.
    fn patience(&self, target: &Target) -> Duration {
        let _ = target;
        Duration::ZERO
    }

    /// How long a call to `target` and its retries may take in all.
    fn total(&self, target: &Target) -> Duration {
        let _ = target;
        Timeouts::default().total
    }
}
