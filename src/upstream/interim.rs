//! Interim (1xx) responses in transit from an origin to the client that leads the call (RFC 9110 §15.2):
//! forwarded at once, never stored, never part of the final response.
//!
//! Owns: the queue between the task that reads them and the task that writes them.
//! Never touches: final responses.

use std::collections::VecDeque;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// An interim response.
#[derive(Debug, Clone)]
pub struct Interim {
    /// 102 to 199.
    pub status: StatusCode,
    /// Its end-to-end fields.
    pub headers: HeaderMap,
}

/// The interim responses of one call. Their number is bounded by `session`.
#[derive(Debug, Default)]
pub struct Interims {
    queue: Mutex<VecDeque<Interim>>,
    added: Notify,
}

impl Interims {
    /// An empty queue.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds one and wakes the reader.
    pub fn push(&self, interim: Interim) {
        self.queue.lock().push_back(interim);
        self.added.notify_one();
    }

    /// Removes the oldest one.
    pub fn pop(&self) -> Option<Interim> {
        self.queue.lock().pop_front()
    }

    /// Waits for the next one.
    pub async fn next(&self) -> Interim {
        loop {
            if let Some(interim) = self.pop() {
                return interim;
            }
            self.added.notified().await;
        }
    }
}
