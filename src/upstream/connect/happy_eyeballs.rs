//! Happy Eyeballs (RFC 8305): one TCP connection to the first of an origin's addresses that accepts.
//!
//! Owns: trying every address, v6 and v4 in turn, 250 ms apart; socket options.
//! Never touches: names, the egress policy (its addresses have passed it), TLS, pooling.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::VirtualSocketStream;
use pingora_error::Result;
use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::upstream::connect::descriptors;
use crate::upstream::connect::parent::{Hop, OriginStream};
use crate::upstream::connect::pingora_error::to_pingora;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::parent_error::ParentError;

/// RFC 8305 §5: the Connection Attempt Delay.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Idle time before the first probe: shorter than the usual NAT timeout.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// Interval between two probes, and how many may stay without a response.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
const MAX_PROBES: u32 = 4;

/// Number of hosts whose working address is remembered.
const MAX_REMEMBERED: usize = 4096;

/// The address of each host that accepted the last connection; the next connection (and the pool) tries it
/// first.
#[derive(Debug, Default)]
pub struct PreferredAddrs(Mutex<HashMap<(String, u16), SocketAddr>>);

impl PreferredAddrs {
    /// Puts the address that accepted last in front; the others follow, alternating between families.
    pub fn order(&self, host: &str, port: u16, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut ordered = interleave(addresses);
        let last = self.0.lock().get(&(host.to_owned(), port)).copied();
        if let Some(place) = last.and_then(|last| ordered.iter().position(|a| *a == last)) {
            ordered[..=place].rotate_right(1);
        }
        ordered
    }

    fn remember(&self, host: &str, port: u16, address: SocketAddr) {
        let mut map = self.0.lock();
        if map.len() >= MAX_REMEMBERED {
            map.clear();
        }
        map.insert((host.to_owned(), port), address);
    }
}

/// Dials the permitted addresses of one host; pingora's custom connector.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// The host, for [`PreferredAddrs`].
    pub host: String,
    /// The requested port, for [`PreferredAddrs`].
    pub port: u16,
    /// The addresses in the order to try them; never empty.
    pub addresses: Arc<[SocketAddr]>,
    /// Deadline for all attempts together.
    pub timeout: Duration,
    /// Remembers the address that accepted.
    pub preferred: Arc<PreferredAddrs>,
    /// The parent proxy, if these addresses are its own.
    pub hop: Option<Hop>,
}

impl Dialer {
    /// Returns a connection to the origin, through the parent proxy if there is one.
    pub async fn open(&self) -> std::result::Result<OriginStream, UpstreamError> {
        let Some(hop) = &self.hop else { return self.dial().await.map(OriginStream::Tcp) };
        let opening = async {
            let stream = self.dial().await.map_err(|error| {
                if error == UpstreamError::Exhausted {
                    return error;
                }
                let timed_out = error == UpstreamError::ConnectTimeout;
                UpstreamError::Parent(if timed_out { ParentError::Timeout } else { ParentError::Unreachable })
            })?;
            hop.open(stream).await.map_err(UpstreamError::Parent)
        };
        let opened = timeout(self.timeout, opening).await;
        let opened = opened.unwrap_or(Err(UpstreamError::Parent(ParentError::Timeout)));
        if let Err(UpstreamError::Parent(error)) = &opened {
            tracing::debug!(proxy = %hop.proxy, target = ?hop.target, error = error.token(), "No way through");
        }
        opened
    }

    /// Returns the first connection that succeeds.
    pub async fn dial(&self) -> std::result::Result<TcpStream, UpstreamError> {
        let (stream, address) = match timeout(self.timeout, self.race()).await {
            Ok(Ok(won)) => won,
            Ok(Err(error)) if is_exhausted(&error) => return Err(UpstreamError::Exhausted),
            Ok(Err(_refused)) => return Err(UpstreamError::Refused),
            Err(_elapsed) => return Err(UpstreamError::ConnectTimeout),
        };
        if descriptors::is_reserved_for_clients(stream.as_raw_fd()) {
            return Err(UpstreamError::Exhausted);
        }
        if self.addresses.first() != Some(&address) {
            self.preferred.remember(&self.host, self.port, address);
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "Could not set TCP_NODELAY");
        }
        enable_keep_alive(&stream);
        Ok(stream)
    }

    async fn race(&self) -> io::Result<(TcpStream, SocketAddr)> {
        if let [only] = &*self.addresses {
            return TcpStream::connect(only).await.map(|stream| (stream, *only));
        }
        let mut attempts = JoinSet::new();
        let mut waiting = self.addresses.iter().copied();
        let mut error = io::Error::from(io::ErrorKind::AddrNotAvailable);
        loop {
            if let Some(address) = waiting.next() {
                attempts.spawn(async move { (address, TcpStream::connect(address).await) });
            } else if attempts.is_empty() {
                return Err(error);
            }
            tokio::select! {
                Some(done) = attempts.join_next() => match done {
                    Ok((address, Ok(stream))) => return Ok((stream, address)),
                    Ok((_, Err(refused))) => error = refused,
                    Err(_aborted) => {}
                },
                () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
            }
        }
    }
}

#[async_trait]
impl Connect for Dialer {
    async fn connect(&self, _first: &PingoraAddr) -> Result<Stream> {
        to_pingora(self.open().await.map(|stream| match stream {
            OriginStream::Tcp(stream) => Stream::from(stream),
            // Without a descriptor of its own, pingora does not reuse it for HTTP/1.
            tls @ OriginStream::Tls(_) => Stream::from(VirtualSocketStream::new(Box::new(tls))),
        }))
    }
}

/// Enables TCP keep-alive (RFC 9293 §3.8.4) on `stream`: the connection of a peer that has vanished, because it
/// is asleep or behind a NAT that has dropped its state, is closed within two minutes. Best effort: without probes a dead peer is detected by the other
/// timeouts only.
pub fn enable_keep_alive(stream: &TcpStream) {
    let keep_alive =
        TcpKeepalive::new().with_time(IDLE_TIME).with_interval(PROBE_INTERVAL).with_retries(MAX_PROBES);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keep_alive) {
        tracing::debug!(%error, "Could not enable TCP keep-alive");
    }
}

/// Whether this process or its host has run out of descriptors or kernel memory.
pub(in crate::upstream) fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}

/// v6, v4, v6, v4 … keeping each family's order (RFC 8305 §4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let mut both = Vec::with_capacity(v6.len() + v4.len());
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    loop {
        let (a, b) = (v6.next(), v4.next());
        if a.is_none() && b.is_none() {
            return both;
        }
        both.extend(a);
        both.extend(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(addresses: &[SocketAddr], preferred: &Arc<PreferredAddrs>) -> Dialer {
        Dialer {
            host: "api.example".into(),
            port: 80,
            addresses: preferred.order("api.example", 80, addresses.to_vec()).into(),
            timeout: Duration::from_secs(5),
            preferred: Arc::clone(preferred),
            hop: None,
        }
    }

    async fn closed_port() -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    #[test]
    fn families_alternate_and_v6_starts() {
        let addrs: Vec<SocketAddr> =
            ["1.1.1.1:1", "2.2.2.2:1", "[::1]:1"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(interleave(addrs.clone()), [addrs[2], addrs[0], addrs[1]]);
    }

    #[tokio::test]
    async fn a_refusing_address_does_not_hide_one_that_accepts() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let bad = closed_port().await;
        let preferred = Arc::new(PreferredAddrs::default());
        let stream = dialer(&[bad, good], &preferred).dial().await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert_eq!(dialer(&[bad, good], &preferred).addresses[0], good, "it is tried first now");
    }

    #[tokio::test]
    async fn the_connection_is_refused_if_all_addresses_refuse() {
        let (a, b) = (closed_port().await, closed_port().await);
        let preferred = Arc::new(PreferredAddrs::default());
        assert_eq!(dialer(&[a, b], &preferred).dial().await.unwrap_err(), UpstreamError::Refused);
        assert_eq!(dialer(&[a], &preferred).dial().await.unwrap_err(), UpstreamError::Refused);
    }
}
