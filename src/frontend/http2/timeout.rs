//! Timeouts for a client on an HTTP/2 connection.
//!
//! Owns: the timeouts for incomplete heads and for unread responses. Never touches: frames, streams.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::frontend::shared_connection::SharedConnection;
use crate::frontend::stream::STALL_TIMEOUT;
use crate::upstream::in_flight_bytes::StalledClient;

/// Resolves once the client has exceeded a timeout. `in_head`: whether a head has begun and not ended;
/// it must end `within` this time.
pub(super) async fn client_timed_out(
    shared: &SharedConnection,
    in_head: watch::Receiver<bool>,
    within: Duration,
) {
    tokio::select! {
        () = overdue(in_head, within) => {}
        () = stalled(shared) => {}
    }
}

/// Resolves once a head has taken too long: no other frame can arrive before its end.
async fn overdue(mut in_head: watch::Receiver<bool>, within: Duration) {
    // The sender lives as long as the connection.
    while in_head.wait_for(|in_head| *in_head).await.is_ok() {
        if timeout(within, in_head.wait_for(|in_head| !in_head)).await.is_err() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Resolves once the client has read nothing of the pending data for too long, whichever responses the
/// data belongs to: some of them have ended and no longer wait for the client.
async fn stalled(shared: &SharedConnection) {
    let mut blocked = shared.watch_write_blocked();
    // The sender lives as long as the connection.
    while blocked.wait_for(|blocked| *blocked).await.is_ok() {
        let (before, since) = (shared.written(), Clock::timer_now());
        let unblocked = blocked.wait_for(|blocked| !*blocked);
        let (in_flight, waiting) = (shared.in_flight(), StalledClient { counted: 0, body_bytes: 0 });
        let result =
            in_flight.with_stall_timeout(waiting, Some(shared.held_bytes()), STALL_TIMEOUT, unblocked).await;
        let (taken, own) = (shared.written() - before, shared.held_bytes().load(Ordering::Relaxed));
        if result.is_none() && (taken == 0 || !in_flight.is_fast_enough(taken, since.elapsed(), own)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}
