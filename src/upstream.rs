//! The way to the origin: names, addresses, connections, deadlines; one gate for every call.
//!
//! Owns: the trait [`Origin`] that the engine asks, and everything that stands behind it.
//! Never touches: what is stored; what a client sees.

pub mod classify;
pub mod clear;
pub mod destination;
pub mod dial;
pub mod failure;
pub mod fetch;
pub mod gate;
pub mod interim;
pub mod json;
mod lookup;
pub mod peer;
pub mod place;
pub mod profile;
pub mod report;
pub mod resolve;
pub mod tls;
pub mod verdict;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::semantics::asked::Listener;
use crate::semantics::target::Target;
use crate::upstream::failure::Failure;
use crate::upstream::interim::Interims;

/// A call to an origin, without a body: what a fill sends.
#[derive(Clone)]
pub struct Call {
    /// The route's index, for accounting.
    pub route: usize,
    /// The method.
    pub method: Method,
    /// What the client asked for; an upstream may turn `http` into `https`.
    pub target: Target,
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// Which kind of listener the request came through: it bounds where the call may go.
    pub listener: Listener,
    /// Where interim answers go; `None`: nobody wants them.
    pub interims: Option<Arc<Interims>>,
}

/// An origin's answer whose body is still to come.
pub struct Answer {
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
    async fn next(&mut self) -> Result<Option<Bytes>, Failure>;
}

/// Whoever can answer a call: the network, or a scripted origin in tests.
#[async_trait]
pub trait Origin: Send + Sync {
    /// Sends `call` and returns once the head of the final answer is there.
    async fn fetch(&self, call: &Call) -> Result<Answer, Failure>;
}
