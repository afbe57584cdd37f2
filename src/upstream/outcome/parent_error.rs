//! Errors of larder's parent proxy, told apart from those of an origin.
//!
//! Owns: the classes, their tokens and texts. Never touches: connections (`upstream::connect::parent`).

use http::StatusCode;

use crate::telemetry::problem::Problem;

/// Why a call could not be made through the parent proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParentError {
    /// Its name has no address, or none accepts a connection.
    Unreachable,
    /// No connection, or no response to the request for a tunnel, within `timeouts.connect`.
    Timeout,
    /// It requires another user and password, or a scheme that larder does not support (407).
    Authentication,
    /// It refuses the destination.
    Refused,
    /// It could not reach the origin.
    OriginUnreachable,
    /// Its response is not valid.
    Protocol,
    /// The TLS handshake with the proxy itself failed.
    Tls,
}

impl ParentError {
    const ALL: [Self; 7] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Authentication,
        Self::Refused,
        Self::OriginUnreachable,
        Self::Protocol,
        Self::Tls,
    ];

    /// Its number, for errors that pass through a third-party connector.
    pub(in crate::upstream) fn number(self) -> u16 {
        self as u16
    }

    /// The error with this number.
    pub(in crate::upstream) fn from_number(number: u16) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Protocol)
    }

    /// Whether a retry a moment later may succeed.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable | Self::Timeout | Self::OriginUnreachable | Self::Protocol => true,
            Self::Authentication | Self::Refused | Self::Tls => false,
        }
    }

    /// The token in logs, metrics and responses.
    pub fn token(self) -> &'static str {
        match self {
            Self::Unreachable => "parent-proxy-unreachable",
            Self::Timeout => "parent-proxy-timeout",
            Self::Authentication => "parent-proxy-authentication",
            Self::Refused => "parent-proxy-refused",
            Self::OriginUnreachable => "parent-proxy-no-origin",
            Self::Protocol => "parent-proxy-protocol",
            Self::Tls => "parent-proxy-tls",
        }
    }

    /// The problem response for the client.
    pub fn problem(self) -> Problem {
        let (status, proxy_status, reason) = match self {
            Self::Unreachable => {
                (StatusCode::BAD_GATEWAY, "destination_unavailable", "the parent proxy is not reachable")
            }
            Self::Timeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "connection_timeout",
                "the parent proxy did not respond in time",
            ),
            Self::Authentication => (
                StatusCode::BAD_GATEWAY,
                "proxy_configuration_error",
                "the parent proxy does not accept larder's user and password (407)",
            ),
            Self::Refused => {
                (StatusCode::BAD_GATEWAY, "connection_refused", "the parent proxy refuses the destination")
            }
            Self::OriginUnreachable => (
                StatusCode::BAD_GATEWAY,
                "destination_unavailable",
                "the parent proxy could not reach the origin",
            ),
            Self::Protocol => {
                (StatusCode::BAD_GATEWAY, "http_protocol_error", "the parent proxy's response is not valid")
            }
            Self::Tls => (
                StatusCode::BAD_GATEWAY,
                "tls_protocol_error",
                "the TLS handshake with the parent proxy failed",
            ),
        };
        Problem::new(status, self.token(), reason, proxy_status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_connector() {
        for error in ParentError::ALL {
            assert_eq!(ParentError::from_number(error.number()), error);
            assert!(error.token().starts_with("parent-proxy-"));
        }
    }
}
