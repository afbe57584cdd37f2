//! The one gate that every call to an origin passes, on both ways out.
//!
//! Owns: what happens before a call (later: holds, pacing, credentials) and after it (later:
//! classifying, learning). Today it accounts. Never touches: the call itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::account::{Account, Retry, UpstreamCall};
use crate::clock;

/// The gate. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    account: Arc<Account>,
}

impl Gate {
    /// A gate that accounts to `account`.
    pub fn new(account: Arc<Account>) -> Self {
        Self { account }
    }

    /// Lets a call through. The pass says how it ended; dropped without a word, the call counts as
    /// abandoned.
    pub fn enter(&self, upstream: usize, route: usize) -> Pass {
        Pass {
            account: Arc::clone(&self.account),
            upstream,
            route,
            since: clock::monotonic(),
            said: false,
        }
    }

    /// A connection that had died in the pool, or an address that refused, led to another attempt.
    pub fn retried(&self, upstream: usize, cause: &'static str) {
        // It is made at once, and whose it is nobody says here.
        let (route, wait) = (usize::MAX, Duration::ZERO);
        self.account.upstream_retry(&Retry { upstream, route, cause, wait });
    }
}

/// One call that went through the gate.
pub struct Pass {
    account: Arc<Account>,
    upstream: usize,
    route: usize,
    since: Instant,
    said: bool,
}

impl Pass {
    /// The head of the final answer came.
    pub fn answered(&mut self, status: StatusCode) {
        self.say(Ok(status));
    }

    /// No head came.
    pub fn failed(&mut self, token: &'static str) {
        self.say(Err(token));
    }

    fn say(&mut self, outcome: Result<StatusCode, &'static str>) {
        if self.said {
            return;
        }
        self.said = true;
        self.account.upstream_call(&UpstreamCall {
            upstream: self.upstream,
            route: self.route,
            outcome,
            duration: clock::monotonic().saturating_duration_since(self.since),
        });
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.say(Err("abandoned"));
    }
}
