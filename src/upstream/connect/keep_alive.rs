//! TCP keep-alive (RFC 9293 §3.8.4): closes the connection of a peer that has vanished, because it is asleep
//! or behind a NAT that has dropped its state, within two minutes.
//!
//! Owns: the intervals. Never touches: peers that are alive but silent (`limits.tunnel_idle`).

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Idle time before the first probe: shorter than the usual NAT timeout.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// Interval between two probes, and how many may stay without a response.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
const MAX_PROBES: u32 = 4;

/// Enables keep-alive probes on `stream`. Best effort: without probes a dead peer is detected by the other
/// timeouts only.
pub fn enable(stream: &TcpStream) {
    let keep_alive = TcpKeepalive::new()
        .with_time(IDLE_TIME)
        .with_interval(PROBE_INTERVAL)
        .with_retries(MAX_PROBES);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keep_alive) {
        tracing::debug!(%error, "Could not enable TCP keep-alive");
    }
}
