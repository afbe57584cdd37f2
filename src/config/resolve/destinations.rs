//! `destinations` and `resolve`: allowed destinations, and host names with fixed addresses.
//!
//! Owns: the syntax of destination rules.
//! Never touches: the decision about an address (`upstream::connect::egress_policy`).

use std::net::{IpAddr, SocketAddr};

use crate::config::diagnostics::{ValueError, WarningKind};
use crate::config::file::Value;
use crate::config::reader::{Reader, Section, Spanned};
use crate::config::resolve::listen::net;
use crate::config::resolve::unreachable;
use crate::config::{DestinationRule, Destinations, Ports, ResolveRule};
use crate::route::pattern::HostPattern;

/// `destinations`.
pub(super) fn read(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Destinations {
    let Some(mut section) = top.section(reader, "destinations") else {
        return Destinations::default();
    };
    let allow = section.values(reader, "allow", rule);
    let deny = section.values(reader, "deny", rule);
    warn_trailing_dots(&mut section, "allow", reader);
    warn_trailing_dots(&mut section, "deny", reader);
    let ports = ports(&mut section, reader);
    section.finish(reader);
    Destinations { allow, deny, ports }
}

/// `resolve`: `host: "ip:port"` or `host:port: "ip:port"`.
pub(super) fn resolve(
    top: &mut Section<'_>,
    destinations: &Destinations,
    reader: &mut Reader<'_>,
) -> Vec<ResolveRule> {
    let Some(section) = top.section(reader, "resolve") else { return Vec::new() };
    let mut names: Vec<(String, Option<u16>)> = Vec::new();
    let mut rules = Vec::new();
    for entry in section.entries() {
        let path = section.key_path(&entry.key);
        let address = reader.scalar(&entry.value, &path, address);
        let Some((host, port)) = reader.name(entry, &path, one_name) else { continue };
        if names.contains(&(host.clone(), port)) {
            let what = format!("`{}` is defined a second time", entry.key);
            reader.problem(entry.place, &path, what, "keep one of the two; case does not matter");
        }
        names.push((host.clone(), port));
        if let Some(at) = &address
            && let Some(reason) = unreachable::for_address(destinations, at.value.ip(), Some(at.value.port()))
        {
            reader.warn(at, WarningKind::Unreachable, reason);
        }
        rules.extend(address.map(|address| ResolveRule { host, port, address: address.value }));
    }
    rules
}

fn one_name(text: &str) -> Result<(String, Option<u16>), ValueError> {
    let pattern = host_pattern(text)?;
    let Some(host) = pattern.exact() else {
        let what = "is a pattern, but only a single name can have an address";
        return Err(ValueError::new("one host name", what, "write the whole name"));
    };
    Ok((host.to_owned(), pattern.port()))
}

fn ports(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Ports> {
    let node = section.get("ports")?;
    if matches!(&node.value, Value::Scalar(text, _) if text == "all") {
        return Some(Ports::All);
    }
    Some(Ports::Only(section.values(reader, "ports", |text| {
        let port = text.parse::<u16>().ok().filter(|port| *port != 0);
        port.ok_or_else(|| ValueError::is_not("`all`, or ports from 1 to 65535"))
    })))
}

/// Parses a network, an address, an address with a port, or a host pattern, in this order.
fn rule(text: &str) -> Result<DestinationRule, ValueError> {
    if let Ok(net) = net(text) {
        return Ok(DestinationRule::Net(net));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(DestinationRule::Socket(socket.ip(), socket.port()));
    }
    if let Some((address, _)) = text.split_once('/')
        && address.parse::<IpAddr>().is_ok()
    {
        let wanted = "a network, an address or a host pattern";
        let fix = "the number after the slash is 0 to 32 for IPv4, 0 to 128 for IPv6";
        return Err(ValueError::new(wanted, "is not a network", fix));
    }
    host_pattern(text).map(DestinationRule::Host)
}

fn address(text: &str) -> Result<SocketAddr, ValueError> {
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    address.ok_or_else(|| ValueError::is_not("an address with a port, such as `\"127.0.0.1:9001\"`"))
}

/// Warns about host patterns under `key` with a trailing dot. A name with and without it is the same host, so
/// the dot is ignored, in targets too.
pub(super) fn warn_trailing_dots(section: &mut Section<'_>, key: &'static str, reader: &mut Reader<'_>) {
    let Some(node) = section.get(key) else { return };
    let path = section.key_path(key);
    let nodes = match &node.value {
        Value::List(nodes) => nodes.as_slice(),
        Value::Scalar(..) | Value::Map(_) | Value::Null => std::slice::from_ref(node),
    };
    for node in nodes {
        let Value::Scalar(text, _) = &node.value else { continue };
        if ends_in_dot(text) {
            let at = Spanned { value: (), place: node.place, path: path.clone() };
            let text = format!("the trailing dot of `{text}` is ignored: hosts are matched without it");
            reader.warn(&at, WarningKind::TrailingDot, text);
        }
    }
}

/// Whether the text has the form `host.`, `host.:port` or `https://host./`.
fn ends_in_dot(text: &str) -> bool {
    let text = text.trim_end_matches('/');
    let (name, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    (if is_port { name } else { text }).ends_with('.')
}

/// Parses a host pattern, for all keys that take one.
pub(super) fn host_pattern(text: &str) -> Result<HostPattern, ValueError> {
    HostPattern::parse(text).map_err(|e| ValueError::new("a host pattern", e.to_string(), e.fix()))
}
