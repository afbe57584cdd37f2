//! The running process: offers its sockets until another process takes them over or it stops.
//!
//! Owns: the file of the Unix socket. Never touches: the shutdown after a hand-over.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::server::handover::invalidation_sync::InvalidationSync;
use crate::server::handover::protocol::{self, read_line, write_line};
use crate::server::handover::{
    HandoverError, LEAVING, LIST_ADDRESSES, LISTENS, MAX_PATH, READY, REPLY_TIMEOUT, SOCKETS, START_TIMEOUT,
    TAKE_OVER, is_same_user,
};
use crate::store::private_file::existing;
use crate::store::tiered::TieredStore;

/// An offer that is open until it is taken or withdrawn.
pub(in crate::server) struct HandoverListener {
    path: PathBuf,
    offering: JoinHandle<()>,
}

impl HandoverListener {
    /// Offers `sockets` at `path` until another process has taken them over, then sets `replaced`.
    /// `taken_over`: the sockets were themselves taken over from the process that offered there before.
    pub(in crate::server) fn new(
        path: &Path,
        taken_over: bool,
        sockets: Vec<TcpListener>,
        store: Arc<TieredStore>,
        replaced: watch::Sender<bool>,
    ) -> Result<Self, HandoverError> {
        let listener = bind(path, taken_over)?;
        let offering = tokio::spawn(offer(listener, sockets, store, replaced));
        Ok(Self { path: path.to_owned(), offering })
    }

    /// Withdraws the offer.
    pub(in crate::server) async fn stop_offering(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "The hand-over socket was already removed");
        }
        self.offering.abort();
        // Aborting the task closes its copies of the sockets.
        let _aborted = self.offering.await;
    }
}

/// Opens the Unix socket at `path` for this process's user. Replaces a file that a crashed process left
/// there, and the file of a process whose sockets were just taken over.
fn bind(path: &Path, taken_over: bool) -> Result<UnixListener, HandoverError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(HandoverError::TooLong);
    }
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    if !taken_over && BlockingStream::connect(path).is_ok() {
        return Err(HandoverError::Taken);
    }
    // Created beside it and renamed onto it, so that the path always exists.
    let new = path.with_file_name("handover.new");
    existing(fs::remove_file(&new))?;
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

/// Serves `listener` until another process has taken over `sockets`, then sets `replaced`.
async fn offer(
    listener: UnixListener,
    sockets: Vec<TcpListener>,
    store: Arc<TieredStore>,
    replaced: watch::Sender<bool>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // For example out of file descriptors: retry later.
            tokio::time::sleep(REPLY_TIMEOUT).await;
            continue;
        };
        if !is_same_user(&stream) {
            continue;
        }
        match serve(&stream, &sockets, &store).await {
            Ok(Some(invalidation_sync)) => {
                replaced.send_replace(true);
                drop(sockets);
                return invalidation_sync.run(stream).await;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "Hand-over failed; this process continues"),
        }
    }
}

/// Serves one connection; returns the invalidation sync once the peer accepts connections.
async fn serve(
    stream: &UnixStream,
    sockets: &[TcpListener],
    store: &Arc<TieredStore>,
) -> io::Result<Option<InvalidationSync>> {
    let Some((message, _)) = read_line(stream, REPLY_TIMEOUT).await? else { return Ok(None) };
    match message.as_str() {
        LIST_ADDRESSES => {
            let addresses = sockets.iter().filter_map(|socket| socket.local_addr().ok());
            let line = addresses.fold(LISTENS.to_owned(), |line, at| format!("{line} {at}"));
            write_line(stream, &line, &[]).await?;
            Ok(None)
        }
        TAKE_OVER => {
            tracing::info!("Handing over to another larder");
            // Opened before the peer accepts, so that no invalidation in between is lost.
            let invalidation_sync = InvalidationSync::start(store);
            write_line(stream, SOCKETS, sockets.get(..protocol::MAX_SOCKETS).unwrap_or(sockets)).await?;
            match read_line(stream, START_TIMEOUT).await? {
                Some((message, _)) if message == READY => {}
                Some(_) | None => {
                    tracing::warn!("The other larder did not start; this process continues");
                    return Ok(None);
                }
            }
            // The peer accepts connections already, so a failure here is harmless.
            if let Err(error) = write_line(stream, LEAVING, &[]).await {
                tracing::debug!(%error, "The other larder did not wait for the confirmation");
            }
            Ok(Some(invalidation_sync))
        }
        _ => Ok(None),
    }
}
