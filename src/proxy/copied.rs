//! The body of an answer that passes through, copied for the rules that read it.
//!
//! Owns: how much is copied, of one body and of all. Never touches: the body as its client gets it, which
//! is not held up.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use crate::proxy::exchange::Ctx;
use crate::upstream::json::{self, Coding};

/// All copies together have no more bytes; what would be more is not read.
const MOST: usize = 128 * 1024 * 1024;

/// The bytes of all copies.
static COPIED: AtomicUsize = AtomicUsize::new(0);

/// A body that is copied while it passes.
pub(super) struct Copied {
    status: StatusCode,
    headers: HeaderMap,
    coding: Coding,
    body: BytesMut,
}

impl Copied {
    /// A copy of the body behind this head, if rules can read it.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let coding = json::coding(headers)?;
        Some(Self { status, headers: headers.clone(), coding, body: BytesMut::new() })
    }

    /// Adds a piece; false once it is too much, or all copies are: give this one up.
    fn push(&mut self, piece: &Bytes, most: usize) -> bool {
        if self.body.len() + piece.len() > json::LARGEST {
            return false;
        }
        self.body.extend_from_slice(piece);
        COPIED.fetch_add(piece.len(), Ordering::Relaxed) + piece.len() <= most
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        COPIED.fetch_sub(self.body.len(), Ordering::Relaxed);
    }
}

impl Ctx {
    /// A piece of the body has passed.
    pub(super) fn read(&mut self, piece: &Bytes) {
        let Some(copy) = &mut self.copy else { return };
        if !copy.push(piece, MOST) {
            self.copy = None;
            if let Some(pass) = &mut self.pass {
                pass.unreadable();
            }
        }
    }

    /// All of the body has passed: now rules can read it.
    pub(super) fn read_all(&mut self) {
        let (Some(copy), Some(pass)) = (self.copy.take(), &mut self.pass) else { return };
        let Some(json) = json::parse(copy.coding, &copy.body) else { return pass.unreadable() };
        if !pass.read(copy.status, &copy.headers, &json) {
            // An error that only its body tells of is kept for nobody.
            self.recording = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy() -> Copied {
        Copied::of(StatusCode::OK, &HeaderMap::new()).expect("what is not called anything is tried")
    }

    // One test: it is the only one that may count on nobody else copying.
    #[test]
    fn one_copy_is_bounded_and_all_together_are_and_those_that_are_over_make_room() {
        let piece = Bytes::from_static(&[b' '; 6]);
        let (mut first, mut second) = (copy(), copy());
        assert!(first.push(&piece, 10));
        assert!(!second.push(&piece, 10), "twelve");
        drop((first, second));
        assert!(copy().push(&piece, 10));
        let half = Bytes::from(vec![b' '; json::LARGEST / 2]);
        let mut largest = copy();
        assert!(largest.push(&half, MOST) && largest.push(&half, MOST));
        assert!(!largest.push(&Bytes::from_static(b" "), MOST));
    }
}
