//! For how long a client on a connection of HTTP/2 is waited for.
//!
//! Owns: heads that do not end, and answers that nobody reads. Never touches: frames, streams.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock;
use crate::frontend::shared_connection::SharedConnection;
use crate::frontend::stream::STALLED;
use crate::upstream::in_flight_bytes::Waiting;

/// Resolves once the client is not worth waiting for. `inside`: whether it is in the middle of a head, which
/// it may be `within` this time.
pub(super) async fn given_up(
    siblings: &SharedConnection,
    inside: watch::Receiver<bool>,
    within: Duration,
) {
    tokio::select! {
        () = overdue(inside, within) => {}
        () = stalled(siblings) => {}
    }
}

/// Resolves once a head has taken longer than it may: until it has ended, nothing else can come.
async fn overdue(mut inside: watch::Receiver<bool>, within: Duration) {
    // Whoever tells lives as long as the connection.
    while inside.wait_for(|inside| *inside).await.is_ok() {
        if timeout(within, inside.wait_for(|inside| !inside)).await.is_err() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Resolves once the client has taken nothing of what there is for it for too long, whichever answers that
/// belongs to: some of them have ended, and wait for it no more.
async fn stalled(siblings: &SharedConnection) {
    let mut clogged = siblings.watch();
    // Whoever tells lives as long as the connection.
    while clogged.wait_for(|clogged| *clogged).await.is_ok() {
        let (before, since) = (siblings.written(), clock::of_timers());
        let moves = clogged.wait_for(|clogged| !*clogged);
        let (in_flight, waiting) = (siblings.in_flight(), Waiting { counted: 0, held: 0 });
        let stays = in_flight.patiently_for(waiting, Some(siblings.held()), STALLED, moves).await;
        let (taken, own) = (siblings.written() - before, siblings.held().load(Ordering::Relaxed));
        if stays.is_none() && (taken == 0 || !in_flight.bears(taken, since.elapsed(), own)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}
