//! Interim (1xx) answers on their way from an origin to the client that leads the call (RFC 9110
//! §15.2): forwarded at once, never stored, never part of the final answer.
//!
//! Owns: the queue between the task that reads them and the one that writes them.
//! Never touches: final answers.

use std::collections::VecDeque;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// An interim answer.
#[derive(Debug, Clone)]
pub struct Interim {
    /// 102 to 199.
    pub status: StatusCode,
    /// Its end-to-end fields.
    pub headers: HeaderMap,
}

/// The interim answers of one call. Who makes calls bounds how many there are.
#[derive(Debug, Default)]
pub struct Interims {
    queue: Mutex<VecDeque<Interim>>,
    news: Notify,
}

impl Interims {
    /// An empty queue.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds one; its reader wakes.
    pub fn push(&self, interim: Interim) {
        self.queue.lock().push_back(interim);
        self.news.notify_one();
    }

    /// The oldest that waits.
    pub fn pop(&self) -> Option<Interim> {
        self.queue.lock().pop_front()
    }

    /// Waits for the next.
    pub async fn next(&self) -> Interim {
        loop {
            if let Some(interim) = self.pop() {
                return interim;
            }
            self.news.notified().await;
        }
    }
}
