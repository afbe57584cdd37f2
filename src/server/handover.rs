//! Handing the listening sockets to the larder that comes next, over a Unix socket in the store's
//! directory: both accept for a moment, so no connection is refused or lost.
//!
//! Owns: where the Unix socket is, who may speak there, the words. Never touches: what is accepted.
//!
//! ```text
//! the next one                       the one that runs
//!   larder-1 take-over        →
//!                             ←      larder-1 sockets, with the sockets (SCM_RIGHTS)
//!   (starts, accepts)
//!   ready                     →
//!                             ←      leaving; it accepts no more, finishes, and exits
//!   invalidate 1 all hard     ↔      done 1, either way until it has exited
//! ```
//! If the next one fails before it is ready, the one that runs goes on as if nothing had happened.

pub(super) mod invalidation_sync;
mod protocol;
mod receiver;
mod sender;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

pub use crate::server::handover::receiver::{Predecessor, TakeOverError, holder, take_over};
pub(super) use crate::server::handover::sender::HandoverListener;

/// Where a larder with this store offers its sockets.
pub fn path(store: &Path) -> PathBuf {
    store.join("handover.sock")
}

/// Why a larder cannot offer its sockets. It runs all the same; only a restart will drop connections.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// The operating system bounds such paths.
    #[error("the path of the store is too long for a socket in it")]
    TooLong,
    /// There can be one offer per store.
    #[error("another larder offers its sockets there")]
    Taken,
    /// The socket could not be made.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Whether the other end belongs to this process's user: nobody else is talked to.
fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

/// The longest path: `sockaddr_un` has room for 108 bytes on Linux, 104 elsewhere.
const LONGEST: usize = 100;

/// How long the other end may take for a word that needs no work.
const PROMPT: Duration = Duration::from_secs(5);

/// How long the next one may take to start; then the one that runs goes on without it.
const STARTING: Duration = Duration::from_secs(60);

const TAKE_OVER: &str = "larder-1 take-over";
const WHO: &str = "larder-1 who";
const SOCKETS: &str = "larder-1 sockets";
const LISTENS: &str = "larder-1 listens";
const READY: &str = "ready";
const LEAVING: &str = "leaving";
