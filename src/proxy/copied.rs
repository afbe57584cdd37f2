//! The body of an answer that passes through, copied for the rules that read it.
//!
//! Owns: how much is copied. Never touches: the body as its client gets it, which is not held up.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use crate::proxy::exchange::Ctx;
use crate::upstream::json::{self, Coding};

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
}

impl Ctx {
    /// A piece of the body has passed; with `end`, the last one: now rules can read it.
    pub(super) fn read(&mut self, piece: Option<&Bytes>, end: bool) {
        let Some(mut copy) = self.copy.take() else { return };
        if let Some(piece) = piece {
            copy.body.extend_from_slice(piece);
        }
        if copy.body.len() > json::LARGEST {
            return;
        }
        if !end {
            self.copy = Some(copy);
            return;
        }
        let Some(json) = json::parse(copy.coding, &copy.body) else { return };
        let Some(pass) = &mut self.pass else { return };
        if !pass.read(copy.status, &copy.headers, &json) {
            // An error that only its body tells of is kept for nobody.
            self.recording = None;
        }
    }
}
