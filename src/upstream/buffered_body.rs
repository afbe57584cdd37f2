//! A body of which the beginning was read ahead: whoever gets it gets all of it.
//!
//! Owns: that nothing is lost or changed by looking. Never touches: why somebody looked (`json`, and
//! fills that try again).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;

use crate::upstream::Body;
use crate::upstream::error::UpstreamError;
use crate::upstream::in_flight_bytes::{BufferedPieces, InFlightBytes};

/// The longest body that is taken in before another try, and how long that may take.
const SMALL: usize = 64 * 1024;
const SOON: Duration = Duration::from_secs(1);

/// A body of which the beginning was read.
pub(super) struct PrefixedBody {
    pub(super) read: BufferedPieces,
    /// A piece for which there was no room.
    spilled: Option<Bytes>,
    pub(super) rest: Remainder,
}

/// What comes behind it.
pub(super) enum Remainder {
    Open(Box<dyn Body>),
    Ended,
    Failed(UpstreamError),
}

impl PrefixedBody {
    /// Reads behind what has been `read`, until the end, or until `enough` has been read, or there is no room for more.
    pub(super) async fn until(
        mut body: Box<dyn Body>,
        mut read: BufferedPieces,
        enough: impl Fn(&BufferedPieces) -> bool,
    ) -> Self {
        let mut spilled = None;
        let rest = loop {
            match body.next().await {
                Ok(Some(piece)) => spilled = read.push(piece).err(),
                Ok(None) => break Remainder::Ended,
                Err(failure) => break Remainder::Failed(failure),
            }
            if spilled.is_some() || enough(&read) {
                break Remainder::Open(body);
            }
        };
        Self { read, spilled, rest }
    }
}

/// The same body off its connection, which others can use meanwhile. A long or slow one is lost, and
/// says so to whoever wants to read it after all: errors are short.
pub async fn buffer(body: Box<dyn Body>, in_flight: &Arc<InFlightBytes>) -> Box<dyn Body> {
    let enough = |read: &BufferedPieces| read.len() > SMALL;
    let taken =
        timeout(SOON, PrefixedBody::until(body, BufferedPieces::new(in_flight), enough)).await;
    match taken {
        Ok(begun) => Box::new(begun),
        Err(_elapsed) => {
            let rest = Remainder::Failed(UpstreamError::BodyTimeout);
            Box::new(PrefixedBody { read: BufferedPieces::new(in_flight), spilled: None, rest })
        }
    }
}

#[async_trait]
impl Body for PrefixedBody {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        if let Some(piece) = self.read.pop().or_else(|| self.spilled.take()) {
            return Ok(Some(piece));
        }
        match &mut self.rest {
            Remainder::Open(body) => body.next().await,
            Remainder::Ended => Ok(None),
            Remainder::Failed(failure) => Err(*failure),
        }
    }

    fn ahead(&self) -> usize {
        match &self.rest {
            Remainder::Open(body) => body.ahead(),
            Remainder::Ended | Remainder::Failed(_) => 0,
        }
    }
}
