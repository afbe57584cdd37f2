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
use crate::upstream::failure::Failure;
use crate::upstream::in_flight::{Gathered, InFlight};

/// The longest body that is taken in before another try, and how long that may take.
const SMALL: usize = 64 * 1024;
const SOON: Duration = Duration::from_secs(1);

/// A body of which the beginning was read.
pub(super) struct Begun {
    pub(super) read: Gathered,
    /// A piece for which there was no room.
    spilled: Option<Bytes>,
    pub(super) rest: Rest,
}

/// What comes behind it.
pub(super) enum Rest {
    Open(Box<dyn Body>),
    Ended,
    Failed(Failure),
}

impl Begun {
    /// Reads behind what has been `read`, until the end, or until `enough` has been read, or there is no room for more.
    pub(super) async fn until(
        mut body: Box<dyn Body>,
        mut read: Gathered,
        enough: impl Fn(&Gathered) -> bool,
    ) -> Self {
        let mut spilled = None;
        let rest = loop {
            match body.next().await {
                Ok(Some(piece)) => spilled = read.push(piece).err(),
                Ok(None) => break Rest::Ended,
                Err(failure) => break Rest::Failed(failure),
            }
            if spilled.is_some() || enough(&read) {
                break Rest::Open(body);
            }
        };
        Self { read, spilled, rest }
    }
}

/// The same body off its connection, which others can use meanwhile. A long or slow one is lost, and
/// says so to whoever wants to read it after all: errors are short.
pub async fn taken_in(body: Box<dyn Body>, in_flight: &Arc<InFlight>) -> Box<dyn Body> {
    let enough = |read: &Gathered| read.len() > SMALL;
    let taken = timeout(SOON, Begun::until(body, Gathered::new(in_flight), enough)).await;
    match taken {
        Ok(begun) => Box::new(begun),
        Err(_elapsed) => {
            let rest = Rest::Failed(Failure::BodyTimeout);
            Box::new(Begun { read: Gathered::new(in_flight), spilled: None, rest })
        }
    }
}

#[async_trait]
impl Body for Begun {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Some(piece) = self.read.pop().or_else(|| self.spilled.take()) {
            return Ok(Some(piece));
        }
        match &mut self.rest {
            Rest::Open(body) => body.next().await,
            Rest::Ended => Ok(None),
            Rest::Failed(failure) => Err(*failure),
        }
    }

    fn ahead(&self) -> usize {
        match &self.rest {
            Rest::Open(body) => body.ahead(),
            Rest::Ended | Rest::Failed(_) => 0,
        }
    }
}
