//! Hosts whose intercepted clients are offered HTTP/1 alone.
//!
//! Owns: which those are: the hosts of upstreams with `tls: { http2: false }`, and those whose origins asked for
//! a sign-in that counts for a connection (RFC 4559 §6). Many requests share a connection of HTTP/2, so
//! there nobody can sign in; what clients agree on with such an origin itself is HTTP/1 as well. Never touches:
//! handshakes (`tls`), what asks for a sign-in (`proxy::sign_in`).

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::Upstream;
use crate::upstream::routing::UpstreamTable;

/// How many hosts are remembered. Past that all are forgotten: each costs its clients one connection more
/// until it is known again.
const MOST: usize = 1024;

/// The hosts whose origins asked for such a sign-in, for as long as larder runs.
#[derive(Debug, Clone, Default)]
pub struct ConnectionAuthHosts(Arc<Mutex<HashSet<(String, u16)>>>);

impl ConnectionAuthHosts {
    /// The origin there has asked for one.
    fn remember(&self, host: &str, port: u16) {
        let mut known = self.0.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert((host.to_owned(), port));
    }

    fn knows(&self, host: &str, port: u16) -> bool {
        let known = self.0.lock();
        // Most larders know none: nothing is copied then.
        !known.is_empty() && known.contains(&(host.to_owned(), port))
    }
}

/// A host of which it may turn out that its origin asks for such sign-ins.
#[derive(Debug)]
pub(super) struct Http1Candidate {
    host: String,
    port: u16,
    sign_ins: ConnectionAuthHosts,
}

impl Http1Candidate {
    /// It has turned out.
    pub(super) fn remember(&self) {
        self.sign_ins.remember(&self.host, self.port);
    }
}

/// The hosts.
pub(super) struct Http1Only {
    upstreams: UpstreamTable,
    sign_ins: ConnectionAuthHosts,
}

impl Http1Only {
    /// Those that `upstreams` say, and those that are remembered.
    pub(super) fn new(upstreams: &[Arc<Upstream>], sign_ins: ConnectionAuthHosts) -> Self {
        Self { upstreams: UpstreamTable::new(upstreams.to_vec()), sign_ins }
    }

    /// A host that may become one.
    pub(super) fn place(&self, host: &str, port: u16) -> Http1Candidate {
        Http1Candidate { host: host.to_owned(), port, sign_ins: self.sign_ins.clone() }
    }

    /// Whether this is one.
    pub(super) fn has(&self, host: &str, port: u16) -> bool {
        let upstream = self.upstreams.of(host, port);
        upstream.is_some_and(|upstream| !upstream.tls.http2) || self.sign_ins.knows(host, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{env::Env, parse};

    #[test]
    fn an_upstream_that_is_not_asked_over_http_2_is_one_and_so_is_what_is_remembered() {
        let text = "version: 1\nupstreams:\n  a: { hosts: ['a.example:8443'], tls: { http2: false } }\n  \
                    b: { hosts: [a.example] }\n  c: { hosts: ['*.c.example'], tls: { http2: false } }\n";
        let config = parse("proxy.yaml", text, &Env::default()).expect("it is valid");
        let hosts = Http1Only::new(&config.upstreams, ConnectionAuthHosts::default());
        for (host, port, is) in [
            ("a.example", 8443, true),
            ("a.example", 443, false),
            ("x.c.example", 443, true),
            ("other.example", 443, false),
        ] {
            assert_eq!(hosts.has(host, port), is, "{host}:{port}");
        }
        hosts.place("other.example", 443).remember();
        assert!(hosts.has("other.example", 443) && !hosts.has("other.example", 8443));
    }

    #[test]
    fn no_number_of_hosts_makes_it_grow_without_end() {
        let known = ConnectionAuthHosts::default();
        for at in 0..5 * MOST {
            known.remember(&format!("{at}.example"), 443);
            assert!(known.knows(&format!("{at}.example"), 443));
        }
        assert!(known.0.lock().len() <= MOST);
    }
}
