//! From a host name to the addresses that a request may be sent to.
//!
//! Owns: `resolve:`, DNS (asynchronous, cached by TTL, bounded), filtering by [`Guard`].
//! Never touches: connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::config::ResolveRule;
use crate::semantics::asked::Listener;
use crate::upstream::destination::{Denied, Guard};
use crate::upstream::dial::Preferred;
use crate::upstream::failure::Failure;

/// How many names' answers are kept; each by its own TTL, within the two bounds below.
const CACHED_NAMES: u64 = 4096;
/// A name that does not exist is not asked for again for at least this long.
const NEGATIVE_TTL: Duration = Duration::from_secs(5);
/// No answer is kept longer than this.
const LONGEST_TTL: Duration = Duration::from_secs(300);
/// One look-up, retries included.
const LOOKUP_WITHIN: Duration = Duration::from_secs(5);

/// Resolves names and lets only allowed addresses through.
pub struct Resolver {
    rules: Vec<ResolveRule>,
    dns: Option<TokioResolver>,
    guard: Arc<Guard>,
    preferred: Arc<Preferred>,
}

impl Resolver {
    /// A resolver over the system's name servers, or over `name_server` alone (tests).
    pub fn new(
        rules: Vec<ResolveRule>,
        guard: Arc<Guard>,
        name_server: Option<SocketAddr>,
    ) -> Self {
        let dns = match dns(name_server) {
            Ok(dns) => Some(dns),
            Err(error) => {
                tracing::error!(%error, "No usable DNS configuration: only addresses, localhost and resolve: entries will work");
                None
            }
        };
        Self { rules, dns, guard, preferred: Arc::default() }
    }

    /// Where successes are remembered, for the dialer.
    pub fn preferred(&self) -> Arc<Preferred> {
        Arc::clone(&self.preferred)
    }

    /// The addresses of `host:port` that a request through `listener` may be sent to, in the order
    /// to try them; never empty.
    pub async fn addresses(
        &self,
        host: &str,
        port: u16,
        listener: Listener,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let mut denied = None;
        let mut allowed = Vec::new();
        for address in self.look_up(host, port).await? {
            match self.guard.check(host, address, listener) {
                Ok(()) => allowed.push(address),
                // `localhost` is larder itself, even where its other addresses are nobody's.
                Err(Denied::Own) => return Err(Failure::Denied(Denied::Own)),
                Err(why) => denied = Some(why),
            }
        }
        match (allowed.is_empty(), denied) {
            (false, _) => Ok(self.preferred.order(host, port, allowed)),
            (true, Some(why)) => Err(Failure::Denied(why)),
            (true, None) => Err(Failure::Dns),
        }
    }

    async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
        let rule = self.rules.iter().find(|r| r.host == host && r.port.is_none_or(|p| p == port));
        if let Some(rule) = rule {
            return Ok(vec![rule.address]);
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let dns = self.dns.as_ref().ok_or(Failure::Dns)?;
        // A trailing dot makes the name absolute: `search` domains of the host must not decide
        // where a request for a full name goes.
        let name = if host.contains('.') && !host.ends_with('.') {
            format!("{host}.")
        } else {
            host.to_owned()
        };
        match tokio::time::timeout(LOOKUP_WITHIN, dns.lookup_ip(name)).await {
            Ok(Ok(found)) => Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect()),
            Ok(Err(_)) | Err(_) => Err(Failure::Dns),
        }
    }
}

fn dns(name_server: Option<SocketAddr>) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = match name_server {
        None => TokioResolver::builder_tokio()?,
        Some(address) => {
            let mut connection = ConnectionConfig::udp();
            connection.port = address.port();
            let server = NameServerConfig::new(address.ip(), true, vec![connection]);
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, vec![], vec![server]),
                TokioRuntimeProvider::default(),
            )
        }
    };
    let options = builder.options_mut();
    options.cache_size = CACHED_NAMES;
    options.negative_min_ttl = Some(NEGATIVE_TTL);
    options.positive_max_ttl = Some(LONGEST_TTL);
    options.negative_max_ttl = Some(LONGEST_TTL);
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = Duration::from_secs(2);
    options.attempts = 2;
    builder.build()
}
