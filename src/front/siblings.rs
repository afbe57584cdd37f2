//! What the streams of one connection of HTTP/2 share.
//!
//! Owns: what each of them may know of the others, and ask of their connection. Never touches: frames
//! (`io`), streams (`session`), the connection itself (`multiplex`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock;
use crate::front::http1_only::Http1Place;

/// Each stream of a connection has one.
#[derive(Debug, Clone)]
pub struct Siblings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Where a connection is known to need HTTP/1; `None`: its client speaks HTTP/2 alone.
    http1: Option<Http1Place>,
    leaves: AtomicBool,
    kept_back: AtomicBool,
    clogged: AtomicBool,
    came: Mutex<Came>,
    /// How many of them have a body that larder does not read on, for its origin takes no more of it.
    held: AtomicUsize,
}

/// What has come of the bodies of all requests on a connection, also what nobody has read yet.
#[derive(Debug, Clone, Copy)]
pub struct Came {
    /// The bytes.
    pub bytes: u64,
    /// When the last of them came, or the connection began.
    pub last: Instant,
}

/// A stream whose body may be held up by its origin. Dropped, it is not.
#[derive(Debug)]
pub struct Holding {
    siblings: Siblings,
    is_held: bool,
}

impl Siblings {
    /// Those of a connection whose client speaks HTTP/1 too, and may be sent there, or HTTP/2 alone.
    pub(super) fn new(http1: Option<Http1Place>) -> Self {
        Self(Arc::new(Inner {
            http1,
            leaves: AtomicBool::new(false),
            kept_back: AtomicBool::new(false),
            clogged: AtomicBool::new(false),
            came: Mutex::new(Came { bytes: 0, last: clock::of_timers() }),
            held: AtomicUsize::new(0),
        }))
    }

    /// So much of the body of one of them has come.
    pub(super) fn comes(&self, bytes: usize) {
        let mut came = self.0.came.lock();
        came.bytes += bytes as u64;
        came.last = clock::of_timers();
    }

    /// What has come so far.
    pub fn came(&self) -> Came {
        *self.0.came.lock()
    }

    /// Whether the client can send no more of a body because its origin takes no more.
    pub fn is_any_held(&self) -> bool {
        self.0.held.load(Ordering::Relaxed) > 0
    }

    /// For a stream that may be held up.
    pub fn holding(&self) -> Holding {
        Holding { siblings: self.clone(), is_held: false }
    }

    /// What is asked here needs HTTP/1: from now on nothing else is offered. False: the client speaks HTTP/2
    /// alone.
    pub fn need_http1(&self) -> bool {
        if let Some(place) = &self.0.http1 {
            place.remember();
        }
        self.0.http1.is_some()
    }

    /// The connection is to take no further requests. What is written from here on is kept back until
    /// that can be said right behind it: a client reads both at once, and asks nothing in between.
    pub(super) fn leave(&self) {
        self.0.kept_back.store(true, Ordering::Release);
        self.0.leaves.store(true, Ordering::Release);
    }

    /// Whether one of them has asked for that.
    pub(super) fn has_left(&self) -> bool {
        self.0.leaves.load(Ordering::Acquire)
    }

    /// What was kept back may go.
    pub(super) fn let_go(&self) {
        self.0.kept_back.store(false, Ordering::Release);
    }

    /// Whether the client takes less than there is to send.
    pub(super) fn is_clogged(&self) -> bool {
        self.0.clogged.load(Ordering::Relaxed)
    }

    /// It does, or does no more.
    pub(super) fn clogs(&self, clogged: bool) {
        self.0.clogged.store(clogged, Ordering::Relaxed);
    }

    /// Whether nothing is to be sent for the moment.
    pub(super) fn is_kept_back(&self) -> bool {
        self.0.kept_back.load(Ordering::Acquire)
    }
}

impl Holding {
    /// Whether it is held up from here on.
    pub fn is(&mut self, held: bool) {
        if std::mem::replace(&mut self.is_held, held) == held {
            return;
        }
        let count = &self.siblings.0.held;
        if held {
            count.fetch_add(1, Ordering::Relaxed);
        } else {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.is(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_once_and_not_past_its_end() {
        let siblings = Siblings::new(None);
        let (mut one, mut other) = (siblings.holding(), siblings.holding());
        for held in [true, true, false, false, true] {
            one.is(held);
            assert_eq!(siblings.is_any_held(), held);
        }
        other.is(true);
        drop(one);
        assert!(siblings.is_any_held());
        drop(other);
        assert!(!siblings.is_any_held());
    }
}
