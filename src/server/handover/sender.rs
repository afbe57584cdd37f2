//! The one that runs: it offers its sockets until another takes them or it stops.
//!
//! Owns: the Unix socket's file. Never touches: what happens once they are taken.

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

use crate::server::handover::invalidation_sync::{InvalidationSync, SyncedStore};
use crate::server::handover::protocol::{self, hear, say};
use crate::server::handover::{
    HandoverError, LEAVING, LISTENS, LONGEST, PROMPT, READY, SOCKETS, STARTING, TAKE_OVER, WHO,
    is_ours,
};

/// An offer that stands until it is taken or withdrawn.
pub(in crate::server) struct HandoverListener {
    path: PathBuf,
    offering: JoinHandle<()>,
}

impl HandoverListener {
    /// Offers `sockets` at `path` until somebody has taken them over: then `replaced` says so.
    /// `taken_over`: they were themselves taken over from the larder that offered there before.
    pub(in crate::server) fn new(
        path: &Path,
        taken_over: bool,
        sockets: Vec<TcpListener>,
        store: Arc<SyncedStore>,
        replaced: watch::Sender<bool>,
    ) -> Result<Self, HandoverError> {
        let listener = bind(path, taken_over)?;
        let offering = tokio::spawn(offer(listener, sockets, store, replaced));
        Ok(Self { path: path.to_owned(), offering })
    }

    /// From now on nobody can take it.
    pub(in crate::server) async fn stop_offering(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "No offer left to withdraw");
        }
        self.offering.abort();
        // Its copies of the sockets are closed with it.
        let _aborted = self.offering.await;
    }
}

/// Opens the Unix socket at `path` for this process's user. A file that a crashed larder left there
/// is replaced, and so is that of a larder whose sockets were just taken over.
fn bind(path: &Path, taken_over: bool) -> Result<UnixListener, HandoverError> {
    if path.as_os_str().len() > LONGEST {
        return Err(HandoverError::TooLong);
    }
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    if !taken_over && BlockingStream::connect(path).is_ok() {
        return Err(HandoverError::Taken);
    }
    // Made beside it and moved onto it: there is never a moment without one.
    let new = path.with_file_name("handover.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

/// Answers on `listener` until somebody has taken `sockets` over: then `replaced` says so.
async fn offer(
    listener: UnixListener,
    sockets: Vec<TcpListener>,
    store: Arc<SyncedStore>,
    replaced: watch::Sender<bool>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: there will be another time.
            tokio::time::sleep(PROMPT).await;
            continue;
        };
        if !is_ours(&stream) {
            continue;
        }
        match converse(&stream, &sockets, &store).await {
            Ok(Some(echo)) => {
                replaced.send_replace(true);
                drop(sockets);
                return echo.run(stream).await;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "Hand-over broken off: going on"),
        }
    }
}

/// One visitor; the line to it when it listens now.
async fn converse(
    stream: &UnixStream,
    sockets: &[TcpListener],
    store: &Arc<SyncedStore>,
) -> io::Result<Option<InvalidationSync>> {
    let Some((asked, _)) = hear(stream, PROMPT).await? else { return Ok(None) };
    match asked.as_str() {
        WHO => {
            let addresses = sockets.iter().filter_map(|socket| socket.local_addr().ok());
            let line = addresses.fold(LISTENS.to_owned(), |line, at| format!("{line} {at}"));
            say(stream, &line, &[]).await?;
            Ok(None)
        }
        TAKE_OVER => {
            tracing::info!("Handing over to another larder");
            // From before it accepts: nothing that is invalidated in between is lost.
            let echo = store.open();
            say(stream, SOCKETS, sockets.get(..protocol::MOST).unwrap_or(sockets)).await?;
            match hear(stream, STARTING).await? {
                Some((word, _)) if word == READY => {}
                Some(_) | None => {
                    tracing::warn!("The other larder did not start: going on");
                    return Ok(None);
                }
            }
            // Whether or not it hears this: it accepts already.
            if let Err(error) = say(stream, LEAVING, &[]).await {
                tracing::debug!(%error, "The other larder did not wait for a word");
            }
            Ok(Some(echo))
        }
        _ => Ok(None),
    }
}
