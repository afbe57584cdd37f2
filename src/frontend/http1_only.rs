//! Hosts to whose intercepted clients larder offers HTTP/1 only.
//!
//! Owns: the set of these hosts: the hosts of upstreams with `tls: { http2: false }`, and the hosts
//! whose origins requested connection-based authentication (RFC 4559 §6). Many requests share an HTTP/2
//! connection, so a client cannot authenticate it; without larder, clients also negotiate HTTP/1 with
//! such an origin. Never touches: handshakes (`interception`), the detection of authentication requests
//! (`proxy::connection_auth`).

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::Upstream;
use crate::upstream::routing::UpstreamTable;

/// The maximum number of remembered hosts. At this limit the set is cleared: each host then costs its
/// clients one more connection until it is added again.
const MAX_HOSTS: usize = 1024;

/// The hosts whose origins requested connection-based authentication, for the lifetime of the process.
#[derive(Debug, Clone, Default)]
pub struct ConnectionAuthHosts(Arc<Mutex<HashSet<(String, u16)>>>);

impl ConnectionAuthHosts {
    /// Adds the host of an origin that requested connection-based authentication.
    fn remember(&self, host: &str, port: u16) {
        let mut known = self.0.lock();
        if known.len() >= MAX_HOSTS {
            known.clear();
        }
        known.insert((host.to_owned(), port));
    }

    fn contains(&self, host: &str, port: u16) -> bool {
        let known = self.0.lock();
        // Most instances have no such host: then nothing is copied.
        !known.is_empty() && known.contains(&(host.to_owned(), port))
    }
}

/// A host whose origin may request connection-based authentication.
#[derive(Debug)]
pub(super) struct Http1Candidate {
    host: String,
    port: u16,
    auth_hosts: ConnectionAuthHosts,
}

impl Http1Candidate {
    /// Adds this host to the set.
    pub(super) fn remember(&self) {
        self.auth_hosts.remember(&self.host, self.port);
    }
}

/// The hosts that are limited to HTTP/1.
pub(super) struct Http1Only {
    upstreams: UpstreamTable,
    auth_hosts: ConnectionAuthHosts,
}

impl Http1Only {
    /// Creates the set from the settings of `upstreams` and the hosts in `auth_hosts`.
    pub(super) fn new(upstreams: &[Arc<Upstream>], auth_hosts: ConnectionAuthHosts) -> Self {
        Self { upstreams: UpstreamTable::new(upstreams.to_vec()), auth_hosts }
    }

    /// A handle that can add this host later.
    pub(super) fn candidate(&self, host: &str, port: u16) -> Http1Candidate {
        Http1Candidate { host: host.to_owned(), port, auth_hosts: self.auth_hosts.clone() }
    }

    /// Whether this host is limited to HTTP/1.
    pub(super) fn contains(&self, host: &str, port: u16) -> bool {
        let upstream = self.upstreams.upstream_for(host, port);
        upstream.is_some_and(|upstream| !upstream.tls.http2) || self.auth_hosts.contains(host, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{env::Env, parse};

    #[test]
    fn hosts_of_http1_only_upstreams_and_remembered_hosts_are_included() {
        let text = "version: 1\nupstreams:\n  a: { hosts: ['a.example:8443'], tls: { http2: false } }\n  \
                    b: { hosts: [a.example] }\n  c: { hosts: ['*.c.example'], tls: { http2: false } }\n";
        let config = parse("proxy.yaml", text, &Env::default()).expect("it is valid");
        let hosts = Http1Only::new(&config.upstreams, ConnectionAuthHosts::default());
        for (host, port, expected) in [
            ("a.example", 8443, true),
            ("a.example", 443, false),
            ("x.c.example", 443, true),
            ("other.example", 443, false),
        ] {
            assert_eq!(hosts.contains(host, port), expected, "{host}:{port}");
        }
        hosts.candidate("other.example", 443).remember();
        assert!(hosts.contains("other.example", 443) && !hosts.contains("other.example", 8443));
    }

    #[test]
    fn the_number_of_remembered_hosts_is_bounded() {
        let known = ConnectionAuthHosts::default();
        for index in 0..5 * MAX_HOSTS {
            known.remember(&format!("{index}.example"), 443);
            assert!(known.contains(&format!("{index}.example"), 443));
        }
        assert!(known.0.lock().len() <= MAX_HOSTS);
    }
}
