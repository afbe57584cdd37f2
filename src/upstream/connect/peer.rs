//! Converts an upstream target and its addresses to pingora's peer, the key of pooled connections.
//!
//! Owns: deadlines, TLS configuration and dialer of a connection; which connections may be shared.
//! Never touches: requests.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use rustls_pki_types::ServerName;
use xxhash_rust::xxh3::Xxh3;

use crate::semantics::request::ListenerKind;
use crate::semantics::target::Scheme;
use crate::upstream::connect::happy_eyeballs::{Dialer, PreferredAddrs};
use crate::upstream::connect::parent::Hop;
use crate::upstream::connect::parent_path::NetworkPath;
use crate::upstream::connect::tls_config::TlsConfigs;
use crate::upstream::connect::tls_error::TlsError;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::routing::UpstreamTarget;

/// How long an idle connection to an origin is kept.
pub(in crate::upstream) const IDLE: Duration = Duration::from_secs(60);

/// Number of concurrent requests on one HTTP/2 connection.
pub(in crate::upstream) const H2_STREAMS: usize = 100;

/// The peer for `destination` on `path`, which has passed the egress policy.
pub fn peer(
    destination: &UpstreamTarget,
    listener: ListenerKind,
    path: NetworkPath,
    preferred: Arc<PreferredAddrs>,
    tls_configs: &TlsConfigs,
) -> Result<HttpPeer, UpstreamError> {
    let first = *path.addresses.first().ok_or(UpstreamError::Dns)?;
    let tls = destination.scheme == Scheme::Https;
    let sni = destination.host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    // pingora skips verification for an empty server name; no other invalid name gets through either.
    if tls && ServerName::try_from(sni).is_err() {
        return Err(UpstreamError::Tls(TlsError::NoName));
    }
    let mut peer = HttpPeer::new(first, tls, sni.to_owned());
    peer.group_key = group_key(destination, listener) ^ path.hop.as_ref().map_or(0, hop_key);
    let options = &mut peer.options;
    let timeouts = &destination.timeouts;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    let http2 = destination.upstream.as_ref().is_none_or(|u| u.tls.http2);
    options.alpn = if tls && http2 { ALPN::H2H1 } else { ALPN::H1 };
    let tls_config = tls_configs.for_upstream(destination.index);
    options.ca = tls_config.roots;
    options.verify_cert = !tls_config.insecure;
    options.verify_hostname = !tls_config.insecure;
    options.custom_l4 = Some(Arc::new(Dialer {
        host: path.host,
        port: path.port,
        addresses: path.addresses.into(),
        timeout: timeouts.connect,
        preferred,
        hop: path.hop,
    }));
    peer.client_cert_key = tls_config.client;
    Ok(peer)
}

/// The hash that separates connections which must not be shared. Calls share a connection only if host, port,
/// scheme and upstream are equal, and with them the TLS configuration: pingora's pool does not compare roots,
/// ALPN or dialer. The listener is included, because listeners differ in the destinations that they permit.
pub fn group_key(destination: &UpstreamTarget, listener: ListenerKind) -> u64 {
    let mut hasher = Xxh3::new();
    (destination.index, destination.scheme, &destination.host, destination.port, listener).hash(&mut hasher);
    hasher.finish()
}

/// The part of the hash for a parent proxy, its user and password included.
fn hop_key(hop: &Hop) -> u64 {
    let mut hasher = Xxh3::new();
    (&hop.proxy, &hop.target).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use pingora_core::upstreams::peer::Peer as _;

    use super::*;
    use crate::config::parent_proxy::ParentProxy;
    use crate::policy::timeouts::Timeouts;
    use crate::upstream::connect::parent::HopTarget;
    use crate::upstream::connect::tls_config::CallerRoots;

    fn peer_of(host: &str) -> Result<HttpPeer, UpstreamError> {
        peer_through(host, None)
    }

    fn peer_through(host: &str, hop: Option<Hop>) -> Result<HttpPeer, UpstreamError> {
        let destination = UpstreamTarget {
            index: 0,
            upstream: None,
            scheme: Scheme::Https,
            host: host.to_owned(),
            port: 443,
            timeouts: Timeouts::default(),
            proxy: None,
        };
        let addresses = vec!["192.0.2.1:443".parse().unwrap()];
        let path = NetworkPath { host: host.to_owned(), port: 443, addresses, hop };
        peer(
            &destination,
            ListenerKind::Loopback,
            path,
            Arc::default(),
            &TlsConfigs::load(&[], &CallerRoots::default()).unwrap(),
        )
    }

    /// Connections through different parents, or with different credentials for one, are never mixed.
    #[test]
    fn the_parent_proxy_is_part_of_the_pools_key() {
        let targets = [HopTarget::Requests, HopTarget::Name("api.example".to_owned(), 443)];
        let parents =
            ["http://corp:3128", "http://a:b@corp:3128", "http://a:c@corp:3128", "socks5h://corp:3128"];
        let mut keys = vec![peer_of("api.example").unwrap().reuse_hash()];
        for (parent, target) in parents.iter().flat_map(|parent| targets.iter().map(move |to| (parent, to))) {
            let proxy = Arc::new(ParentProxy::parse(parent).unwrap());
            let hop = || Hop { proxy: Arc::clone(&proxy), target: target.clone(), tls: Arc::default() };
            let key = || peer_through("api.example", Some(hop())).unwrap().reuse_hash();
            assert_eq!(key(), key());
            assert!(!keys.contains(&key()), "{parent} {target:?}");
            keys.push(key());
        }
    }

    /// pingora verifies no certificate if the server name is empty.
    #[test]
    fn every_tls_connection_has_a_server_name() {
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
