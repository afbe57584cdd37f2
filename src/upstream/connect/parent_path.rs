//! The network path of a call: the addresses to dial, and the parent proxy on the way, if there is one.
//!
//! Owns: the egress policy of calls through a parent: literals and names that larder can look up are judged
//! before the parent is asked. Never touches: connections (`happy_eyeballs`, `parent`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::config::parent_proxy::{ParentProtocol, ParentProxy};
use crate::semantics::request::ListenerKind;
use crate::upstream::connect::egress_policy::Denied;
use crate::upstream::connect::parent::{Hop, HopTarget};
use crate::upstream::connect::resolve::Resolver;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::parent_error::ParentError;

/// How long the look-up of an origin's name may delay a call through a parent: in a network whose only way out
/// is a proxy, name servers often do not answer for other names.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// The network path of a call.
#[derive(Debug, Clone)]
pub struct NetworkPath {
    /// The host that is dialled: the origin, or the parent proxy.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The addresses in the order to try them; never empty.
    pub addresses: Vec<SocketAddr>,
    /// The parent proxy, if these addresses are its own.
    pub hop: Option<Hop>,
}

/// A destination, and how it is reached.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The host in its URL form.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The parent proxy to use.
    pub proxy: Option<&'a Arc<ParentProxy>>,
    /// Whether requests may be sent to the proxy itself, in absolute form.
    pub absolute_form: bool,
    /// The kind of listener that received the request.
    pub listener: ListenerKind,
}

impl Resolver {
    /// The network path to a destination.
    pub async fn path(&self, to: Destination<'_>) -> Result<NetworkPath, UpstreamError> {
        let Destination { host, port, listener, .. } = to;
        if let Some(proxy) = to.proxy
            && !self.has_rule(host, port)
        {
            let target = self.hop_target(to, proxy).await?;
            if let Some(addresses) = self.parent_addresses(proxy).await? {
                let hop = Some(Hop { proxy: Arc::clone(proxy), target, tls: self.parent_tls() });
                return Ok(NetworkPath { host: proxy.host.clone(), port: proxy.port, addresses, hop });
            }
        }
        let addresses = self.addresses(host, port, listener).await?;
        Ok(NetworkPath { host: host.to_owned(), port, addresses, hop: None })
    }

    /// The target that the parent is asked for, if the destination is permitted.
    async fn hop_target(&self, to: Destination<'_>, proxy: &ParentProxy) -> Result<HopTarget, UpstreamError> {
        let Destination { host, port, listener, absolute_form, .. } = to;
        if proxy.protocol == ParentProtocol::Socks5 {
            let addresses = self.addresses(host, port, listener).await?;
            return addresses.first().copied().map(HopTarget::Address).ok_or(UpstreamError::Dns);
        }
        self.check_name(host, port, listener).await?;
        Ok(if absolute_form && proxy.protocol.accepts_absolute_form() {
            HopTarget::Requests
        } else {
            HopTarget::Name(host.to_owned(), port)
        })
    }

    /// Whether the parent may be asked for this host. It looks the name up itself, so each address that larder
    /// finds must be permitted, not one of them. A name that only the parent can look up is permitted if
    /// `destinations.allow` lists it, and on a loopback listener if no network is denied.
    async fn check_name(&self, host: &str, port: u16, listener: ListenerKind) -> Result<(), UpstreamError> {
        let policy = self.egress_policy();
        policy.check_name(host, port, listener).map_err(UpstreamError::Denied)?;
        let found = timeout(LOOKUP_TIMEOUT, self.look_up(host, port)).await;
        let addresses = match found {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(UpstreamError::Exhausted)) => return Err(UpstreamError::Exhausted),
            Ok(Err(_)) | Err(_) if is_numeric(host) => return Err(UpstreamError::Dns),
            Ok(Err(_)) | Err(_) => {
                let is_listed = policy.allows_name(host, port);
                for address in spelled_addresses(host) {
                    match policy.check(host, SocketAddr::new(address.into(), port), listener) {
                        Err(denied) if denied == Denied::Metadata || !is_listed => {
                            return Err(UpstreamError::Denied(denied));
                        }
                        Ok(()) | Err(_) => {}
                    }
                }
                // A rule about networks cannot judge a name without addresses.
                let is_open = listener == ListenerKind::Loopback && !policy.denies_networks();
                return if is_open || is_listed {
                    Ok(())
                } else {
                    Err(UpstreamError::Denied(Denied::Unresolved))
                };
            }
        };
        for address in addresses {
            policy.check(host, address, listener).map_err(UpstreamError::Denied)?;
        }
        Ok(())
    }

    /// The addresses of the parent. `None`: it is larder itself, and is ignored.
    async fn parent_addresses(&self, proxy: &ParentProxy) -> Result<Option<Vec<SocketAddr>>, UpstreamError> {
        static NOTED: AtomicBool = AtomicBool::new(false);
        let found = self.look_up(&proxy.host, proxy.port).await;
        let addresses = match found {
            Ok(addresses) if !addresses.is_empty() => addresses,
            Err(UpstreamError::Exhausted) => return Err(UpstreamError::Exhausted),
            Ok(_) | Err(_) => return Err(UpstreamError::Parent(ParentError::Unreachable)),
        };
        if addresses.iter().any(|address| self.egress_policy().is_own(address.ip(), address.port())) {
            if !NOTED.swap(true, Ordering::Relaxed) {
                tracing::warn!(%proxy, "The parent proxy is larder itself and is ignored");
            }
            return Ok(None);
        }
        Ok(Some(self.preferred().order(&proxy.host, proxy.port, addresses)))
    }
}

/// The IPv4 addresses that a host name contains, as public name services resolve them: `10.0.0.5.nip.io`,
/// `app-10-0-0-5.sslip.io`, `0a000005.nip.io`.
fn spelled_addresses(host: &str) -> Vec<Ipv4Addr> {
    let parts: Vec<&str> = host.split(['.', '-']).collect();
    let octets = |four: &[&str]| {
        let octets: Vec<u8> = four.iter().filter_map(|part| part.parse().ok()).collect();
        <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
    };
    let hexadecimal = parts.iter().filter(|part| part.len() == 8);
    let hexadecimal = hexadecimal.filter_map(|part| u32::from_str_radix(part, 16).ok());
    parts.windows(4).filter_map(octets).chain(hexadecimal.map(Ipv4Addr::from)).collect()
}

/// Whether the last label is a number. Some proxies read such a host as an address, in a notation that larder
/// does not (`0xa9fea9fe`), so it is never left to the parent.
fn is_numeric(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let digits = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_hex = digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    is_hex || last.bytes().all(|byte| byte.is_ascii_digit()) || last.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{is_numeric, spelled_addresses};

    #[test]
    fn addresses_in_names_are_recognised() {
        let metadata = Ipv4Addr::new(169, 254, 169, 254);
        for host in [
            "169.254.169.254.nip.io",
            "app.169.254.169.254.nip.io",
            "169-254-169-254.sslip.io",
            "app-169-254-169-254.sslip.io.",
            "a9fea9fe.nip.io",
            "x-a9fea9fe.nip.io",
        ] {
            assert!(spelled_addresses(host).contains(&metadata), "{host}");
        }
        for host in ["api.example", "v1-2-3.example", "300.1.1.1.example", "deadbeefs.example"] {
            assert!(spelled_addresses(host).is_empty(), "{host}");
        }
    }

    #[test]
    fn a_number_is_never_left_to_the_parent() {
        for host in ["2852039166", "0xa9fea9fe", "169.254.43518", "127.1", "0x7f.1", "a.0x1.", ""] {
            assert!(is_numeric(host), "{host}");
        }
        for host in ["api.example", "a1.example2", "0x.example", "xn--p1ai"] {
            assert!(!is_numeric(host), "{host}");
        }
    }
}
