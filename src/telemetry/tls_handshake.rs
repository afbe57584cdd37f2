//! Handshakes with clients whose TLS larder intercepts: how they ended, and which hosts' clients do not
//! accept it.
//!
//! Owns: the words for it, a bounded count by host, when a line is due. Never touches: connections.

use std::collections::HashMap;

use rustls::AlertDescription;

/// Hosts that are counted on their own; what happens at others is counted together.
const HOSTS: usize = 1000;

/// Under which name other hosts are counted.
const OTHERS: &str = "(others)";

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// The client speaks inside it.
    Done,
    /// The client does not accept larder's certificate, or nothing that larder offers.
    Refused(AlertDescription),
    /// The client closed without a word once it had seen larder's certificate.
    Closed,
    /// The client took too long.
    Slow,
    /// What the client sent is no TLS that larder speaks.
    Malformed,
    /// There is no certificate for such a host.
    Unvouched,
}

impl HandshakeOutcome {
    /// The label in metrics and logs.
    pub fn token(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Refused(_) => "refused",
            Self::Closed => "closed",
            Self::Slow => "timeout",
            Self::Malformed => "malformed",
            Self::Unvouched => "no-certificate",
        }
    }

    /// Whether the client may have its own idea of whom to trust: closing without a word is how some
    /// say so.
    pub fn is_distrust(self) -> bool {
        match self {
            Self::Refused(alert) => matches!(
                alert,
                AlertDescription::UnknownCA
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::AccessDenied
            ),
            Self::Closed => true,
            Self::Done | Self::Slow | Self::Malformed | Self::Unvouched => false,
        }
    }
}

/// How often something happened to each host: its clients did not accept larder, it was tunnelled.
#[derive(Debug, Default)]
pub(super) struct HostCounter {
    by_host: HashMap<Box<str>, u64>,
}

impl HostCounter {
    /// Counts one more; the count if a line is due: at the first, and whenever it has doubled.
    pub(super) fn count(&mut self, host: &str) -> Option<u64> {
        let known = self.by_host.len() < HOSTS || self.by_host.contains_key(host);
        let count = self.by_host.entry(if known { host } else { OTHERS }.into()).or_default();
        *count += 1;
        count.is_power_of_two().then_some(*count)
    }

    /// Each host with its count, most first.
    pub(super) fn hosts(&self) -> Vec<(String, u64)> {
        let mut hosts: Vec<_> =
            self.by_host.iter().map(|(host, count)| (host.to_string(), *count)).collect();
        hosts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_at_the_first_and_at_each_doubling() {
        let mut distrust = HostCounter::default();
        let due: Vec<_> = (0..9).filter_map(|_| distrust.count("a")).collect();
        assert_eq!(due, [1, 2, 4, 8]);
        assert_eq!(distrust.count("b"), Some(1));
        assert_eq!(distrust.hosts(), [("a".to_owned(), 9), ("b".to_owned(), 1)]);
    }

    #[test]
    fn hosts_beyond_the_bound_are_counted_together() {
        let mut distrust = HostCounter::default();
        for host in 0..HOSTS + 50 {
            distrust.count(&format!("h{host}"));
        }
        assert_eq!(distrust.by_host.len(), HOSTS + 1);
        assert_eq!(distrust.hosts()[0], (OTHERS.to_owned(), 50));
    }
}
