//! How an upstream stands, for its operator (`larder upstreams`, `/v1/upstreams`).
//!
//! Owns: the values that are shown. Never touches: where they come from (`gate`), their JSON (`admin`).

use std::sync::Arc;
use std::time::Duration;

/// One upstream, or one host that no upstream names.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamStatus {
    /// The configured name, or the host and port.
    pub name: Arc<str>,
    /// Whether the configuration names it.
    pub configured: bool,
    /// Calls that wait for the head of their answer.
    pub in_flight: usize,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Why it is not asked, and until when.
    pub holds: Vec<CooldownStatus>,
    /// The breaker: `closed`, `open` or `half-open`; `None`: it has none.
    pub breaker: Option<&'static str>,
    /// The limits that it is kept to.
    pub limits: Vec<LimitStatus>,
    /// Answers that the ban guard counts in its window, and at how many it trips.
    pub ban_guard: Option<(u64, u64)>,
    /// Retries in the last ten seconds, and how many there may be.
    pub retries: (u64, u64),
}

/// One hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CooldownStatus {
    /// What is held: `upstream`, `origin`, `credential`, `bucket`, `key`.
    pub reach: &'static str,
    /// Why: `rate-limited`, `quota`, `shared-limit`, `connect`, `timeout`, `server-error`, `breaker`,
    /// `ban-guard`, `budget`.
    pub cause: &'static str,
    /// Whether nobody passes; else only those are kept back who have a stale answer.
    pub firm: bool,
    /// How much longer; zero: a probe is due.
    pub left: Duration,
    /// Whether a probe is on its way.
    pub probing: bool,
    /// How many are like this one (holds of keys are shown together, with the longest time left).
    pub count: usize,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitStatus {
    /// `configured`, `learned`, or the name of a learned bucket.
    pub name: String,
    /// Calls in a window.
    pub limit: u64,
    /// How long a window is, where known.
    pub window: Option<Duration>,
    /// Calls that may still go out in this one.
    pub left: u64,
}
