//! What the streams of one connection of HTTP/2 share.
//!
//! Owns: what each of them may know of the others, and ask of their connection. Never touches: frames
//! (`io`), streams (`session`), the connection itself (`multiplex`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
}

impl Siblings {
    /// Those of a connection whose client speaks HTTP/1 too, and may be sent there, or HTTP/2 alone.
    pub(super) fn new(http1: Option<Http1Place>) -> Self {
        Self(Arc::new(Inner {
            http1,
            leaves: AtomicBool::new(false),
            kept_back: AtomicBool::new(false),
            clogged: AtomicBool::new(false),
        }))
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
