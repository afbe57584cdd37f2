//! Which upstream a host belongs to, where its calls really go, and what they carry there.
//!
//! Owns: the look-up of `upstreams`, the upgrade of `http` to `https`, larder's own credential.
//! Never touches: names and addresses.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::config::{Timeouts, Upstream, UpstreamHost};
use crate::semantics::target::{Scheme, Target};
use crate::upstream::json;

/// The upstreams of the configuration, in file order; a host belongs to the first that names it.
#[derive(Debug, Clone)]
pub struct Upstreams {
    named: Vec<Arc<Upstream>>,
    timeouts: Timeouts,
}

/// Where a call goes.
#[derive(Debug, Clone)]
pub struct Place {
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

impl Place {
    /// How long a call that has no retries may wait for its turn, or for a hold to end.
    pub fn patience(&self) -> Duration {
        self.upstream.as_ref().map(|upstream| upstream.conduct.pace.max_wait).unwrap_or_default()
    }

    /// The value of `Host`: the port is left out where it is the scheme's default.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// What a request to this place carries beyond what its client sent: larder's own credential in
    /// the place of any that the client showed, and no encoding that a rule about bodies cannot read.
    pub fn dress(&self, headers: &mut HeaderMap) {
        let Some(upstream) = &self.upstream else { return };
        if upstream.conduct.reads_bodies() {
            json::accept_encoding(headers);
        }
        if let Some(credential) = &upstream.credential {
            headers.insert(credential.header.clone(), credential.reveal().clone());
        }
    }
}

impl Upstreams {
    /// The look-up over `named`.
    pub fn new(named: Vec<Arc<Upstream>>) -> Self {
        Self { named, timeouts: Timeouts::default() }
    }

    /// The field in which larder shows a credential of its own to the origin of `target`.
    pub fn shown(&self, target: &Target) -> Option<&HeaderName> {
        let mut shows = self.named.iter().filter(|upstream| upstream.credential.is_some());
        // Most larders have none: nothing is looked up then.
        shows.next()?;
        let (_, upstream, _) = self.naming(target)?;
        upstream.credential.as_ref().map(|credential| &credential.header)
    }

    /// Where a call to `target` goes.
    pub fn place(&self, target: &Target) -> Place {
        if let Some((index, upstream, host)) = self.naming(target) {
            let scheme = host.scheme.unwrap_or(target.scheme());
            let port = host.port.unwrap_or_else(|| moved_port(target, scheme));
            return Place {
                index,
                upstream: Some(Arc::clone(upstream)),
                scheme,
                host: target.host().to_owned(),
                port,
                timeouts: upstream.timeouts,
            };
        }
        Place {
            index: self.named.len(),
            upstream: None,
            scheme: target.scheme(),
            host: target.host().to_owned(),
            port: target.port(),
            timeouts: self.timeouts,
        }
    }
}

impl Upstreams {
    /// The first upstream that names the host of `target`, its index, and how it names it.
    fn naming(&self, target: &Target) -> Option<(usize, &Arc<Upstream>, &UpstreamHost)> {
        let (host, port) = (target.host(), target.port());
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
