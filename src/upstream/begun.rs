//! A body of which the beginning was read ahead: whoever gets it gets all of it.
//!
//! Owns: that nothing is lost or changed by looking. Never touches: why somebody looked (`json`, and
//! fills that try again).

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::upstream::Body;
use crate::upstream::failure::Failure;

/// The pieces in which what was read is handed on.
const PIECE: usize = 64 * 1024;

/// The longest body that is taken in before another try, and how long that may take.
const SMALL: usize = 64 * 1024;
const SOON: Duration = Duration::from_secs(1);

/// A body of which the beginning was read.
pub(super) struct Begun {
    pub(super) read: Bytes,
    pub(super) rest: Rest,
}

/// What comes behind it.
pub(super) enum Rest {
    Open(Box<dyn Body>),
    Ended,
    Failed(Failure),
}

impl Begun {
    /// Reads until the end, or until `enough` has been read.
    pub(super) async fn until(mut body: Box<dyn Body>, enough: impl Fn(&[u8]) -> bool) -> Self {
        let mut read = BytesMut::new();
        let rest = loop {
            match body.next().await {
                Ok(Some(piece)) => read.extend_from_slice(&piece),
                Ok(None) => break Rest::Ended,
                Err(failure) => break Rest::Failed(failure),
            }
            if enough(&read) {
                break Rest::Open(body);
            }
        };
        Self { read: read.freeze(), rest }
    }
}

/// The same body off its connection, which others can use meanwhile. A long or slow one is lost, and
/// says so to whoever wants to read it after all: errors are short.
pub async fn taken_in(body: Box<dyn Body>) -> Box<dyn Body> {
    let taken = timeout(SOON, Begun::until(body, |read| read.len() > SMALL)).await;
    match taken {
        Ok(begun) => Box::new(begun),
        Err(_elapsed) => {
            Box::new(Begun { read: Bytes::new(), rest: Rest::Failed(Failure::BodyTimeout) })
        }
    }
}

#[async_trait]
impl Body for Begun {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if !self.read.is_empty() {
            return Ok(Some(self.read.split_to(self.read.len().min(PIECE))));
        }
        match &mut self.rest {
            Rest::Open(body) => body.next().await,
            Rest::Ended => Ok(None),
            Rest::Failed(failure) => Err(*failure),
        }
    }
}
