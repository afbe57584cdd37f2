//! TCP keep-alive (RFC 9293 §3.8.4): a peer that has gone without a word, asleep or behind a NAT that has
//! forgotten it, ends its connection in two minutes.
//!
//! Owns: the figures. Never touches: peers that are there and say nothing (`limits.tunnel_idle`).

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How long a connection is quiet until its peer is probed: shorter than a NAT remembers it.
const QUIET: Duration = Duration::from_secs(60);

/// Between two probes, and how many may stay without an answer.
const BETWEEN: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// Lets the kernel probe the peer of `stream` whenever it is quiet. Best effort: without the probes a
/// dead peer is noticed by the bounds on waiting alone.
pub fn probe(stream: &TcpStream) {
    let figures = TcpKeepalive::new().with_time(QUIET).with_interval(BETWEEN).with_retries(PROBES);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&figures) {
        tracing::debug!(%error, "Could not switch keep-alive on");
    }
}
