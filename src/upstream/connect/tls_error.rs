//! Why TLS to an origin failed.
//!
//! Owns: the kinds of TLS error, their problem texts, and how they are derived from rustls's texts.
//! Never touches: handshakes.

use std::io;

/// The reason of a TLS failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsError {
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// No trusted root issued the certificate.
    UnknownIssuer,
    /// The certificate is that of an authority, not that of a host.
    SelfSigned,
    /// The certificate is for other names.
    WrongName,
    /// The certificate has been revoked.
    Revoked,
    /// Any other error of a certificate.
    Certificate,
    /// The host is not a name that a certificate can contain.
    NoName,
    /// The origin requires a client certificate that it accepts.
    ClientCertificate,
    /// The origin aborted the handshake with an alert.
    Alert,
    /// The peer sent no TLS handshake, or no version or cipher suite is common to both sides.
    Handshake,
}

impl TlsError {
    /// The token in logs, metrics and `detail`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Expired => "tls-expired",
            Self::NotYetValid => "tls-not-yet-valid",
            Self::UnknownIssuer => "tls-unknown-issuer",
            Self::SelfSigned => "tls-self-signed",
            Self::WrongName => "tls-wrong-name",
            Self::Revoked => "tls-revoked",
            Self::Certificate => "tls-certificate",
            Self::NoName => "tls-no-name",
            Self::ClientCertificate => "tls-client-certificate",
            Self::Alert => "tls-alert",
            Self::Handshake => "tls-handshake",
        }
    }

    /// Whether the error is permanent, so that a retry cannot succeed.
    pub fn is_permanent(self) -> bool {
        !matches!(self, Self::Alert | Self::Handshake)
    }

    /// The class in the problem response.
    pub fn class(self) -> &'static str {
        if self.proxy_status() == CERTIFICATE_ERROR { CERTIFICATE_ERROR } else { "tls_handshake_error" }
    }

    /// The error type of RFC 9209 §2.3.
    pub fn proxy_status(self) -> &'static str {
        match self {
            Self::Expired
            | Self::NotYetValid
            | Self::UnknownIssuer
            | Self::SelfSigned
            | Self::WrongName
            | Self::Revoked
            | Self::Certificate
            | Self::NoName => CERTIFICATE_ERROR,
            Self::ClientCertificate | Self::Alert => "tls_alert_received",
            Self::Handshake => "tls_protocol_error",
        }
    }

    /// The text of the problem response, with a remedy.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Expired => "the origin's certificate has expired; its operator must renew it",
            Self::NotYetValid => {
                "the origin's certificate is not valid yet; check the clock of larder's host"
            }
            Self::UnknownIssuer => {
                "the origin's certificate is issued by an untrusted authority; if it is \
                 yours, add its root to upstreams.NAME.tls.extra_roots"
            }
            Self::SelfSigned => {
                "the origin presents an authority's certificate as its own (self-signed); install one \
                 that this authority issued, and add the authority to upstreams.NAME.tls.extra_roots"
            }
            Self::WrongName => "the origin's certificate is for other names than the requested one",
            Self::Revoked => "the origin's certificate has been revoked",
            Self::Certificate => "the origin's certificate cannot be used",
            Self::NoName => "the host is not a name that a certificate can contain",
            Self::ClientCertificate => {
                "the origin requires a client certificate that it accepts; specify one in \
                 upstreams.NAME.tls.client_cert"
            }
            Self::Alert => {
                "the origin aborted the TLS handshake; it may not know the name, or require a client \
                 certificate or another version of TLS"
            }
            Self::Handshake => {
                "the TLS handshake with the origin failed; check whether it speaks TLS at this port"
            }
        }
    }

    /// The TLS error that ended a connection; `None` if TLS is not the cause. In TLS 1.3 an origin verifies
    /// the client certificate after larder has finished the handshake, so its alert arrives instead of the
    /// response.
    pub(crate) fn from_io_error(error: &io::Error) -> Option<Self> {
        error.to_string().strip_prefix(ALERT_PREFIX).map(Self::from_alert)
    }

    /// The TLS error of a failed handshake, by rustls's text: pingora keeps nothing else. A test for each error
    /// fails if an update changes the text.
    pub(super) fn from_rustls_text(text: &str) -> Self {
        if let Some(alert) = text.strip_prefix(ALERT_PREFIX) {
            return Self::from_alert(alert);
        }
        let Some(certificate) = text.strip_prefix("invalid peer certificate: ") else {
            let missing = text.starts_with("peer sent no certificates");
            return if missing { Self::Certificate } else { Self::Handshake };
        };
        let known = CERTIFICATE_TEXTS.iter().find(|(text, _)| certificate.starts_with(text));
        known.map_or(Self::Certificate, |(_, error)| *error)
    }

    fn from_alert(name: &str) -> Self {
        let about_client = ABOUT_CLIENT.iter().any(|alert| name.starts_with(alert));
        if about_client { Self::ClientCertificate } else { Self::Alert }
    }
}

const CERTIFICATE_ERROR: &str = "tls_certificate_error";

/// rustls's prefix of an alert's name.
const ALERT_PREFIX: &str = "received fatal alert: ";

/// rustls's texts for certificate errors, and the errors that they mean.
const CERTIFICATE_TEXTS: [(&str, TlsError); 7] = [
    ("certificate expired", TlsError::Expired),
    ("certificate not valid yet", TlsError::NotYetValid),
    ("UnknownIssuer", TlsError::UnknownIssuer),
    // A trusted root with the issuer's name has another key: the authority has been recreated.
    ("BadSignature", TlsError::UnknownIssuer),
    ("Other(OtherError(CaUsedAsEndEntity", TlsError::SelfSigned),
    ("certificate not valid for name", TlsError::WrongName),
    ("Revoked", TlsError::Revoked),
];

/// The alerts about the client certificate (RFC 8446 §6.2).
const ABOUT_CLIENT: [&str; 10] = [
    "CertificateRequired",
    "NoCertificate",
    "BadCertificate",
    "UnsupportedCertificate",
    "CertificateRevoked",
    "CertificateExpired",
    "CertificateUnknown",
    "UnknownCA",
    "AccessDenied",
    // The signature was not made with the client's key.
    "DecryptError",
];
