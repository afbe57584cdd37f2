//! The name constraints of a certificate authority: the hosts that it may issue certificates for.
//!
//! Owns: RFC 5280 §4.2.1.10 in both directions. Never touches: the configuration that requires them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rcgen::{CidrSubnet, NameConstraints};
use x509_parser::extensions::{GeneralName, GeneralSubtree};

use crate::config::name_constraint::{NameConstraint, address};

/// Name constraints. Without any, an authority may issue certificates for every host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaNameConstraints {
    permitted: Vec<NameConstraint>,
    excluded: Vec<NameConstraint>,
}

impl CaNameConstraints {
    /// Permits only the hosts in `constrain`; if it is empty, there are no constraints.
    pub(super) fn from_config(constrain: &[NameConstraint]) -> Self {
        if constrain.is_empty() {
            return Self::default();
        }
        // A permitted name does not restrict addresses, and vice versa.
        let (names, nets) = (every_name(), every_address());
        let excluded = if constrain.iter().all(NameConstraint::is_net) {
            vec![names]
        } else if constrain.iter().any(NameConstraint::is_net) {
            Vec::new()
        } else {
            nets.to_vec()
        };
        Self::sorted(constrain.to_vec(), excluded)
    }

    /// Reads the constraints of a certificate. Constraints of other kinds than hosts are ignored.
    pub(super) fn from_certificate(extension: &x509_parser::extensions::NameConstraints<'_>) -> Self {
        let read = |trees: &Option<Vec<GeneralSubtree<'_>>>| {
            trees.iter().flatten().filter_map(|tree| constraint(&tree.base)).collect()
        };
        Self::sorted(read(&extension.permitted_subtrees), read(&extension.excluded_subtrees))
    }

    fn sorted(mut permitted: Vec<NameConstraint>, mut excluded: Vec<NameConstraint>) -> Self {
        for list in [&mut permitted, &mut excluded] {
            list.sort();
            list.dedup();
        }
        Self { permitted, excluded }
    }

    /// Converts the constraints for a new certificate.
    pub(super) fn to_certificate(&self) -> Option<NameConstraints> {
        let trees = |list: &[NameConstraint]| list.iter().map(subtree).collect();
        (*self != Self::default()).then(|| NameConstraints {
            permitted_subtrees: trees(&self.permitted),
            excluded_subtrees: trees(&self.excluded),
        })
    }

    /// The permitted subtrees; empty: no restriction.
    pub fn permitted(&self) -> &[NameConstraint] {
        &self.permitted
    }

    /// Whether a certificate for this host, written as in a target, is allowed.
    pub fn allows(&self, host: &str) -> bool {
        let is_address = address(host).is_some();
        self.decide(is_address, |one| one.admits(host))
    }

    /// Whether certificates for all hosts within `hosts` are allowed.
    pub(super) fn allows_all(&self, hosts: &NameConstraint) -> bool {
        self.decide(hosts.is_net(), |one| one.covers(hosts))
    }

    fn decide(&self, nets: bool, lies_within: impl Fn(&NameConstraint) -> bool) -> bool {
        let mut permitted = self.permitted.iter().filter(|one| one.is_net() == nets).peekable();
        let permits = permitted.peek().is_none() || permitted.any(&lies_within);
        permits && !self.excluded.iter().any(lies_within)
    }
}

/// Lists the hosts that certificates may be issued for.
impl fmt::Display for CaNameConstraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |list: &[NameConstraint]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let all = [vec![every_name()], every_address().to_vec()].concat();
        let but: Vec<_> = self.excluded.iter().filter(|one| !all.contains(one)).cloned().collect();
        match (self.permitted.as_slice(), but.as_slice()) {
            ([], []) => f.write_str("any host"),
            (only, []) => f.write_str(&list(only)),
            ([], but) => write!(f, "any host but {}", list(but)),
            (only, but) => write!(f, "{}, but not {}", list(only), list(but)),
        }
    }
}

fn every_name() -> NameConstraint {
    NameConstraint::Below("".into())
}

fn every_address() -> [NameConstraint; 2] {
    let every = |address: IpAddr| NameConstraint::Net(IpNet::new_assert(address, 0));
    [every(Ipv4Addr::UNSPECIFIED.into()), every(Ipv6Addr::UNSPECIFIED.into())]
}

fn subtree(constraint: &NameConstraint) -> rcgen::GeneralSubtree {
    match constraint {
        NameConstraint::Below(name) => rcgen::GeneralSubtree::DnsName(name.to_string()),
        NameConstraint::Net(net) => {
            rcgen::GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(net.network(), net.prefix_len()))
        }
    }
}

fn constraint(name: &GeneralName<'_>) -> Option<NameConstraint> {
    if let GeneralName::DNSName(name) = name {
        return Some(NameConstraint::Below(name.trim_matches('.').to_ascii_lowercase().into()));
    }
    let GeneralName::IPAddress(bytes) = name else { return None };
    let (network, mask): (IpAddr, IpAddr) = if let Ok(bytes) = <[u8; 8]>::try_from(*bytes) {
        let [a, b, c, d, mask @ ..] = bytes;
        ([a, b, c, d].into(), mask.into())
    } else {
        let (network, mask) = bytes.split_at_checked(16)?;
        (<[u8; 16]>::try_from(network).ok()?.into(), <[u8; 16]>::try_from(mask).ok()?.into())
    };
    IpNet::with_netmask(network, mask).ok().map(NameConstraint::Net)
}
