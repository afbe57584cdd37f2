//! A place and its addresses as pingora's peer: what a pooled connection is keyed by.
//!
//! Owns: deadlines, TLS profile and dialer of a connection; which connections may be shared.
//! Never touches: requests.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use xxhash_rust::xxh3::Xxh3;

use crate::config::Upstream;
use crate::semantics::target::Scheme;
use crate::upstream::dial::{Dialer, Preferred};
use crate::upstream::place::Place;

/// How long an idle connection to an origin is kept.
const IDLE: Duration = Duration::from_secs(60);

/// How many requests share one HTTP/2 connection.
const H2_STREAMS: usize = 100;

/// The root certificates of the upstreams that bring their own.
pub struct Roots {
    by_upstream: Vec<Option<Arc<CaType>>>,
}

/// An `extra_roots` file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("upstreams.{upstream}.tls.extra_roots: {path}: {reason}")]
pub struct RootsError {
    upstream: Arc<str>,
    path: String,
    reason: String,
}

impl Roots {
    /// Reads `extra_roots` of every upstream; the system's roots are added to them.
    pub fn load(upstreams: &[Arc<Upstream>]) -> Result<Self, RootsError> {
        let mut by_upstream = Vec::with_capacity(upstreams.len());
        for upstream in upstreams {
            by_upstream.push(load_one(upstream)?);
        }
        Ok(Self { by_upstream })
    }

    fn of(&self, index: usize) -> Option<Arc<CaType>> {
        self.by_upstream.get(index).cloned().flatten()
    }
}

fn load_one(upstream: &Upstream) -> Result<Option<Arc<CaType>>, RootsError> {
    if upstream.tls.extra_roots.is_empty() {
        return Ok(None);
    }
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    for path in &upstream.tls.extra_roots {
        let failed = |reason: String| RootsError {
            upstream: Arc::clone(&upstream.name),
            path: path.display().to_string(),
            reason,
        };
        let read = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
        let before = certificates.len();
        for certificate in read {
            certificates.push(certificate.map_err(|e| failed(e.to_string()))?);
        }
        if certificates.len() == before {
            return Err(failed("holds no certificate".to_owned()));
        }
    }
    let usable: Vec<WrappedX509> = certificates
        .into_iter()
        // pingora's parser panics on what it cannot read.
        .filter(|der| x509_parser::parse_x509_certificate(der).is_ok())
        .map(|der| WrappedX509::new(der.to_vec(), parse_x509))
        .collect();
    Ok(Some(Arc::from(usable)))
}

/// The peer for `place` at `addresses` (never empty), which have passed the guard.
pub fn peer(
    place: &Place,
    addresses: Vec<SocketAddr>,
    preferred: Arc<Preferred>,
    roots: &Roots,
) -> Option<HttpPeer> {
    let first = *addresses.first()?;
    let tls = place.scheme == Scheme::Https;
    // An empty server name would switch verification off in pingora.
    let sni = place.host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    if tls && sni.is_empty() {
        return None;
    }
    let mut peer = HttpPeer::new(first, tls, sni.to_owned());
    peer.group_key = group_key(place);
    let options = &mut peer.options;
    let timeouts = &place.timeouts;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.read_timeout = Some(timeouts.first_byte.max(timeouts.between_bytes));
    options.write_timeout = Some(timeouts.between_bytes);
    options.idle_timeout = Some(IDLE);
    options.max_h2_streams = H2_STREAMS;
    let http2 = place.upstream.as_ref().is_none_or(|u| u.tls.http2);
    options.alpn = if tls && http2 { ALPN::H2H1 } else { ALPN::H1 };
    options.ca = roots.of(place.index);
    options.custom_l4 = Some(Arc::new(Dialer {
        host: place.host.clone(),
        port: place.port,
        addresses: addresses.into(),
        within: timeouts.connect,
        preferred,
    }));
    Some(peer)
}

/// Connections are shared only between calls to the same host, port, scheme and upstream: pingora's
/// pool does not look at roots, ALPN or dialer.
fn group_key(place: &Place) -> u64 {
    let mut hasher = Xxh3::new();
    (place.index, place.scheme, &place.host, place.port).hash(&mut hasher);
    hasher.finish()
}
