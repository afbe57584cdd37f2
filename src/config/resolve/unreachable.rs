//! Destinations that the file names but that no call can reach; they cause a warning, because each call to
//! them fails.
//!
//! Owns: finding them from the file alone.
//! Never touches: the decision about an address that is dialled (`upstream::connect::egress_policy`).

use std::net::IpAddr;

use crate::config::{DestinationRule, Destinations, Ports};
use crate::route::pattern::HostPattern;

/// Why no call can reach an upstream's host; `port`: the port of its calls if it is always the same.
pub(super) fn for_host(destinations: &Destinations, host: &HostPattern, port: Option<u16>) -> Option<String> {
    let name = host.exact();
    if let Some(ip) = name.and_then(literal) {
        return for_address(destinations, ip, port);
    }
    let denies = |rule: &&DestinationRule| match rule {
        DestinationRule::Host(denied) => match (name, port) {
            (Some(name), Some(port)) => denied.matches(name, port),
            _ => denied.covers(host),
        },
        DestinationRule::Net(_) | DestinationRule::Socket(..) => false,
    };
    destinations.deny.iter().find(denies).map(denied).or_else(|| closed(destinations, port))
}

/// The same for an address.
pub(super) fn for_address(destinations: &Destinations, ip: IpAddr, port: Option<u16>) -> Option<String> {
    if ip.is_unspecified() {
        let own = if ip.is_ipv4() { "127.0.0.1" } else { "[::1]" };
        return Some(format!(
            "`{ip}` is an address to listen on, not the address of a host: write `{own}` for this host"
        ));
    }
    let text = if ip.is_ipv4() { ip.to_string() } else { format!("[{ip}]") };
    let denies = |rule: &&DestinationRule| match rule {
        DestinationRule::Net(net) => net.contains(&ip),
        DestinationRule::Socket(denied, at) => *denied == ip && port == Some(*at),
        DestinationRule::Host(pattern) => {
            pattern.port().is_none_or(|at| port == Some(at))
                && pattern.matches(&text, port.or(pattern.port()).unwrap_or_default())
        }
    };
    destinations.deny.iter().find(denies).map(denied).or_else(|| closed(destinations, port))
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn denied(rule: &DestinationRule) -> String {
    let rule = match rule {
        DestinationRule::Net(net) => net.to_string(),
        DestinationRule::Socket(ip, port) => std::net::SocketAddr::new(*ip, *port).to_string(),
        DestinationRule::Host(pattern) => pattern.to_string(),
    };
    format!("no call can reach it because `destinations.deny` contains `{rule}`: remove one of the two")
}

fn closed(destinations: &Destinations, port: Option<u16>) -> Option<String> {
    let (Some(Ports::Only(ports)), Some(port)) = (&destinations.ports, port) else { return None };
    (!ports.contains(&port)).then(|| {
        format!("no call can reach it because port {port} is not in `destinations.ports`: add it there")
    })
}
