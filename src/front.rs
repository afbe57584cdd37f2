//! The front door: from accepted connections to clean requests.
//!
//! Owns: listeners, the bytes of a connection until they are a clean request, `CONNECT`, tunnels,
//! who may use larder. Never touches: routes, the store; it hands requests to a [`Service`].

pub mod access;
pub mod door;
pub mod head;
pub mod io;
pub mod listen;
pub mod stage;
pub mod tunnel;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;

use crate::front::door::Door;
use crate::front::io::ClientIo;
use crate::semantics::asked::Asked;

/// Who takes a clean request and answers it on its connection.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers `asked`. `bytes` are its normalised head and whatever of its body was read with it;
    /// the rest follows on `io`. Returns the connection if another request may follow on it.
    async fn serve(&self, asked: Asked, bytes: BytesMut, io: ClientIo) -> Option<ClientIo>;
}

/// Which door is in force: a reload puts another in its place.
pub trait Doors: Send + Sync + 'static {
    /// The door for a request that begins now. Whoever holds it finishes with it.
    fn current(&self) -> Arc<Door>;
}
