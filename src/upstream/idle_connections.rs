//! Which connections to origins wait for their next call, as far as to let go of one.
//!
//! Owns: where connections have been made to. Never touches: the connections, which pingora keeps; those on
//! which users have signed in (`pinned`).

use std::collections::HashMap;

use parking_lot::Mutex;
use pingora_core::connectors::TransportConnector;
use pingora_core::upstreams::peer::HttpPeer;

/// How many places are remembered: more than there are connections that wait.
const PLACES: usize = 1024;

/// Where connections have been made to, by the hash by which they are kept.
#[derive(Default)]
pub(super) struct IdleConnections(Mutex<HashMap<u64, HttpPeer>>);

impl IdleConnections {
    /// A connection has been made.
    pub(super) fn made(&self, key: u64, peer: HttpPeer) {
        let mut places = self.0.lock();
        if places.len() >= PLACES
            && let Some(any) = places.keys().next().copied()
        {
            places.remove(&any);
        }
        places.insert(key, peer);
    }

    /// Lets go of a connection that waits; false: none does.
    pub(super) async fn let_one_go(&self, kept: &TransportConnector) -> bool {
        while let Some((key, peer)) = self.any() {
            if kept.reused_stream(&peer).await.is_some() {
                return true;
            }
            self.0.lock().remove(&key);
        }
        false
    }

    fn any(&self) -> Option<(u64, HttpPeer)> {
        self.0.lock().iter().next().map(|(key, peer)| (*key, peer.clone()))
    }
}
