//! A place and its addresses as pingora's peer: what a pooled connection is keyed by.
//!
//! Owns: deadlines, TLS profile and dialer of a connection; which connections may be shared.
//! Never touches: requests.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use rustls_pki_types::ServerName;
use xxhash_rust::xxh3::Xxh3;

use crate::semantics::request::ListenerKind;
use crate::semantics::target::Scheme;
use crate::upstream::error::UpstreamError;
use crate::upstream::happy_eyeballs::{Dialer, PreferredAddrs};
use crate::upstream::routing::UpstreamTarget;
use crate::upstream::tls_config::TlsConfigs;
use crate::upstream::tls_error::TlsError;

/// How long an idle connection to an origin is kept.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How many requests share one HTTP/2 connection.
pub(super) const H2_STREAMS: usize = 100;

/// The peer for `place` at `addresses` (never empty), which have passed the guard.
pub fn peer(
    place: &UpstreamTarget,
    listener: ListenerKind,
    addresses: Vec<SocketAddr>,
    preferred: Arc<PreferredAddrs>,
    profiles: &TlsConfigs,
) -> Result<HttpPeer, UpstreamError> {
    let first = *addresses.first().ok_or(UpstreamError::Dns)?;
    let tls = place.scheme == Scheme::Https;
    let sni = place.host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    // An empty server name would switch verification off in pingora; no other that is none gets by.
    if tls && ServerName::try_from(sni).is_err() {
        return Err(UpstreamError::Tls(TlsError::NoName));
    }
    let mut peer = HttpPeer::new(first, tls, sni.to_owned());
    peer.group_key = group_key(place, listener);
    let options = &mut peer.options;
    let timeouts = &place.timeouts;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.idle_timeout = Some(IDLE);
    let http2 = place.upstream.as_ref().is_none_or(|u| u.tls.http2);
    options.alpn = if tls && http2 { ALPN::H2H1 } else { ALPN::H1 };
    let profile = profiles.of(place.index);
    options.ca = profile.roots;
    options.verify_cert = !profile.insecure;
    options.verify_hostname = !profile.insecure;
    options.custom_l4 = Some(Arc::new(Dialer {
        host: place.host.clone(),
        port: place.port,
        addresses: addresses.into(),
        within: timeouts.connect,
        preferred,
    }));
    peer.client_cert_key = profile.client;
    Ok(peer)
}

/// Connections are shared only between calls to the same host, port, scheme and upstream, and so to
/// one profile: pingora's pool does not look at roots, ALPN or dialer. What one listener may reach
/// another may not: a connection is its listener's.
pub fn group_key(place: &UpstreamTarget, listener: ListenerKind) -> u64 {
    let mut hasher = Xxh3::new();
    (place.index, place.scheme, &place.host, place.port, listener).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timeouts;

    fn peer_of(host: &str) -> Result<HttpPeer, UpstreamError> {
        let place = UpstreamTarget {
            index: 0,
            upstream: None,
            scheme: Scheme::Https,
            host: host.to_owned(),
            port: 443,
            timeouts: Timeouts::default(),
        };
        let address = "192.0.2.1:443".parse().unwrap();
        peer(
            &place,
            ListenerKind::Loopback,
            vec![address],
            Arc::default(),
            &TlsConfigs::load(&[]).unwrap(),
        )
    }

    /// pingora verifies nothing where it has no server name.
    #[test]
    fn no_connection_is_without_a_server_name() {
        let long = "a.".repeat(127) + "a";
        for host in ["", ".", "[]", "a..b", "a b", "-", long.as_str(), &"a".repeat(64)] {
            let refused = peer_of(host).map(|peer| peer.sni);
            assert_eq!(refused.unwrap_err(), UpstreamError::Tls(TlsError::NoName), "{host}");
        }
        for (host, sni) in [
            ("api.example", "api.example"),
            ("api.example.", "api.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            let peer = peer_of(host).unwrap();
            assert_eq!(peer.sni, sni);
            assert!(peer.options.verify_cert && peer.options.verify_hostname, "{host}");
        }
    }
}
