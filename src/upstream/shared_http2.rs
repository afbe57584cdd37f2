//! Connections of HTTP/2 that calls to one origin share.
//!
//! Owns: which of them has room, when one is given up, which origins speak HTTP/1 only.
//! Never touches: how a connection is made (`connect`), what is said on it (`session`).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use h2::Ping;
use parking_lot::Mutex;
use pingora_core::protocols::Stream;
use tokio::time::sleep;

use crate::upstream::in_flight_bytes::SENT_AHEAD;
use crate::upstream::peer::{H2_STREAMS, IDLE};
use crate::upstream::session::http2::Connection;

/// How much of all bodies may come ahead of who reads them, on a connection: who does not read one must not
/// take the others' room.
const WINDOWS: u32 = SENT_AHEAD * 100;
const _: () = assert!(H2_STREAMS == 100, "one window for each");

/// How many origins are remembered that speak HTTP/1 only for some of what they are asked.
const HTTP1_ONLY: usize = 1024;

/// The largest head that is decoded: more than is taken, so that it can be refused.
const HEAD: u32 = 512 * 1024;

/// The largest frame that is read.
const FRAME: u32 = 64 * 1024;

/// All of them, by the hash of the peer that they lead to.
#[derive(Default)]
pub(super) struct SharedHttp2(Arc<Inner>);

#[derive(Default)]
struct Inner {
    connections: Mutex<HashMap<u64, Vec<Arc<Connection>>>>,
    http1_only: Mutex<HashSet<u64>>,
}

impl SharedHttp2 {
    /// The origin has said that it speaks HTTP/1 only for some of what it is asked.
    pub(super) fn remember_http1_only(&self, key: u64) {
        let mut http1_only = self.0.http1_only.lock();
        if http1_only.len() >= HTTP1_ONLY {
            http1_only.clear();
        }
        http1_only.insert(key);
    }

    /// Whether the origin has said so.
    pub(super) fn is_http1_only(&self, key: u64) -> bool {
        self.0.http1_only.lock().contains(&key)
    }

    /// A connection with room for one more call, which is counted.
    pub(super) fn find(&self, key: u64) -> Option<Arc<Connection>> {
        let mut shared = self.0.connections.lock();
        let connections = shared.get_mut(&key)?;
        connections.retain(|connection| !connection.closing.load(Ordering::Relaxed));
        let roomy =
            connections.iter().find(|connection| connection.has_room(H2_STREAMS)).map(Arc::clone);
        if connections.is_empty() {
            shared.remove(&key);
        }
        let roomy = roomy?;
        roomy.calls.fetch_add(1, Ordering::Relaxed);
        Some(roomy)
    }

    /// Makes a connection that others find too once the origin has been heard on it; its first
    /// call is counted.
    pub(super) async fn add(&self, stream: Stream, key: u64) -> Option<Arc<Connection>> {
        let shaken = h2::client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(H2_STREAMS)
            .max_frame_size(FRAME)
            .max_header_list_size(HEAD)
            .initial_window_size(SENT_AHEAD)
            .initial_connection_window_size(WINDOWS)
            .handshake::<_, Bytes>(stream)
            .await;
        let (send, driver) = shaken.ok()?;
        let connection = Arc::new(Connection::new(send));
        connection.calls.fetch_add(1, Ordering::Relaxed);
        let ours = Arc::downgrade(&connection);
        self.0.connections.lock().entry(key).or_default().push(Arc::clone(&connection));
        tokio::spawn(drive(driver, ours, Arc::downgrade(&self.0), key));
        Some(connection)
    }
}

/// Moves a connection's frames until it ends. One that nobody has used for a while is let go.
async fn drive(
    mut driver: h2::client::Connection<Stream, Bytes>,
    connection: Weak<Connection>,
    shared: Weak<Inner>,
    key: u64,
) {
    let mut was_idle = false;
    let mut pings = driver.ping_pong();
    let heard = async {
        match &mut pings {
            Some(pings) => pings.ping(Ping::opaque()).await.is_ok(),
            None => false,
        }
    };
    tokio::pin!(heard);
    let mut asks = true;
    loop {
        tokio::select! {
            _ended = &mut driver => break,
            heard = &mut heard, if asks => {
                asks = false;
                if let (true, Some(connection)) = (heard, connection.upgrade()) {
                    connection.proven.store(true, Ordering::Relaxed);
                }
            }
            () = sleep(IDLE / 2) => {
                let calls = connection.upgrade().map_or(0, |c| c.calls.load(Ordering::Relaxed));
                if was_idle && calls == 0 {
                    forget(&shared, key, &connection);
                }
                was_idle = calls == 0;
            }
        }
    }
    forget(&shared, key, &connection);
}

fn forget(shared: &Weak<Inner>, key: u64, connection: &Weak<Connection>) {
    let (Some(shared), Some(connection)) = (shared.upgrade(), connection.upgrade()) else { return };
    connection.closing.store(true, Ordering::Relaxed);
    let mut all = shared.connections.lock();
    if let Some(connections) = all.get_mut(&key) {
        connections.retain(|known| !Arc::ptr_eq(known, &connection));
        if connections.is_empty() {
            all.remove(&key);
        }
    }
}
