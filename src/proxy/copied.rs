//! The body of an answer that passes through, copied for the rules that read it.
//!
//! Owns: how much of a body is copied. Never touches: the body as its client gets it, which
//! is not held up.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::proxy::exchange::Ctx;
use crate::upstream::in_flight::{Gathered, InFlight};
use crate::upstream::json::{self, Coding};

/// A body that is copied while it passes.
pub(super) struct Copied {
    status: StatusCode,
    headers: HeaderMap,
    coding: Coding,
    body: Gathered,
}

impl Copied {
    /// A copy of the body behind this head, if rules can read it.
    pub(super) fn of(
        status: StatusCode,
        headers: &HeaderMap,
        in_flight: &Arc<InFlight>,
    ) -> Option<Self> {
        let coding = json::coding(headers)?;
        Some(Self { status, headers: headers.clone(), coding, body: Gathered::new(in_flight) })
    }

    /// Adds a piece; false once it is too much, or all bodies that are held are: give this one up.
    fn push(&mut self, piece: &Bytes) -> bool {
        let fits = self.body.len() + piece.len() <= json::LARGEST;
        fits && self.body.push(piece.clone()).is_ok()
    }
}

impl Ctx {
    /// A piece of the body has passed.
    pub(super) fn read(&mut self, piece: &Bytes) {
        let Some(copy) = &mut self.copy else { return };
        if !copy.push(piece) {
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

    #[test]
    fn one_copy_is_bounded_and_all_together_are_and_those_that_are_over_make_room() {
        let room = InFlight::new(4 * json::LARGEST);
        let copy = || {
            Copied::of(StatusCode::OK, &HeaderMap::new(), &room)
                .expect("what is not called anything is tried")
        };
        let half = Bytes::from(vec![b' '; json::LARGEST / 2]);
        let fill = |copy: &mut Copied| (0..3).map(|_| copy.push(&half)).collect::<Vec<_>>();
        let (mut first, mut second, mut third) = (copy(), copy(), copy());
        assert_eq!(fill(&mut first), [true, true, false], "the largest");
        assert_eq!(fill(&mut second), [true, true, false]);
        assert_eq!(fill(&mut third), [true, false, false], "no room beside the others");
        drop((first, second));
        assert!(third.push(&half));
    }
}
