//! The next process: takes over the sockets of the running larder.
//!
//! Owns: finding the running process, and notifying it when to exit. Never touches: the sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::server::handover::protocol::{read_line, write_line};
use crate::server::handover::{
    LEAVING, LIST_ADDRESSES, LISTENS, MAX_PATH, READY, REPLY_TIMEOUT, SOCKETS, TAKE_OVER, is_same_user,
};
use crate::server::inherited_sockets::InheritedSockets;

/// The previous larder process, which waits for the notification that this one is ready.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    pid: Option<i32>,
}

/// Why the sockets could not be taken over. The running process continues.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeOverError {
    /// The peer is not larder, or belongs to another user.
    #[error("{0}: not a larder of this user")]
    NotOurs(String),
    /// The connection failed.
    #[error("{path}: {source}")]
    Io {
        /// The path of the Unix socket.
        path: String,
        /// The cause.
        source: io::Error,
    },
}

/// Takes over the sockets that a larder process offers at `path`; `None` if none runs.
pub async fn take_over(path: &Path) -> Result<Option<(InheritedSockets, Predecessor)>, TakeOverError> {
    let shown = || path.display().to_string();
    let failed = |source| TakeOverError::Io { path: shown(), source };
    let stream = match connect(path).await {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !is_same_user(&stream) {
        return Err(TakeOverError::NotOurs(shown()));
    }
    write_line(&stream, TAKE_OVER, &[]).await.map_err(failed)?;
    let Some((message, sockets)) = read_line(&stream, REPLY_TIMEOUT).await.map_err(failed)? else {
        // The process was about to stop, so it counts as not running.
        return Ok(None);
    };
    if message != SOCKETS {
        return Err(TakeOverError::NotOurs(shown()));
    }
    let sockets = sockets.into_iter().map(TcpListener::from).collect();
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    Ok(Some((InheritedSockets::from_predecessor(sockets), Predecessor { stream, pid })))
}

impl Predecessor {
    /// Its process id.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Notifies the previous process that this one accepts connections. Returns once it has acknowledged.
    pub(in crate::server) async fn notify_ready(self) -> io::Result<UnixStream> {
        write_line(&self.stream, READY, &[]).await?;
        match read_line(&self.stream, REPLY_TIMEOUT).await? {
            Some((message, _)) if message == LEAVING => Ok(self.stream),
            Some(_) | None => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// The process id of the larder that offers its sockets at `path` and listens on the port of `address`.
pub async fn listening_pid(path: &Path, address: SocketAddr) -> Option<i32> {
    let query = async {
        let stream = connect(path).await.ok().filter(is_same_user)?;
        write_line(&stream, LIST_ADDRESSES, &[]).await.ok()?;
        let (line, _) = read_line(&stream, REPLY_TIMEOUT).await.ok()??;
        let mut addresses = line.strip_prefix(LISTENS)?.split_whitespace();
        let listens =
            addresses.any(|at| at.parse::<SocketAddr>().is_ok_and(|at| at.port() == address.port()));
        if listens { stream.peer_cred().ok()?.pid() } else { None }
    };
    // A short timeout: the error message for a port in use must not wait for a busy process.
    timeout(REPLY_TIMEOUT / 10, query).await.ok().flatten()
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(io::ErrorKind::NotFound.into());
    }
    UnixStream::connect(path).await
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
