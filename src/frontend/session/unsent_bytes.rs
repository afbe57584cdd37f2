//! Parts of responses that an HTTP/2 connection has accepted and not sent.
//!
//! Owns: the count: each part counts for its connection until it is sent, or will never be sent. Never
//! touches: the limit on queued bytes (`shared_connection`), the content.

use bytes::{Buf, Bytes};

use crate::frontend::shared_connection::QueuedBytes;

/// One part. `h2` drops it after its last byte.
#[derive(Debug)]
pub struct UnsentBytes {
    bytes: Bytes,
    _queued: Option<QueuedBytes>,
}

impl UnsentBytes {
    /// Creates a part of these bytes, which count in `queued`.
    pub(super) fn new(bytes: Bytes, queued: QueuedBytes) -> Self {
        Self { bytes, _queued: Some(queued) }
    }

    /// An empty part that ends a body.
    pub(super) fn end() -> Self {
        Self { bytes: Bytes::new(), _queued: None }
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
