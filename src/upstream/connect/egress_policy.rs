//! Egress policy: permitted destinations, checked on the resolved address just before dialling.
//!
//! Owns: `destinations`, the private ranges, cloud metadata, larder's own ports.
//! Never touches: names (`resolve`), connections (`happy_eyeballs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::LazyLock;

use ipnet::IpNet;
use parking_lot::RwLock;

use crate::config::{DestinationRule, Destinations, Ports};
use crate::semantics::request::ListenerKind;

/// Host names of cloud metadata services, denied for every address that they resolve to.
const METADATA_NAMES: [&str; 2] = ["metadata.google.internal", "metadata"];

/// Addresses of cloud metadata services, which return credentials.
const METADATA: [&str; 14] = [
    "169.254.169.254/32",  // most clouds
    "169.254.170.2/32",    // ECS
    "169.254.170.23/32",   // EKS
    "fd00:ec2::254/128",   // EC2
    "fd00:ec2::23/128",    // EKS
    "168.63.129.16/32",    // Azure
    "fd20:ce::254/128",    // Google
    "100.100.100.200/32",  // Alibaba
    "192.0.0.192/32",      // Oracle
    "169.254.42.42/32",    // Scaleway
    "fd00:42::42/128",     // Scaleway
    "169.254.0.23/32",     // Tencent
    "fe80::a9fe:a9fe/128", // the first one, as a link-local address
    "64:ff9b:1::/48",      // any of them behind a NAT64 with a local-use prefix
];

/// Why a destination is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denied {
    /// It matches `destinations.deny`.
    Rule,
    /// It is a cloud metadata service, which is never permitted.
    Metadata,
    /// It is one of larder's own listeners, which are never permitted.
    OwnPort,
    /// Its port is not in `destinations.ports`.
    Port,
    /// It is in a private range, and the request came through a listener that other hosts can reach.
    Private,
    /// Only the parent proxy could look its name up, which a listener that other hosts can reach permits for
    /// names in `destinations.allow` alone.
    Unresolved,
}

impl Denied {
    /// The sentence for the client.
    pub fn text(self) -> &'static str {
        match self {
            Self::Metadata => "larder never connects to the metadata service of a cloud",
            Self::OwnPort => "the destination is larder itself",
            Self::Unresolved => {
                "only the parent proxy can look up the destination's name; list it in destinations.allow"
            }
            Self::Rule | Self::Port | Self::Private => {
                "the destination is not allowed; see destinations in proxy.yaml"
            }
        }
    }

    /// The `reason` label of `larder_denied_total`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Rule => "destination-denied",
            Self::Metadata => "destination-metadata",
            Self::OwnPort => "destination-own-port",
            Self::Port => "destination-port",
            Self::Private => "destination-private",
            Self::Unresolved => "destination-unresolved",
        }
    }
}

/// The rules for destinations, and larder's own listeners.
#[derive(Debug)]
pub struct EgressPolicy {
    rules: Destinations,
    own_listeners: RwLock<Vec<SocketAddr>>,
}

impl EgressPolicy {
    /// A policy with these rules.
    pub fn new(rules: Destinations) -> Self {
        Self { rules, own_listeners: RwLock::new(Vec::new()) }
    }

    /// Adds addresses that larder itself listens on, as soon as they are known.
    pub fn add_own_listeners(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.own_listeners.write().extend(addresses);
    }

    /// Whether a request through `listener` may be sent to `host` at `address`.
    pub fn check(&self, host: &str, address: SocketAddr, listener: ListenerKind) -> Result<(), Denied> {
        let ip = embedded(address.ip());
        let port = address.port();
        if is_metadata(ip) || is_metadata_name(host) {
            return Err(Denied::Metadata);
        }
        if self.is_own(ip, port) {
            return Err(Denied::OwnPort);
        }
        if equivalent_addresses(address.ip())
            .iter()
            .any(|candidate| denies(&self.rules.deny, host, *candidate, port))
        {
            return Err(Denied::Rule);
        }
        if !self.port_is_allowed(port, listener) {
            return Err(Denied::Port);
        }
        let private = listener == ListenerKind::Reachable && !is_public(ip);
        if private && !allows_address(&self.rules.allow, effective_address(ip), port) {
            return Err(Denied::Private);
        }
        Ok(())
    }

    /// The part of [`EgressPolicy::check`] that needs no address, for a host that a parent proxy looks up.
    pub fn check_name(&self, host: &str, port: u16, listener: ListenerKind) -> Result<(), Denied> {
        let names =
            |rule: &DestinationRule| matches!(rule, DestinationRule::Host(p) if p.matches(host, port));
        if is_metadata_name(host) {
            return Err(Denied::Metadata);
        }
        if self.rules.deny.iter().any(names) {
            return Err(Denied::Rule);
        }
        if self.port_is_allowed(port, listener) { Ok(()) } else { Err(Denied::Port) }
    }

    /// Whether `destinations.allow` names the host.
    pub fn allows_name(&self, host: &str, port: u16) -> bool {
        let names =
            |rule: &DestinationRule| matches!(rule, DestinationRule::Host(p) if p.matches(host, port));
        self.rules.allow.iter().any(names)
    }

    /// Whether `destinations.deny` names an address or a network.
    pub fn denies_networks(&self) -> bool {
        self.rules.deny.iter().any(|rule| !matches!(rule, DestinationRule::Host(_)))
    }

    fn port_is_allowed(&self, port: u16, listener: ListenerKind) -> bool {
        match (&self.rules.ports, listener) {
            (Some(Ports::All), _) | (None, ListenerKind::Loopback) => true,
            (Some(Ports::Only(ports)), _) => ports.contains(&port),
            (None, ListenerKind::Reachable) => [80, 443].contains(&port),
        }
    }

    /// Whether a connection to this address reaches larder itself.
    pub fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        reaches_listener(&self.own_listeners.read(), ip, port)
    }
}

/// Whether a connection to this address and port reaches one of larder's `listeners`.
pub fn reaches_listener(listeners: &[SocketAddr], ip: IpAddr, port: u16) -> bool {
    listeners.iter().any(|own| {
        own.port() == port
            && (own.ip() == ip || ip.is_unspecified() || (own.ip().is_unspecified() && is_local_address(ip)))
    })
}

/// Whether an address belongs to this host: a socket can be bound to it. Checked only for larder's own ports.
fn is_local_address(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether a rule matches this name or address, in any notation of the rule.
fn denies(rules: &[DestinationRule], host: &str, ip: IpAddr, port: u16) -> bool {
    rules.iter().any(|rule| match rule {
        DestinationRule::Host(pattern) => pattern.matches(host, port),
        DestinationRule::Socket(addr, p) => *p == port && equivalent_addresses(*addr).contains(&ip),
        DestinationRule::Net(net) => covers(net, ip),
    })
}

/// Whether `net` matches `ip`: the unspecified network matches this host, an IPv4-mapped network matches
/// IPv4.
fn covers(net: &IpNet, ip: IpAddr) -> bool {
    let is_this_host = equivalent_addresses(net.addr()).contains(&ip) && net.addr().is_unspecified();
    net.contains(&ip) || is_this_host || unmapped(net).is_some_and(|net| net.contains(&ip))
}

/// The IPv4 network of an IPv4-mapped one.
fn unmapped(net: &IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = net else { return None };
    let length = v6.prefix_len().checked_sub(96)?;
    IpNet::new(v6.addr().to_ipv4_mapped()?.into(), length).ok()
}

/// All addresses that rules treat as equal to `ip`: itself, the embedded address, the effective address.
fn equivalent_addresses(ip: IpAddr) -> Vec<IpAddr> {
    let inner = embedded(ip);
    let mut addresses = vec![ip, inner, effective_address(inner)];
    if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    if inner == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        addresses.push(Ipv6Addr::LOCALHOST.into());
    }
    addresses
}

/// Whether a rule allows this private address. It must be allowed by address: a name proves nothing (DNS
/// rebinding).
fn allows_address(rules: &[DestinationRule], ip: IpAddr, port: u16) -> bool {
    rules.iter().any(|rule| match rule {
        DestinationRule::Net(net) => net.contains(&ip),
        DestinationRule::Socket(addr, p) => effective_address(*addr) == ip && *p == port,
        DestinationRule::Host(_) => false,
    })
}

fn is_metadata_name(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    METADATA_NAMES.iter().any(|name| host.eq_ignore_ascii_case(name))
}

fn is_metadata(ip: IpAddr) -> bool {
    static NETS: LazyLock<Vec<IpNet>> = LazyLock::new(|| parse_networks(&METADATA));
    NETS.iter().any(|net| net.contains(&ip))
}

/// The address that a connection to `ip` reaches: the unspecified address reaches this host.
fn effective_address(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other @ (IpAddr::V4(_) | IpAddr::V6(_)) => other,
    }
}

/// The IPv4 address embedded in an IPv6 address (mapped, NAT64, 6to4), otherwise `ip` itself.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else {
        return ip.to_canonical();
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        _ => IpAddr::V6(v6),
    }
}

/// Whether an address belongs to the public internet.
fn is_public(ip: IpAddr) -> bool {
    const PRIVATE: [&str; 16] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/127",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ];
    static NETS: LazyLock<Vec<IpNet>> = LazyLock::new(|| parse_networks(&PRIVATE));
    !NETS.iter().any(|net| net.contains(&ip))
}

fn parse_networks(networks: &[&str]) -> Vec<IpNet> {
    networks.iter().map(|net| net.parse().expect("the table contains valid networks")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> EgressPolicy {
        let rules = |list: &[&str]| list.iter().map(|n| DestinationRule::Net(n.parse().unwrap())).collect();
        EgressPolicy::new(Destinations { allow: rules(allow), deny: rules(deny), ports: None })
    }

    fn check(policy: &EgressPolicy, address: &str, listener: ListenerKind) -> Result<(), Denied> {
        policy.check("host.example", address.parse().unwrap(), listener)
    }

    #[test]
    fn a_loopback_listener_permits_private_addresses() {
        let policy = policy(&[], &[]);
        for address in ["10.0.0.1:80", "127.0.0.1:9001", "[fd00::1]:8443", "100.64.0.1:80", "0.0.0.0:1"] {
            assert_eq!(check(&policy, address, ListenerKind::Loopback), Ok(()), "{address}");
        }
    }

    #[test]
    fn fwd_04_private_ranges_are_denied_through_a_reachable_listener() {
        let policy = policy(&[], &[]);
        for address in [
            "10.0.0.1:80",
            "127.0.0.1:80",
            "[fd00::1]:80",
            "100.64.0.1:80",
            "0.0.0.0:80",
            "[::ffff:10.0.0.1]:80",
            "[64:ff9b::a00:1]:80",
            "[2002:a00:1::]:80",
            "[::1]:80",
            "169.254.1.1:80",
            "[fe80::1]:80",
            "192.168.0.1:443",
        ] {
            assert_eq!(check(&policy, address, ListenerKind::Reachable), Err(Denied::Private), "{address}");
        }
        assert_eq!(check(&policy, "93.184.216.34:443", ListenerKind::Reachable), Ok(()));
    }

    #[test]
    fn fwd_04_metadata_is_denied_even_if_allowed() {
        let policy = policy(&["0.0.0.0/0", "::/0"], &[]);
        for address in [
            "169.254.169.254:80",
            "[fd00:ec2::254]:80",
            "[fd00:ec2::23]:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[64:ff9b:1::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[fe80::a9fe:a9fe]:80",
            "[fd20:ce::254]:80",
            "168.63.129.16:80",
            "169.254.170.2:80",
            "169.254.170.23:80",
            "192.0.0.192:80",
            "169.254.42.42:80",
            "169.254.0.23:80",
            "100.100.100.200:80",
        ] {
            for listener in [ListenerKind::Loopback, ListenerKind::Reachable] {
                assert_eq!(check(&policy, address, listener), Err(Denied::Metadata), "{address}");
            }
        }
        let named = policy.check(
            "metadata.google.internal",
            "93.184.216.34:80".parse().unwrap(),
            ListenerKind::Loopback,
        );
        assert_eq!(named, Err(Denied::Metadata));
    }

    #[test]
    fn allow_permits_a_private_network_and_deny_takes_precedence() {
        let open = policy(&["10.0.0.0/8"], &["10.1.0.0/16"]);
        assert_eq!(check(&open, "10.0.0.1:80", ListenerKind::Reachable), Ok(()));
        assert_eq!(check(&open, "10.1.0.1:80", ListenerKind::Reachable), Err(Denied::Rule));
        assert_eq!(check(&open, "10.1.0.1:80", ListenerKind::Loopback), Err(Denied::Rule));
    }

    /// A connection to the unspecified address reaches this host.
    #[test]
    fn rules_for_loopback_also_apply_to_the_unspecified_address() {
        let closed = policy(&[], &["127.0.0.0/8", "::1/128"]);
        let open = policy(&["127.0.0.1/32", "::1/128"], &[]);
        for address in ["0.0.0.0:80", "0.1.2.3:80", "[::]:80", "[::ffff:0.0.0.0]:80"] {
            assert_eq!(check(&closed, address, ListenerKind::Loopback), Err(Denied::Rule), "{address}");
            assert_eq!(check(&open, address, ListenerKind::Reachable), Ok(()), "{address}");
        }
        let itself = policy(&[], &["0.0.0.0/8", "::/128"]);
        for address in ["0.0.0.0:80", "[::]:80"] {
            assert_eq!(check(&itself, address, ListenerKind::Loopback), Err(Denied::Rule), "{address}");
        }
        let by_name = EgressPolicy::new(Destinations {
            allow: vec![],
            deny: vec![DestinationRule::Socket("0.0.0.0".parse().unwrap(), 80)],
            ports: None,
        });
        assert_eq!(check(&by_name, "127.0.0.1:80", ListenerKind::Loopback), Err(Denied::Rule));
    }

    #[test]
    fn a_denied_address_is_denied_in_every_notation() {
        for (rule, addresses) in [
            ("::ffff:127.0.0.1/128", &["[::ffff:127.0.0.1]:80", "127.0.0.1:80"][..]),
            ("::ffff:127.0.0.0/104", &["[::ffff:127.0.0.1]:80", "127.9.9.9:80"]),
            ("64:ff9b::/96", &["[64:ff9b::5db8:d822]:80"]),
            ("2002::/16", &["[2002:5db8:d822::]:80"]),
            ("::/0", &["[64:ff9b::5db8:d822]:80", "[2606:4700::1]:80"]),
            ("0.0.0.0/32", &["127.0.0.1:80", "[::1]:80", "0.0.0.0:80"]),
            ("0.0.0.0/8", &["127.0.0.1:80", "0.1.2.3:80"]),
            ("::/128", &["[::1]:80", "127.0.0.1:80", "[::]:80"]),
            ("127.0.0.0/8", &["[::]:80", "0.0.0.0:80", "[::ffff:0.0.0.0]:80", "[64:ff9b::7f00:1]:80"]),
        ] {
            let policy = policy(&[], &[rule]);
            for address in addresses {
                let denied = check(&policy, address, ListenerKind::Loopback);
                assert_eq!(denied, Err(Denied::Rule), "{rule}: {address}");
            }
            let other = check(&policy, "93.184.216.34:80", ListenerKind::Loopback);
            assert_eq!(other, Ok(()), "{rule}");
        }
    }

    #[test]
    fn reachable_listeners_permit_only_ports_80_and_443_by_default() {
        let policy = policy(&[], &[]);
        assert_eq!(check(&policy, "93.184.216.34:22", ListenerKind::Reachable), Err(Denied::Port));
        assert_eq!(check(&policy, "93.184.216.34:22", ListenerKind::Loopback), Ok(()));
    }

    #[test]
    fn larders_own_ports_are_denied_under_every_address_of_this_host() {
        let policy = policy(&["0.0.0.0/0"], &[]);
        policy.add_own_listeners(["0.0.0.0:8080".parse().unwrap(), "127.0.0.1:9901".parse().unwrap()]);
        for address in ["127.0.0.1:8080", "127.9.9.9:8080", "0.0.0.0:8080", "0.0.0.0:9901", "127.0.0.1:9901"]
        {
            assert_eq!(check(&policy, address, ListenerKind::Loopback), Err(Denied::OwnPort), "{address}");
        }
        assert_eq!(check(&policy, "127.0.0.1:8081", ListenerKind::Loopback), Ok(()));
    }
}
