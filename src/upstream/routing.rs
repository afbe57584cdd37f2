//! Which upstream a host belongs to, where its calls really go, and what they carry there.
//!
//! Owns: the look-up of `upstreams`, the upgrade of `http` to `https`, larder's own credential.
//! Never touches: names and addresses.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};

use crate::config::credential::Credential;
use crate::config::{Timeouts, Upstream, UpstreamHost};
use crate::semantics::target::{Scheme, Target};
use crate::upstream::body_inspection;

/// The upstreams of the configuration, in file order; a host belongs to the first that names it.
#[derive(Debug, Clone)]
pub struct UpstreamTable {
    named: Vec<Arc<Upstream>>,
    timeouts: Timeouts,
    /// Whether any of them moves its calls to another scheme or port. Usually none: every request asks.
    moves: bool,
}

/// Where a call goes.
#[derive(Debug, Clone)]
pub struct UpstreamTarget {
    /// The upstream's index for accounting; one past the last for hosts no upstream names.
    pub index: usize,
    /// The upstream, if one names the host.
    pub upstream: Option<Arc<Upstream>>,
    /// The scheme after an upgrade.
    pub scheme: Scheme,
    /// The host, as in the target.
    pub host: String,
    /// The port after an upgrade.
    pub port: u16,
    /// The deadlines that apply.
    pub timeouts: Timeouts,
}

impl UpstreamTarget {
    /// Where a tunnel goes: to no upstream, whose index this is.
    pub fn of_a_tunnel(index: usize, host: &str, port: u16) -> Self {
        let (scheme, timeouts) = (Scheme::Https, Timeouts::default());
        Self { index, upstream: None, scheme, host: host.to_owned(), port, timeouts }
    }

    /// How long a call that has no retries may wait for its turn, or for a hold to end.
    pub fn patience(&self) -> Duration {
        self.upstream
            .as_ref()
            .map(|upstream| upstream.conduct.rate_limit.max_wait)
            .unwrap_or_default()
    }

    /// The value of `Host`: the port is left out where it is the scheme's default.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Scheme and authority, whichever upstream leads there.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.authority())
    }

    /// What a request to this place carries beyond what its client sent: larder's own credential in
    /// the place of any that the client showed, and no encoding that a rule about bodies cannot read.
    pub fn apply_upstream_headers(&self, method: &Method, headers: &mut HeaderMap) {
        let Some(upstream) = &self.upstream else { return };
        if upstream.conduct.reads_bodies() {
            body_inspection::accept_encoding(headers);
        }
        if let Some(credential) = &upstream.credential {
            // RFC 9110 §9.3.8: an origin would send it back, to whoever asked.
            if method == Method::TRACE {
                headers.remove(&credential.header);
                return;
            }
            headers.insert(credential.header.clone(), credential.reveal().clone());
        }
    }
}

impl UpstreamTable {
    /// The look-up over `named`.
    pub fn new(named: Vec<Arc<Upstream>>) -> Self {
        let moves = named.iter().flat_map(|upstream| &upstream.hosts);
        let moves = moves.into_iter().any(|host| host.scheme.is_some() || host.port.is_some());
        Self { named, timeouts: Timeouts::default(), moves }
    }

    /// The one target by which larder knows what `target` leads to: a call that an upstream moves to
    /// another scheme or port is for the resource there. `None`: it is that target.
    pub fn moved(&self, target: &Target) -> Option<Target> {
        if !self.moves {
            return None;
        }
        let place = self.place(target);
        let moved = target.with_origin(place.scheme, &place.host, place.port);
        // Where another upstream has the place moved to for its own, the two are not one.
        let same = !moved.same_origin(target) && self.place(&moved).index == place.index;
        same.then_some(moved)
    }

    /// The credential of its own that larder shows to the origin of `target`.
    pub fn credential(&self, target: &Target) -> Option<&Credential> {
        let mut shows = self.named.iter().filter(|upstream| upstream.credential.is_some());
        // Most larders have none: nothing is looked up then.
        shows.next()?;
        self.of(target.host(), target.port())?.credential.as_ref()
    }

    /// The upstream that a host belongs to.
    pub fn of(&self, host: &str, port: u16) -> Option<&Arc<Upstream>> {
        self.find(host, port).map(|(_, upstream, _)| upstream)
    }

    /// Where a call to `target` goes.
    pub fn place(&self, target: &Target) -> UpstreamTarget {
        if let Some((index, upstream, host)) = self.find(target.host(), target.port()) {
            let scheme = host.scheme.unwrap_or(target.scheme());
            let port = host.port.unwrap_or_else(|| moved_port(target, scheme));
            return UpstreamTarget {
                index,
                upstream: Some(Arc::clone(upstream)),
                scheme,
                host: target.host().to_owned(),
                port,
                timeouts: upstream.timeouts,
            };
        }
        UpstreamTarget {
            index: self.named.len(),
            upstream: None,
            scheme: target.scheme(),
            host: target.host().to_owned(),
            port: target.port(),
            timeouts: self.timeouts,
        }
    }
}

impl UpstreamTable {
    /// The first upstream that names a host, its index, and how it names it.
    fn find(&self, host: &str, port: u16) -> Option<(usize, &Arc<Upstream>, &UpstreamHost)> {
        self.named.iter().enumerate().find_map(|(index, upstream)| {
            let named = upstream.hosts.iter().find(|named| named.host.matches(host, port))?;
            Some((index, upstream, named))
        })
    }
}

/// A port that was only the scheme's default follows an upgraded scheme; a spelled-out one stays.
fn moved_port(target: &Target, scheme: Scheme) -> u16 {
    if target.port() == target.scheme().default_port() {
        scheme.default_port()
    } else {
        target.port()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{env::Env, parse};

    fn upstreams(yaml: &str) -> UpstreamTable {
        let text = format!("version: 1\nupstreams:\n{yaml}");
        let config = parse("test.yaml", &text, &Env::default()).unwrap();
        UpstreamTable::new(config.upstreams.iter().map(Arc::clone).collect())
    }

    fn moved(upstreams: &UpstreamTable, url: &str) -> String {
        let target = Target::absolute(url).unwrap();
        upstreams.moved(&target).unwrap_or(target).to_string()
    }

    #[test]
    fn what_is_sent_on_elsewhere_is_known_by_where_it_goes() {
        let upstreams = upstreams(
            "  a: { hosts: ['https://a.test', 'https://*.a.test:8443'] }\n  \
             b: { hosts: ['b.test:443'] }\n  c: { hosts: ['https://b.test'] }\n",
        );
        for (url, known) in [
            ("http://a.test/x?y=1", "https://a.test/x?y=1"),
            ("http://a.test:80/x", "https://a.test/x"),
            ("https://a.test/x", "https://a.test/x"),
            ("http://a.test:8080/x", "https://a.test:8080/x"),
            ("http://w.a.test/x", "https://w.a.test:8443/x"),
            ("https://w.a.test:8443/x", "https://w.a.test:8443/x"),
            ("http://other.test/x", "http://other.test/x"),
            // There it would be another upstream's: with other credentials, limits and prices.
            ("http://b.test/x", "http://b.test/x"),
            ("https://b.test/x", "https://b.test/x"),
        ] {
            assert_eq!(moved(&upstreams, url), known, "{url}");
        }
    }
}
