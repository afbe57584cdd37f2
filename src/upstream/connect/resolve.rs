//! Resolves a host name to the addresses that a request may be sent to.
//!
//! Owns: `resolve:`, which lookups are made, filtering by [`EgressPolicy`].
//! Never touches: how DNS is queried (`dns_cache`), connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::ResolveRule;
use crate::semantics::request::ListenerKind;
use crate::upstream::connect::dns_cache::DnsCache;
use crate::upstream::connect::egress_policy::{Denied, EgressPolicy};
use crate::upstream::connect::happy_eyeballs::PreferredAddrs;
use crate::upstream::connect::parent::ParentTls;
use crate::upstream::outcome::error::UpstreamError;

/// Resolves names and returns permitted addresses only.
pub struct Resolver {
    rules: Vec<ResolveRule>,
    dns_cache: DnsCache,
    egress_policy: Arc<EgressPolicy>,
    preferred: Arc<PreferredAddrs>,
    parent_tls: Arc<ParentTls>,
}

impl Resolver {
    /// A resolver over the system's name servers, or over `name_server` alone (tests).
    pub fn new(
        rules: Vec<ResolveRule>,
        egress_policy: Arc<EgressPolicy>,
        name_server: Option<SocketAddr>,
        clock: Clock,
    ) -> Self {
        let dns_cache = DnsCache::new(name_server, clock);
        Self { rules, dns_cache, egress_policy, preferred: Arc::default(), parent_tls: Arc::default() }
    }

    /// With these settings for TLS with parent proxies.
    #[must_use]
    pub fn with_parent_tls(self, parent_tls: ParentTls) -> Self {
        Self { parent_tls: Arc::new(parent_tls), ..self }
    }

    pub(super) fn parent_tls(&self) -> Arc<ParentTls> {
        Arc::clone(&self.parent_tls)
    }

    pub(super) fn egress_policy(&self) -> &EgressPolicy {
        &self.egress_policy
    }

    /// The addresses that accepted last, for the dialer.
    pub fn preferred(&self) -> Arc<PreferredAddrs> {
        Arc::clone(&self.preferred)
    }

    /// The addresses of `host:port` that a request through `listener` may be sent to, in the order
    /// to try them; never empty.
    pub async fn addresses(
        &self,
        host: &str,
        port: u16,
        listener: ListenerKind,
    ) -> Result<Vec<SocketAddr>, UpstreamError> {
        let mut denied = None;
        let mut allowed = Vec::new();
        for address in self.look_up(host, port).await? {
            match self.egress_policy.check(host, address, listener) {
                Ok(()) => allowed.push(address),
                // One address of larder itself denies the name, such as `localhost`, even if its other
                // addresses are permitted.
                Err(Denied::OwnPort) => return Err(UpstreamError::Denied(Denied::OwnPort)),
                Err(reason) => denied = Some(reason),
            }
        }
        match (allowed.is_empty(), denied) {
            (false, _) => Ok(self.preferred.order(host, port, allowed)),
            (true, Some(reason)) => Err(UpstreamError::Denied(reason)),
            (true, None) => Err(UpstreamError::Dns),
        }
    }

    /// Whether a `resolve` rule names this destination. Its address is dialled, never left to a parent proxy.
    pub(super) fn has_rule(&self, host: &str, port: u16) -> bool {
        self.rule(host, port).is_some()
    }

    fn rule(&self, host: &str, port: u16) -> Option<&ResolveRule> {
        self.rules.iter().find(|r| r.host == host && r.port.is_none_or(|p| p == port))
    }

    pub(super) async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UpstreamError> {
        if let Some(rule) = self.rule(host, port) {
            return Ok(vec![rule.address]);
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        // A trailing dot makes the name absolute: the host's `search` domains must not redirect a request for
        // a fully qualified name.
        let name =
            if host.contains('.') && !host.ends_with('.') { format!("{host}.") } else { host.to_owned() };
        let found = self.dns_cache.addresses(&name).await?;
        Ok(found.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
    }
}
