//! Which upstream a host belongs to, and where its calls really go.
//!
//! Owns: the look-up of `upstreams`, the upgrade of `http` to `https`.
//! Never touches: names and addresses.

use std::sync::Arc;

use crate::config::{Timeouts, Upstream};
use crate::semantics::target::{Scheme, Target};

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

impl Upstreams {
    /// The look-up over `named`.
    pub fn new(named: Vec<Arc<Upstream>>) -> Self {
        Self { named, timeouts: Timeouts::default() }
    }

    /// Where a call to `target` goes.
    pub fn place(&self, target: &Target) -> Place {
        for (index, upstream) in self.named.iter().enumerate() {
            let Some(host) =
                upstream.hosts.iter().find(|h| h.host.matches(target.host(), target.port()))
            else {
                continue;
            };
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

/// A port that was only the scheme's default follows an upgraded scheme; a spelled-out one stays.
fn moved_port(target: &Target, scheme: Scheme) -> u16 {
    if target.port() == target.scheme().default_port() {
        scheme.default_port()
    } else {
        target.port()
    }
}
