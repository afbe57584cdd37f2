//! Index of the peers that idle connections may exist for, so that one connection can be evicted.
//!
//! Owns: the peers that connections have been made to. Never touches: the connections, which pingora keeps;
//! pinned connections (`pinned`).

use std::collections::HashMap;

use parking_lot::Mutex;
use pingora_core::connectors::TransportConnector;
use pingora_core::upstreams::peer::HttpPeer;

/// Number of peers that are remembered: more than there are idle connections.
const MAX_PEERS: usize = 1024;

/// The peers that connections have been made to, by pingora's reuse hash.
#[derive(Default)]
pub(in crate::upstream) struct IdleConnections(Mutex<HashMap<u64, HttpPeer>>);

impl IdleConnections {
    /// Records a peer to which a connection has been made.
    pub(in crate::upstream) fn record(&self, key: u64, peer: HttpPeer) {
        let mut peers = self.0.lock();
        if peers.len() >= MAX_PEERS
            && let Some(any) = peers.keys().next().copied()
        {
            peers.remove(&any);
        }
        peers.insert(key, peer);
    }

    /// Closes one idle connection; false: there is none.
    pub(in crate::upstream) async fn evict_one(&self, transport: &TransportConnector) -> bool {
        while let Some((key, peer)) = self.any() {
            if transport.reused_stream(&peer).await.is_some() {
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
