//! TLS handshakes with clients whose TLS larder intercepts: their outcomes, and the hosts whose clients do
//! not accept larder's certificate.
//!
//! Owns: the tokens of the outcomes, a bounded count per host, the decision when to log. Never touches:
//! connections.

use std::collections::HashMap;

use rustls::AlertDescription;

/// Maximum number of hosts with their own count; further hosts share one.
const MAX_HOSTS: usize = 1000;

/// The name of the shared count.
const OTHERS: &str = "(others)";

/// The outcome of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// The handshake is complete and the client can send requests.
    Done,
    /// The client sent an alert: it rejects larder's certificate or all offered parameters.
    Refused(AlertDescription),
    /// The client closed the connection without an alert after it received larder's certificate.
    Closed,
    /// The handshake timed out.
    TimedOut,
    /// The client sent no valid TLS, or a version that larder does not support.
    Malformed,
    /// Larder cannot issue a certificate for the host.
    NoCertificate,
}

impl HandshakeOutcome {
    /// The label in metrics and logs.
    pub fn token(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Refused(_) => "refused",
            Self::Closed => "closed",
            Self::TimedOut => "timeout",
            Self::Malformed => "malformed",
            Self::NoCertificate => "no-certificate",
        }
    }

    /// Whether the client may not trust larder's certificate authority. Some clients close the connection
    /// without an alert in this case.
    pub fn indicates_distrust(self) -> bool {
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
            Self::Done | Self::TimedOut | Self::Malformed | Self::NoCertificate => false,
        }
    }
}

/// The advice for the operator if a client does not accept larder's certificate. `serves_command`: the client
/// was started by `larder exec`, which told it of the certificate.
pub(super) fn advice(outcome: HandshakeOutcome, serves_command: bool) -> String {
    let advice = if serves_command {
        "it has roots of its own (npm's cafile, a bundle that a library ships, a browser): see \
         docs/clients.md, use a mount, or list the host in tls.passthrough"
    } else {
        "start it with `larder exec`, give it the certificate authority of `larder ca bundle`, or list the \
         host in tls.passthrough"
    };
    let depends_on_time = matches!(
        outcome,
        HandshakeOutcome::Refused(AlertDescription::CertificateExpired | AlertDescription::BadCertificate)
    );
    let clock = if depends_on_time { "; or one of the two clocks is wrong" } else { "" };
    format!("{advice}{clock}")
}

/// Counts an event per host: a client did not accept larder's certificate, or a connection was tunnelled.
#[derive(Debug, Default)]
pub(super) struct HostCounter {
    by_host: HashMap<Box<str>, u64>,
}

impl HostCounter {
    /// Increments the count of a host. Returns it if it should be logged: for the first event and whenever
    /// the count has doubled.
    pub(super) fn count(&mut self, host: &str) -> Option<u64> {
        let has_own_count = self.by_host.len() < MAX_HOSTS || self.by_host.contains_key(host);
        let count = self.by_host.entry(if has_own_count { host } else { OTHERS }.into()).or_default();
        *count += 1;
        count.is_power_of_two().then_some(*count)
    }

    /// All hosts with their counts, the highest count first.
    pub(super) fn hosts(&self) -> Vec<(String, u64)> {
        let mut hosts: Vec<_> = self.by_host.iter().map(|(host, count)| (host.to_string(), *count)).collect();
        hosts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_for_a_client_of_exec_is_another_one() {
        let refused = HandshakeOutcome::Refused;
        let outside = advice(refused(AlertDescription::UnknownCA), false);
        assert!(outside.contains("`larder exec`") && !outside.contains("clock"), "{outside}");
        let inside = advice(refused(AlertDescription::BadCertificate), true);
        assert!(inside.contains("docs/clients.md") && inside.contains("clock"), "{inside}");
        assert!(!inside.contains("`larder exec`"), "{inside}");
    }

    #[test]
    fn the_first_event_and_each_doubling_are_logged() {
        let mut distrust = HostCounter::default();
        let logged: Vec<_> = (0..9).filter_map(|_| distrust.count("a")).collect();
        assert_eq!(logged, [1, 2, 4, 8]);
        assert_eq!(distrust.count("b"), Some(1));
        assert_eq!(distrust.hosts(), [("a".to_owned(), 9), ("b".to_owned(), 1)]);
    }

    #[test]
    fn hosts_beyond_the_limit_share_one_count() {
        let mut distrust = HostCounter::default();
        for host in 0..MAX_HOSTS + 50 {
            distrust.count(&format!("h{host}"));
        }
        assert_eq!(distrust.by_host.len(), MAX_HOSTS + 1);
        assert_eq!(distrust.hosts()[0], (OTHERS.to_owned(), 50));
    }
}
