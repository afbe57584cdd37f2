//! Parts of answers that a connection of HTTP/2 has taken over and not sent.
//!
//! Owns: that each counts for its connection until it is sent, or never will be. Never touches: how much
//! may be ahead (`siblings`), what is sent.

use bytes::{Buf, Bytes};

use crate::frontend::shared_connection::QueuedBytes;

/// One part. Whoever sends it drops it behind its last byte.
#[derive(Debug)]
pub struct UnsentBytes {
    bytes: Bytes,
    _ahead: Option<QueuedBytes>,
}

impl UnsentBytes {
    /// These bytes, which count in `ahead`.
    pub(super) fn new(bytes: Bytes, ahead: QueuedBytes) -> Self {
        Self { bytes, _ahead: Some(ahead) }
    }

    /// No bytes: what ends a body.
    pub(super) fn end() -> Self {
        Self { bytes: Bytes::new(), _ahead: None }
    }
}

impl Buf for UnsentBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, taken: usize) {
        self.bytes.advance(taken);
    }
}
