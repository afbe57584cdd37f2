//! Hand-over of the listening sockets to the next larder process, over a Unix socket in the store's
//! directory: both processes accept for a moment, so no connection is refused or lost.
//!
//! Owns: the location of the Unix socket, its access check, the protocol messages. Never touches:
//! accepted connections.
//!
//! ```text
//! next process                       running process
//!   larder-1 take-over        →
//!                             ←      larder-1 sockets, with the sockets (SCM_RIGHTS)
//!   (starts, accepts)
//!   ready                     →
//!                             ←      leaving; stops accepting, finishes, and exits
//!   invalidate 1 all hard     ↔      done 1, in both directions until it has exited
//! ```
//! If the next process fails before it is ready, the running one continues unchanged.

pub(super) mod invalidation_sync;
mod protocol;
mod receiver;
mod sender;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

pub use crate::server::handover::receiver::{Predecessor, TakeOverError, listening_pid, take_over};
pub(super) use crate::server::handover::sender::HandoverListener;

/// The path at which a larder with this store offers its sockets.
pub fn path(store: &Path) -> PathBuf {
    store.join("handover.sock")
}

/// Why larder cannot offer its sockets. It still runs, but a restart will drop connections.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// The operating system limits the length of such paths.
    #[error("the store path is too long for a Unix socket in it")]
    TooLong,
    /// Only one process per store may offer its sockets.
    #[error("another larder offers its sockets there")]
    Taken,
    /// The socket could not be created.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Whether the peer process belongs to the same user; all others are rejected.
fn is_same_user(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

/// Maximum path length: `sockaddr_un` allows 108 bytes on Linux, 104 elsewhere.
const MAX_PATH: usize = 100;

/// Maximum time for a reply that needs no work.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time for the next process to start; after it the running one continues.
const START_TIMEOUT: Duration = Duration::from_secs(60);

const TAKE_OVER: &str = "larder-1 take-over";
const LIST_ADDRESSES: &str = "larder-1 who";
const SOCKETS: &str = "larder-1 sockets";
const LISTENS: &str = "larder-1 listens";
const READY: &str = "ready";
const LEAVING: &str = "leaving";
