//! Host patterns: `api.example`, `*.example`, `*`, each with an optional `:port`.
//!
//! Owns: their syntax, and which hosts and ports they match.
//! Never touches: name lookups; addresses are compared as text, as in a target.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A pattern for hosts and ports. Case and a trailing dot are ignored; targets are normalized likewise.
///
/// ```
/// use larder::route::pattern::HostPattern;
///
/// let hosts = HostPattern::parse("*.example:443").unwrap();
/// assert!(hosts.matches("eu.api.example", 443));
/// assert!(!hosts.matches("api.example", 80) && !hosts.matches("example", 443));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    name: Name,
    port: Option<u16>,
}

/// The name part. Lower-case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    /// `*`
    Any,
    /// `*.example`, stored as `.example`: every name with this suffix, at any depth.
    Below(String),
    /// `api.example`, `127.0.0.1`, `[::1]`
    Exact(String),
}

/// The key under which a table indexes the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Index<'a> {
    /// Matches every host.
    Any,
    /// A suffix of the host that begins with a dot.
    Below(&'a str),
    /// The whole host.
    Exact(&'a str),
}

/// Why a host pattern was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Empty, or only a port.
    #[error("names no host")]
    Empty,
    /// `http://api.example`
    #[error("is a URL, but only a host is expected here")]
    Url,
    /// `api.example/path`
    #[error("has a path, but only a host is expected here")]
    Path,
    /// `*api.example`, `api.*`
    #[error("has a `*` in an invalid position")]
    Star,
    /// Not an LDH name.
    #[error("has a character that is not valid in a host name")]
    Character,
    /// `bücher.example`
    #[error("is not written in ASCII")]
    NotAscii,
    /// `10.0.0`, `300.1.1.1`
    #[error("is neither an address nor a host name")]
    Number,
    /// `::1` without brackets.
    #[error("is an IPv6 address without brackets")]
    Brackets,
    /// Port 0, above 65535, or not a number.
    #[error("has a port that is not between 1 and 65535")]
    Port,
}

impl HostError {
    /// A suggested fix.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Empty | Self::Character => "write a host such as `api.example` or `*.example`",
            Self::Url | Self::Path => "leave only the host, such as `api.example`",
            Self::Star => "a `*` replaces the whole host or whole leading labels, as in `*.example`",
            Self::NotAscii => "write the name in its ASCII form (`xn--…`), as it is sent",
            Self::Number => "write all four numbers of an IPv4 address, or a host name",
            Self::Brackets => "write `[::1]`, or `[::1]:8080` with a port",
            Self::Port => "write a port from 1 to 65535 after the colon, or none for every port",
        }
    }
}

impl HostPattern {
    /// Parses a pattern of the configuration.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.contains("://") {
            return Err(HostError::Url);
        }
        if text.contains(['/', '?', '#', '@']) {
            return Err(HostError::Path);
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(HostError::Brackets);
        }
        let (name, port) = split_port(text)?;
        let bare = name.strip_suffix('.').filter(|bare| !matches!(*bare, "" | "*")).unwrap_or(name);
        Ok(Self { name: Name::parse(&bare.to_ascii_lowercase())?, port })
    }

    /// Whether it matches `host` (as in a target: IPv6 in brackets) and `port`.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        self.port.is_none_or(|ours| ours == port) && self.name.matches(host)
    }

    /// Whether `self` matches everything that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        let port = self.port.is_none() || self.port == other.port;
        port && match (&self.name, &other.name) {
            (Name::Any, _) => true,
            (Name::Below(ours), Name::Below(theirs)) => theirs.ends_with(ours.as_str()),
            (Name::Below(_), Name::Exact(host)) => self.name.matches(host),
            (Name::Exact(ours), Name::Exact(theirs)) => ours == theirs,
            (Name::Below(_), Name::Any) | (Name::Exact(_), Name::Any | Name::Below(_)) => false,
        }
    }

    /// The port, if the pattern has one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it matches every host.
    pub fn is_any(&self) -> bool {
        self.name == Name::Any
    }

    /// The host, if the pattern is not a wildcard.
    pub fn exact(&self) -> Option<&str> {
        match &self.name {
            Name::Exact(host) => Some(host),
            Name::Any | Name::Below(_) => None,
        }
    }

    pub(crate) fn index(&self) -> Index<'_> {
        match &self.name {
            Name::Any => Index::Any,
            Name::Below(end) => Index::Below(end),
            Name::Exact(host) => Index::Exact(host),
        }
    }
}

/// The form used in the configuration.
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Any => f.write_str("*")?,
            Name::Below(end) => write!(f, "*{end}")?,
            Name::Exact(host) => f.write_str(host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Name {
    fn parse(name: &str) -> Result<Self, HostError> {
        if name == "*" {
            return Ok(Self::Any);
        }
        if let Some(end) = name.strip_prefix('*') {
            let host = end.strip_prefix('.').ok_or(HostError::Star)?;
            check_name(host)?;
            return Ok(Self::Below(end.to_owned()));
        }
        if let Some(address) = name.strip_prefix('[') {
            let address = address.strip_suffix(']').ok_or(HostError::Brackets)?;
            // Normalized, so that the pattern can equal the host of a target.
            let address: Ipv6Addr = address.parse().map_err(|_| HostError::Number)?;
            return Ok(Self::Exact(format!("[{address}]")));
        }
        check_name(name)?;
        Ok(Self::Exact(name.to_owned()))
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Below(end) => {
                let at = host.len().checked_sub(end.len()).filter(|at| *at > 0);
                at.and_then(|at| host.get(at..)).is_some_and(|h| h.eq_ignore_ascii_case(end))
            }
            Self::Exact(name) => host.eq_ignore_ascii_case(name),
        }
    }
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), HostError> {
    let colon = match (text.rfind(':'), text.rfind(']')) {
        (Some(colon), Some(bracket)) if colon < bracket => None,
        (colon, _) => colon,
    };
    let Some((name, port)) = colon.and_then(|at| text.split_at_checked(at)) else {
        return Ok((text, None));
    };
    let digits = port.strip_prefix(':').filter(|p| p.bytes().all(|b| b.is_ascii_digit()));
    let port = digits.and_then(|digits| digits.parse().ok()).filter(|port| *port != 0);
    Ok((name, Some(port.ok_or(HostError::Port)?)))
}

fn check_name(name: &str) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.contains('*') {
        return Err(HostError::Star);
    }
    if !name.is_ascii() {
        return Err(HostError::NotAscii);
    }
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    if !plain || name.len() > 254 || labels.clone().any(|l| l.is_empty() || l.len() > 63) {
        return Err(HostError::Character);
    }
    // A host name never ends in a number (RFC 1123 §2.1); such a text is an incomplete address.
    let ends_in_number = labels.next_back().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if ends_in_number && name.parse::<Ipv4Addr>().is_err() {
        return Err(HostError::Number);
    }
    Ok(())
}
