//! HTTP/2 connections that are shared by calls to one origin.
//!
//! Owns: which connection has capacity, when one is closed, which origins require HTTP/1.1.
//! Never touches: establishing connections (`pool`), the protocol on them (`session`).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use h2::Ping;
use parking_lot::Mutex;
use pingora_core::protocols::Stream;
use tokio::time::sleep;

use crate::upstream::connect::peer::{H2_STREAMS, IDLE};
use crate::upstream::connect::session::http2::Connection;
use crate::upstream::in_flight_bytes::RECEIVE_WINDOW;

/// Flow-control window of a connection: the sum of its streams' windows, so that a response that is not read
/// does not block the others.
const CONNECTION_WINDOW: u32 = RECEIVE_WINDOW * 100;
const _: () = assert!(H2_STREAMS == 100, "one window for each");

/// Number of origins that are remembered as requiring HTTP/1.1 for some requests.
const MAX_HTTP1_ONLY: usize = 1024;

/// Limit on a decoded head: larger than the limit on responses, so that the session can reject it.
const MAX_HEAD: u32 = 512 * 1024;

/// Limit on the size of a frame.
const MAX_FRAME: u32 = 64 * 1024;

/// The shared connections by the hash of their peer.
#[derive(Default)]
pub(in crate::upstream) struct SharedHttp2(Arc<Inner>);

#[derive(Default)]
struct Inner {
    connections: Mutex<HashMap<u64, Vec<Arc<Connection>>>>,
    http1_only: Mutex<HashSet<u64>>,
}

impl SharedHttp2 {
    /// Remembers that the origin requires HTTP/1.1 for some requests.
    pub(in crate::upstream) fn remember_http1_only(&self, key: u64) {
        let mut http1_only = self.0.http1_only.lock();
        if http1_only.len() >= MAX_HTTP1_ONLY {
            http1_only.clear();
        }
        http1_only.insert(key);
    }

    /// Whether the origin is remembered as requiring HTTP/1.1.
    pub(in crate::upstream) fn is_http1_only(&self, key: u64) -> bool {
        self.0.http1_only.lock().contains(&key)
    }

    /// A connection with capacity for one more call, which is counted.
    pub(in crate::upstream) fn find(&self, key: u64) -> Option<Arc<Connection>> {
        let mut shared = self.0.connections.lock();
        let connections = shared.get_mut(&key)?;
        connections.retain(|connection| !connection.closing.load(Ordering::Relaxed));
        let available =
            connections.iter().find(|connection| connection.has_capacity(H2_STREAMS)).map(Arc::clone);
        if connections.is_empty() {
            shared.remove(&key);
        }
        let available = available?;
        available.calls.fetch_add(1, Ordering::Relaxed);
        Some(available)
    }

    /// Performs the HTTP/2 handshake and adds the connection. Other calls may share it once the origin has
    /// responded on it. Its first call is counted.
    pub(in crate::upstream) async fn add(&self, stream: Stream, key: u64) -> Option<Arc<Connection>> {
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(H2_STREAMS)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(MAX_HEAD)
            .initial_window_size(RECEIVE_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake::<_, Bytes>(stream)
            .await;
        let (send, driver) = handshake.ok()?;
        let connection = Arc::new(Connection::new(send));
        connection.calls.fetch_add(1, Ordering::Relaxed);
        let weak = Arc::downgrade(&connection);
        self.0.connections.lock().entry(key).or_default().push(Arc::clone(&connection));
        tokio::spawn(drive(driver, weak, Arc::downgrade(&self.0), key));
        Some(connection)
    }
}

/// Drives a connection until it ends. A connection that has been idle for a while is removed.
async fn drive(
    mut driver: h2::client::Connection<Stream, Bytes>,
    connection: Weak<Connection>,
    shared: Weak<Inner>,
    key: u64,
) {
    let mut was_idle = false;
    let mut pings = driver.ping_pong();
    let pong = async {
        match &mut pings {
            Some(pings) => pings.ping(Ping::opaque()).await.is_ok(),
            None => false,
        }
    };
    tokio::pin!(pong);
    let mut awaiting_pong = true;
    loop {
        tokio::select! {
            _ended = &mut driver => break,
            received = &mut pong, if awaiting_pong => {
                awaiting_pong = false;
                if let (true, Some(connection)) = (received, connection.upgrade()) {
                    connection.confirmed.store(true, Ordering::Relaxed);
                }
            }
            () = sleep(IDLE / 2) => {
                let calls = connection.upgrade().map_or(0, |c| c.calls.load(Ordering::Relaxed));
                if was_idle && calls == 0 {
                    remove_connection(&shared, key, &connection);
                }
                was_idle = calls == 0;
            }
        }
    }
    remove_connection(&shared, key, &connection);
}

fn remove_connection(shared: &Weak<Inner>, key: u64, connection: &Weak<Connection>) {
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
