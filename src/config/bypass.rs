//! The syntax of `NO_PROXY`: hosts that are reached without a proxy.
//!
//! Owns: parsing the variable, and which hosts an entry matches. Never touches: which proxy is bypassed: larder,
//! for a command (`exec_env`), or larder's own parent proxy (`parent_proxy`).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::route::pattern::HostPattern;
use crate::route::pattern::host::Index;

/// The entries of a `NO_PROXY` variable. An entry that no client would understand is left out.
pub fn entries(variable: &str) -> impl Iterator<Item = NoProxyEntry> + '_ {
    let texts = variable.split([',', ' ']).map(str::trim).filter(|text| !text.is_empty());
    texts.filter_map(NoProxyEntry::parse)
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoProxyEntry {
    /// The entry as it was written.
    pub text: String,
    /// The hosts that the entry matches.
    pub bypass: Bypass,
    /// The port that the entry is limited to.
    pub port: Option<u16>,
}

/// The hosts that an entry matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bypass {
    /// `*`
    All,
    /// `example.com`: the name and its subdomains, as most clients interpret it.
    Name(String),
    /// `.example.com`: only its subdomains; stored with the leading dot.
    Below(String),
    /// An address or a network.
    Net(IpNet),
}

impl NoProxyEntry {
    /// `None` if no client would understand the entry.
    fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let (host, port) = split_port(&lower);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let net = bare.parse::<IpNet>().ok().or_else(|| bare.parse().ok().map(IpAddr::into));
        let bypass = match net {
            Some(net) => Bypass::Net(net),
            None if host == "*" => Bypass::All,
            None => {
                let name = host.strip_prefix('*').unwrap_or(host);
                let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                if name.trim_matches('.').is_empty() || !name.chars().all(known) {
                    return None;
                }
                if name.starts_with('.') {
                    Bypass::Below(name.to_owned())
                } else {
                    Bypass::Name(name.to_owned())
                }
            }
        };
        Some(Self { text: text.to_owned(), bypass, port })
    }

    /// Whether requests to `host` (in its URL form) at `port` are made without the proxy.
    pub(crate) fn bypasses(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        self.port.is_none_or(|own| own == port) && self.bypass.matches(&host)
    }

    /// Whether all hosts that `host` matches bypass larder.
    pub(crate) fn covers(&self, host: &HostPattern) -> bool {
        let port_matches = self.port.is_none() || self.port == host.port();
        port_matches
            && match host.index() {
                Index::Any => self.bypass == Bypass::All,
                Index::Exact(name) => self.bypass.matches(name),
                Index::Below(end) => match &self.bypass {
                    Bypass::All => true,
                    Bypass::Name(name) => end.strip_prefix('.').is_some_and(|base| is_or_below(base, name)),
                    Bypass::Below(own) => end.ends_with(own.as_str()),
                    Bypass::Net(_) => false,
                },
            }
    }
}

impl Bypass {
    /// Whether `host`, in lower case, matches.
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::Name(name) => is_or_below(host, name),
            Self::Below(end) => host.ends_with(end.as_str()),
            Self::Net(net) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                bare.parse::<IpAddr>().is_ok_and(|address| net.contains(&address))
            }
        }
    }
}

fn is_or_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Splits `host:8080`. An IPv6 address without brackets has no port.
fn split_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            port.parse().map_or((text, None), |port| (host, Some(port)))
        }
        _ => (text, None),
    }
}
