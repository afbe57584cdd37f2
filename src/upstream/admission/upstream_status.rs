//! The status of an upstream, for its operator (`larder upstreams`, `/v1/upstreams`).
//!
//! Owns: the displayed values. Never touches: where they come from (`admission`), their JSON (`admin`).

use std::sync::Arc;
use std::time::Duration;

/// The status of an upstream, or of a host that no upstream names.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamStatus {
    /// The configured name, or the host and port.
    pub name: Arc<str>,
    /// Whether it is a configured upstream.
    pub configured: bool,
    /// Calls that wait for the head of their response.
    pub in_flight: usize,
    /// Calls in queues.
    pub waiting: usize,
    /// The cooldowns: why calls are blocked, and until when.
    pub cooldowns: Vec<CooldownStatus>,
    /// The state of the circuit breaker: `closed`, `open` or `half-open`. `None`: there is no breaker.
    pub breaker: Option<&'static str>,
    /// The limits that larder keeps.
    pub limits: Vec<LimitStatus>,
    /// Responses that the ban guard counts in its window, and the count at which it trips.
    pub ban_guard: Option<(u64, u64)>,
    /// Retries in the last ten seconds, and the maximum.
    pub retries: (u64, u64),
}

/// A cooldown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CooldownStatus {
    /// The scope: `upstream`, `origin`, `endpoints`, `endpoint`, `credential`, `bucket`, `key`.
    pub scope: &'static str,
    /// The reason: `rate-limited`, `quota`, `shared-limit`, `connect`, `timeout`, `server-error`, `breaker`,
    /// `ban-guard`, `budget`.
    pub reason: &'static str,
    /// Whether it blocks every call. Otherwise it blocks only calls that have a stale response.
    pub firm: bool,
    /// The time left. Zero: a probe is due.
    pub left: Duration,
    /// Whether a probe is in flight.
    pub probing: bool,
    /// How many cooldowns are merged here. Those of keys are merged, with the longest time left.
    pub count: usize,
}

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitStatus {
    /// `configured`, `learned`, or the name of a learned bucket.
    pub name: String,
    /// Calls per window.
    pub limit: u64,
    /// The length of a window, if it is known.
    pub window: Option<Duration>,
    /// Calls that may still go out in this window.
    pub left: u64,
}
