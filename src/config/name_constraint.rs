//! X.509 name constraints of a certificate authority: a name with all names below it, or a network.
//!
//! Owns: their syntax, and which hosts a constraint includes (RFC 5280 §4.2.1.10).
//! Never touches: certificates (`frontend::ca`).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::diagnostics::ValueError;
use crate::route::pattern::HostPattern;
use crate::route::pattern::host::Index;

/// A member of `tls.ca.constrain`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameConstraint {
    /// A name and all names below it; lower-case; empty: every name.
    Below(Box<str>),
    /// A network.
    Net(IpNet),
}

impl NameConstraint {
    /// Parses a constraint of the configuration.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let wanted = "a name, an address or a network";
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net.trunc()));
        }
        if let Some(address) = address(text) {
            return Ok(Self::Net(address.into()));
        }
        if text.split_once('/').is_some_and(|(before, _)| address(before).is_some()) {
            let fix = "the number after the slash is 0 to 32 for IPv4, 0 to 128 for IPv6";
            return Err(ValueError::new(wanted, "is not a network", fix));
        }
        if let Some(name) = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')) {
            let fix = format!("write `{name}`: it includes all names below it");
            return Err(ValueError::new(wanted, "is a pattern", fix));
        }
        let pattern =
            HostPattern::parse(text).map_err(|e| ValueError::new(wanted, e.to_string(), e.fix()))?;
        let Some(name) = pattern.exact() else {
            let fix = "leave `constrain` out to allow any host";
            return Err(ValueError::new(wanted, "is not a constraint", fix));
        };
        if pattern.port().is_some() {
            let fix = "leave the port out: certificates name hosts only";
            return Err(ValueError::new(wanted, "has a port", fix));
        }
        Ok(Self::Below(name.trim_end_matches('.').into()))
    }

    /// The narrowest constraint that includes all hosts of `pattern`; `None`: the pattern matches every host.
    pub fn for_pattern(pattern: &HostPattern) -> Option<Self> {
        match pattern.index() {
            Index::Any => None,
            Index::Below(end) => Some(Self::Below(end.trim_matches('.').into())),
            Index::Exact(host) => Some(address(host).map_or_else(
                || Self::Below(host.trim_end_matches('.').into()),
                |address| Self::Net(address.into()),
            )),
        }
    }

    /// Whether the constraint includes `host`, written as in a target.
    pub fn admits(&self, host: &str) -> bool {
        match (self, address(host)) {
            (Self::Net(net), Some(address)) => net.contains(&address),
            (Self::Below(name), None) => is_below(host.trim_end_matches('.'), name),
            (Self::Net(_), None) | (Self::Below(_), Some(_)) => false,
        }
    }

    /// Whether the constraint includes all of `other`.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Net(ours), Self::Net(theirs)) => ours.contains(theirs),
            (Self::Below(ours), Self::Below(theirs)) => is_below(theirs, ours),
            (Self::Net(_), Self::Below(_)) | (Self::Below(_), Self::Net(_)) => false,
        }
    }

    /// Whether it constrains addresses.
    pub fn is_net(&self) -> bool {
        matches!(self, Self::Net(_))
    }
}

/// The narrowest constraints that together include all of `hosts`, sorted; `None`: one of them is every host.
pub fn for_patterns<'p>(hosts: impl IntoIterator<Item = &'p HostPattern>) -> Option<Vec<NameConstraint>> {
    let mut all = hosts.into_iter().map(NameConstraint::for_pattern).collect::<Option<Vec<_>>>()?;
    all.sort();
    all.dedup();
    let needed = |one: &NameConstraint| !all.iter().any(|other| other != one && other.covers(one));
    Some(all.iter().filter(|one| needed(one)).cloned().collect())
}

/// Parses an address, with or without brackets.
pub fn address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

fn is_below(host: &str, name: &str) -> bool {
    if name.is_empty() {
        return true;
    }
    let Some(before) = host.len().checked_sub(name.len()) else { return false };
    let ends = host.get(before..).is_some_and(|end| end.eq_ignore_ascii_case(name));
    ends && (before == 0 || host.as_bytes().get(before - 1) == Some(&b'.'))
}

/// The form used in the configuration.
impl fmt::Display for NameConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(name) => f.write_str(name),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> NameConstraint {
        NameConstraint::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn a_name_includes_all_names_below_it() {
        let table = [
            ("example.com", "example.com", true),
            ("example.com", "API.Example.com", true),
            ("example.com", "a.b.example.com.", true),
            ("example.com", "badexample.com", false),
            ("example.com", "com", false),
            ("example.com", "10.0.0.1", false),
            ("internal", "a.internal", true),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.0.0.0/8", "a.example", false),
            ("::1", "[::1]", true),
            ("[::1]", "::1", true),
            ("192.0.2.1", "192.0.2.1", true),
        ];
        for (constraint, host, within) in table {
            assert_eq!(read(constraint).admits(host), within, "{constraint} {host}");
        }
    }

    #[test]
    fn a_constraint_prints_as_it_was_written() {
        for text in ["example.com", "10.0.0.0/8", "192.0.2.1", "::1", "fd00::/8"] {
            assert_eq!(read(text).to_string(), text);
        }
        assert_eq!(read("Example.COM.").to_string(), "example.com");
        assert_eq!(read("10.1.2.3/8").to_string(), "10.0.0.0/8");
    }

    #[test]
    fn an_invalid_constraint_is_reported_with_its_fix() {
        for (text, fix) in [
            ("*.example.com", "write `example.com`"),
            (".example.com", "write `example.com`"),
            ("*", "leave `constrain` out"),
            ("example.com:443", "leave the port out"),
            ("https://example.com", "only the host"),
            ("bücher.example", "xn--"),
            ("10.0.0.0/33", "0 to 32"),
            ("", "write a host"),
        ] {
            let error = NameConstraint::parse(text).expect_err(text);
            assert!(error.fix.contains(fix), "{text}: {error:?}");
        }
    }

    #[test]
    fn hosts_are_covered_by_the_narrowest_constraints() {
        let covering = |hosts: &[&str]| {
            let patterns: Vec<_> = hosts.iter().map(|h| HostPattern::parse(h).unwrap()).collect();
            let shown = |all: Vec<NameConstraint>| all.iter().map(ToString::to_string).collect();
            for_patterns(&patterns).map(shown)
        };
        let some = |all: &[&str]| Some(all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(covering(&["b.example:8443", "a.b.example", "B.example"]), some(&["b.example"]));
        assert_eq!(covering(&["*.b.example", "127.0.0.1"]), some(&["b.example", "127.0.0.1"]));
        assert_eq!(covering(&["a.example", "*"]), None);
        assert_eq!(covering(&[]), some(&[]));
    }
}
