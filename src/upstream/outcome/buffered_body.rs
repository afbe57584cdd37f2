//! A body whose beginning has been read ahead; its reader still receives all of it.
//!
//! Owns: replaying the prefix without loss or change. Never touches: why the prefix was read
//! (`body_inspection`, and fills that retry).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;

use crate::upstream::Body;
use crate::upstream::in_flight_bytes::{BufferedPieces, InFlightBytes};
use crate::upstream::outcome::error::UpstreamError;

/// The longest body that is buffered before a retry, and how long buffering may take.
const MAX_BUFFERED: usize = 64 * 1024;
const BUFFER_TIMEOUT: Duration = Duration::from_secs(1);

/// A body whose beginning has been read.
pub(in crate::upstream) struct PrefixedBody {
    pub(in crate::upstream) prefix: BufferedPieces,
    /// A piece that did not fit into the in-flight limit.
    spilled: Option<Bytes>,
    pub(in crate::upstream) rest: Remainder,
}

/// The part of the body behind the prefix.
pub(in crate::upstream) enum Remainder {
    Open(Box<dyn Body>),
    Ended,
    Failed(UpstreamError),
}

impl PrefixedBody {
    /// Continues behind `read` until the body ends, `enough` returns true, or the in-flight limit is reached.
    pub(in crate::upstream) async fn read_until(
        mut body: Box<dyn Body>,
        mut read: BufferedPieces,
        enough: impl Fn(&BufferedPieces) -> bool,
    ) -> Self {
        let mut spilled = None;
        let rest = loop {
            match body.next().await {
                Ok(Some(piece)) => spilled = read.push(piece).err(),
                Ok(None) => break Remainder::Ended,
                Err(error) => break Remainder::Failed(error),
            }
            if spilled.is_some() || enough(&read) {
                break Remainder::Open(body);
            }
        };
        Self { prefix: read, spilled, rest }
    }
}

/// Buffers a body, so that other calls can use its connection meanwhile. A long or slow body is dropped,
/// and reading it later fails; error bodies are short.
pub async fn buffer(body: Box<dyn Body>, in_flight: &Arc<InFlightBytes>) -> Box<dyn Body> {
    let enough = |read: &BufferedPieces| read.len() > MAX_BUFFERED;
    let buffered =
        timeout(BUFFER_TIMEOUT, PrefixedBody::read_until(body, BufferedPieces::new(in_flight), enough)).await;
    match buffered {
        Ok(body) => Box::new(body),
        Err(_elapsed) => {
            let rest = Remainder::Failed(UpstreamError::BodyTimeout);
            Box::new(PrefixedBody { prefix: BufferedPieces::new(in_flight), spilled: None, rest })
        }
    }
}

#[async_trait]
impl Body for PrefixedBody {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        if let Some(piece) = self.prefix.pop().or_else(|| self.spilled.take()) {
            return Ok(Some(piece));
        }
        match &mut self.rest {
            Remainder::Open(body) => body.next().await,
            Remainder::Ended => Ok(None),
            Remainder::Failed(error) => Err(*error),
        }
    }

    fn receive_window(&self) -> usize {
        match &self.rest {
            Remainder::Open(body) => body.receive_window(),
            Remainder::Ended | Remainder::Failed(_) => 0,
        }
    }
}
