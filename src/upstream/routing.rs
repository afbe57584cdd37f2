//! Maps a host to its upstream, the effective target of its calls, and the headers that the upstream adds.
//!
//! Owns: the lookup in `upstreams`, the upgrade of `http` to `https`, larder's own credential.
//! Never touches: DNS and addresses.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Method};

use crate::config::credential::Credential;
use crate::config::parent_proxy::{ParentProxies, ParentProxy, UpstreamProxy};
use crate::config::{Upstream, UpstreamHost};
use crate::policy::timeouts::{TimeoutOverrides, Timeouts};
use crate::policy::upstream::UpstreamPolicy;
use crate::semantics::hop_by_hop::CDN_LOOP;
use crate::semantics::target::{Scheme, Target};
use crate::upstream::outcome::body_inspection;

/// The upstreams of the configuration in file order; a host belongs to the first one that lists it.
#[derive(Debug, Clone)]
pub struct UpstreamTable {
    upstreams: Vec<Arc<Upstream>>,
    timeouts: Timeouts,
    /// Whether any upstream rewrites the scheme or port of its calls. Usually none; checked for every
    /// request.
    rewrites: bool,
    proxies: ParentProxies,
}

/// The effective destination of a call.
#[derive(Debug, Clone)]
pub struct UpstreamTarget {
    /// The upstream's index for telemetry; one past the last for hosts that no upstream lists.
    pub index: usize,
    /// The upstream, if one lists the host.
    pub upstream: Option<Arc<Upstream>>,
    /// The scheme after an upgrade.
    pub scheme: Scheme,
    /// The host, as in the target.
    pub host: String,
    /// The port after an upgrade.
    pub port: u16,
    /// The deadlines that apply.
    pub timeouts: Timeouts,
    /// The parent proxy of its calls.
    pub proxy: Option<Arc<ParentProxy>>,
}

/// The time limits of a request.
#[derive(Debug, Clone, Copy)]
pub struct CallLimits {
    /// How long a call without retries may wait in a queue or for a cooldown to end.
    pub max_wait: Duration,
    /// The time from the first attempt after which no retry begins; `None`: there is none.
    pub total: Option<Duration>,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self { max_wait: Duration::ZERO, total: Timeouts::default().total.time() }
    }
}

impl UpstreamTarget {
    /// The destination of a tunnel; `index` is the one for hosts without an upstream.
    pub fn for_tunnel(index: usize, host: &str, port: u16) -> Self {
        let (scheme, timeouts) = (Scheme::Https, Timeouts::default());
        Self { index, upstream: None, scheme, host: host.to_owned(), port, timeouts, proxy: None }
    }

    /// The same destination for calls of a route with these timeouts.
    #[must_use]
    pub fn with_timeouts(self, overrides: &TimeoutOverrides) -> Self {
        Self { timeouts: self.timeouts.with(overrides), ..self }
    }

    /// Its policy. Hosts without a configured upstream get the default: no limits, only cooldowns.
    pub fn policy(&self) -> &UpstreamPolicy {
        static DEFAULT: LazyLock<UpstreamPolicy> = LazyLock::new(UpstreamPolicy::default);
        self.upstream.as_ref().map_or(&DEFAULT, |upstream| &upstream.policy)
    }

    /// The time limits of a request to it.
    pub fn limits(&self) -> CallLimits {
        let max_wait = self.upstream.as_ref().map(|upstream| upstream.policy.rate_limit.max_wait);
        CallLimits { max_wait: max_wait.unwrap_or_default(), total: self.timeouts.total.time() }
    }

    /// Larder's own credential for its calls.
    pub fn credential(&self) -> Option<&Credential> {
        self.upstream.as_ref()?.credential.as_ref()
    }

    /// The value of `Host`; the port is omitted if it is the scheme's default.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Scheme and authority, independent of the upstream.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.authority())
    }

    /// Adds larder to the intermediaries of a request (RFC 9110 §7.6.3), by which it recognises a loop; `via` is
    /// its entry in `Via`. Some origins treat requests with `Via` differently (nginx compresses no response to
    /// them). For these, `CDN-Loop` has the same purpose (RFC 8586).
    pub fn add_intermediary(&self, via: &HeaderValue, headers: &mut HeaderMap) {
        if self.upstream.as_ref().is_none_or(|upstream| upstream.via) {
            headers.append(VIA, via.clone());
            return;
        }
        // The pseudonym, without the version of the protocol.
        let name = via.as_bytes().rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        if let Ok(name) = HeaderValue::from_bytes(name) {
            headers.append(CDN_LOOP, name);
        }
    }

    /// Changes the header fields of a request to this upstream: larder's own credential replaces the
    /// client's, and content codings that a rule on bodies cannot read are removed from `Accept-Encoding`.
    pub fn apply_upstream_headers(&self, method: &Method, headers: &mut HeaderMap) {
        let Some(upstream) = &self.upstream else { return };
        if upstream.policy.reads_bodies() {
            body_inspection::accept_encoding(headers);
        }
        if let Some(credential) = self.credential() {
            // RFC 9110 §9.3.8: the origin would send the credential back to the client.
            if method == Method::TRACE {
                headers.remove(&credential.header);
                return;
            }
            headers.insert(credential.header.clone(), credential.reveal().clone());
        }
    }
}

impl UpstreamTable {
    /// A table of these upstreams.
    pub fn new(upstreams: Vec<Arc<Upstream>>) -> Self {
        let hosts = upstreams.iter().flat_map(|upstream| &upstream.hosts);
        let rewrites = hosts.into_iter().any(|host| host.scheme.is_some() || host.port.is_some());
        Self { upstreams, timeouts: Timeouts::default(), rewrites, proxies: ParentProxies::default() }
    }

    /// With these parent proxies for upstreams without their own, and for hosts without an upstream.
    #[must_use]
    pub fn with_proxies(self, proxies: ParentProxies) -> Self {
        Self { proxies, ..self }
    }

    /// The parent proxy of calls and tunnels to a host.
    pub fn proxy_for(&self, scheme: Scheme, host: &str, port: u16) -> Option<Arc<ParentProxy>> {
        let upstream = self.upstream_for(host, port);
        self.proxy_of(upstream.map(|upstream| &**upstream), scheme, host, port)
    }

    fn proxy_of(
        &self,
        upstream: Option<&Upstream>,
        scheme: Scheme,
        host: &str,
        port: u16,
    ) -> Option<Arc<ParentProxy>> {
        match upstream.and_then(|upstream| upstream.proxy.as_ref()) {
            Some(UpstreamProxy::Off) => None,
            Some(UpstreamProxy::Through(proxy)) => Some(Arc::clone(proxy)),
            None => self.proxies.for_call(scheme, host, port).map(Arc::clone),
        }
    }

    /// The same table with this `limits.patience` for hosts that no upstream lists.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { timeouts: Timeouts { patience, ..self.timeouts }, ..self }
    }

    /// The canonical target of the resource that `target` leads to: if an upstream rewrites the scheme or
    /// port of a call, the call is for the resource there. `None`: `target` is canonical.
    pub fn canonical_target(&self, target: &Target) -> Option<Target> {
        if !self.rewrites {
            return None;
        }
        let destination = self.lookup(target);
        let rewritten = target.with_origin(destination.scheme, &destination.host, destination.port);
        // If another upstream lists the rewritten target, the two targets are different resources.
        let same = !rewritten.same_origin(target) && self.lookup(&rewritten).index == destination.index;
        same.then_some(rewritten)
    }

    /// Larder's own credential for the origin of `target`.
    pub fn credential(&self, target: &Target) -> Option<&Credential> {
        let has_credential = |upstream: &Arc<Upstream>| upstream.credential.is_some();
        // Skips the lookup if no upstream has a credential, which is the usual case.
        self.upstreams.iter().any(has_credential).then_some(())?;
        self.upstream_for(target.host(), target.port())?.credential.as_ref()
    }

    /// The upstream that a host belongs to.
    pub fn upstream_for(&self, host: &str, port: u16) -> Option<&Arc<Upstream>> {
        self.find(host, port).map(|(_, upstream, _)| upstream)
    }

    /// The effective destination of a call to `target`.
    pub fn lookup(&self, target: &Target) -> UpstreamTarget {
        if let Some((index, upstream, host)) = self.find(target.host(), target.port()) {
            let scheme = host.scheme.unwrap_or(target.scheme());
            let port = host.port.unwrap_or_else(|| rewritten_port(target, scheme));
            return UpstreamTarget {
                index,
                upstream: Some(Arc::clone(upstream)),
                scheme,
                host: target.host().to_owned(),
                port,
                timeouts: upstream.timeouts,
                proxy: self.proxy_of(Some(upstream), scheme, target.host(), port),
            };
        }
        UpstreamTarget {
            index: self.upstreams.len(),
            upstream: None,
            scheme: target.scheme(),
            host: target.host().to_owned(),
            port: target.port(),
            timeouts: self.timeouts,
            proxy: self.proxy_of(None, target.scheme(), target.host(), target.port()),
        }
    }
}

impl UpstreamTable {
    /// The first upstream that lists a host, its index, and the matching entry.
    fn find(&self, host: &str, port: u16) -> Option<(usize, &Arc<Upstream>, &UpstreamHost)> {
        self.upstreams.iter().enumerate().find_map(|(index, upstream)| {
            let entry = upstream.hosts.iter().find(|entry| entry.host.matches(host, port))?;
            Some((index, upstream, entry))
        })
    }
}

/// The port after a change of scheme: the old scheme's default becomes the new one's, any other port stays.
fn rewritten_port(target: &Target, scheme: Scheme) -> u16 {
    if target.port() == target.scheme().default_port() { scheme.default_port() } else { target.port() }
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

    fn canonical(upstreams: &UpstreamTable, url: &str) -> String {
        let target = Target::absolute(url).unwrap();
        upstreams.canonical_target(&target).unwrap_or(target).to_string()
    }

    #[test]
    fn a_rewritten_call_has_the_target_that_it_is_sent_to() {
        let upstreams = upstreams(
            "  a: { hosts: ['https://a.test', 'https://*.a.test:8443'] }\n  \
             b: { hosts: ['b.test:443'] }\n  c: { hosts: ['https://b.test'] }\n",
        );
        for (url, canonical_url) in [
            ("http://a.test/x?y=1", "https://a.test/x?y=1"),
            ("http://a.test:80/x", "https://a.test/x"),
            ("https://a.test/x", "https://a.test/x"),
            ("http://a.test:8080/x", "https://a.test:8080/x"),
            ("http://w.a.test/x", "https://w.a.test:8443/x"),
            ("https://w.a.test:8443/x", "https://w.a.test:8443/x"),
            ("http://other.test/x", "http://other.test/x"),
            // The rewritten target belongs to another upstream, with other credentials, limits and prices.
            ("http://b.test/x", "http://b.test/x"),
            ("https://b.test/x", "https://b.test/x"),
        ] {
            assert_eq!(canonical(&upstreams, url), canonical_url, "{url}");
        }
    }
}
