//! One client connection, from its first byte to its last: requests one after the other, or side by side
//! where HTTP/2 was agreed on.
//!
//! Owns: how long a connection waits between requests, and which door each request finds.
//! Never touches: what a request says (`door`, `multiplex`).

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::frontend::access::{CLIENT_DENIED, FOREIGN_USER};
use crate::frontend::drain::DrainState;
use crate::frontend::http1::READ;
use crate::frontend::stream::ClientStream;
use crate::frontend::target::ProxyMode;
use crate::frontend::{CurrentFrontend, http2};
use crate::semantics::request::ListenerKind;

/// Serves a connection until it ends, each request by the door that is in force when it begins.
pub async fn receive(
    doors: Arc<dyn CurrentFrontend>,
    mut io: ClientStream,
    listener: ListenerKind,
    mut stage: watch::Receiver<DrainState>,
) {
    let door = doors.current();
    if !door.gatekeeper.admits(io.peer()) {
        return door.refuse(io, &CLIENT_DENIED).await;
    }
    if !door.gatekeeper.serves(&io).await {
        return door.refuse(io, &FOREIGN_USER).await;
    }
    let mut idle = door.limits.idle;
    // An idle connection must not keep what a reload has replaced.
    drop(door);
    let mut way = ProxyMode::Straight;
    let mut early = BytesMut::new();
    loop {
        let mut first = early;
        // RFC 9112 §2.2: an empty line that old clients send behind a body is no request.
        while first.is_empty() || &first[..] == b"\r\n" {
            let Some(more) = wait(&mut io, idle, &mut stage).await else {
                return io.close().await;
            };
            let stray = !first.is_empty();
            first = more;
            if stray && &first[..] == b"\r\n" {
                return;
            }
        }
        let door = doors.current();
        idle = door.limits.idle;
        let Some(next) = door.request(io, first, &mut way, listener).await else { return };
        (io, early) = next;
        if io.speaks_h2() {
            drop(door);
            return http2::receive(doors, io, way, listener, stage).await;
        }
    }
}

/// Waits for the first bytes of a head; `None` when the connection is over.
async fn wait(
    io: &mut ClientStream,
    idle: Duration,
    stage: &mut watch::Receiver<DrainState>,
) -> Option<BytesMut> {
    let closing = async {
        let grace = stage.wait_for(|stage| stage.is_closing()).await.map(|stage| stage.grace());
        // A sender that is gone will say nothing more: as good as the end.
        sleep(grace.ok().flatten().unwrap_or_default()).await;
    };
    tokio::select! {
        biased;
        first = timeout(idle, io.first_bytes(READ)) => first.ok().flatten(),
        () = closing => None,
    }
}
