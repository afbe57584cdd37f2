//! The next one: it takes the sockets of the larder that runs.
//!
//! Owns: finding it, and telling it when to leave. Never touches: the sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::server::handover::protocol::{hear, say};
use crate::server::handover::{
    LEAVING, LISTENS, LONGEST, PROMPT, READY, SOCKETS, TAKE_OVER, WHO, is_ours,
};
use crate::server::inherited_sockets::InheritedSockets;

/// The larder that ran before, waiting to hear that the next one is ready.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    pid: Option<i32>,
}

/// Why the sockets could not be taken over. The larder that runs goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeOverError {
    /// It is not larder, or not ours.
    #[error("{0}: not a larder of this user")]
    Stranger(String),
    /// The conversation broke off.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Takes the sockets of the larder that offers them at `path`; `None` when none runs.
pub async fn take_over(
    path: &Path,
) -> Result<Option<(InheritedSockets, Predecessor)>, TakeOverError> {
    let shown = || path.display().to_string();
    let failed = |source| TakeOverError::Io { path: shown(), source };
    let stream = match connect(path).await {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !is_ours(&stream) {
        return Err(TakeOverError::Stranger(shown()));
    }
    say(&stream, TAKE_OVER, &[]).await.map_err(failed)?;
    let Some((word, sockets)) = hear(&stream, PROMPT).await.map_err(failed)? else {
        // It was about to stop: as good as none.
        return Ok(None);
    };
    if word != SOCKETS {
        return Err(TakeOverError::Stranger(shown()));
    }
    let sockets = sockets.into_iter().map(TcpListener::from).collect();
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    Ok(Some((InheritedSockets::of_predecessor(sockets), Predecessor { stream, pid })))
}

impl Predecessor {
    /// Its process.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// This larder accepts connections: the other may leave. Returns once it knows.
    pub(in crate::server) async fn leave(self) -> io::Result<UnixStream> {
        say(&self.stream, READY, &[]).await?;
        match hear(&self.stream, PROMPT).await? {
            Some((word, _)) if word == LEAVING => Ok(self.stream),
            Some(_) | None => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// The process of the larder that offers its sockets at `path` and listens on the port of `address`.
pub async fn holder(path: &Path, address: SocketAddr) -> Option<i32> {
    let asking = async {
        let stream = connect(path).await.ok().filter(is_ours)?;
        say(&stream, WHO, &[]).await.ok()?;
        let (line, _) = hear(&stream, PROMPT).await.ok()??;
        let mut addresses = line.strip_prefix(LISTENS)?.split_whitespace();
        let listens = addresses
            .any(|at| at.parse::<SocketAddr>().is_ok_and(|at| at.port() == address.port()));
        if listens { stream.peer_cred().ok()?.pid() } else { None }
    };
    // The answer to a taken port must not wait for somebody who is busy.
    timeout(PROMPT / 10, asking).await.ok().flatten()
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() > LONGEST {
        return Err(io::ErrorKind::NotFound.into());
    }
    UnixStream::connect(path).await
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
