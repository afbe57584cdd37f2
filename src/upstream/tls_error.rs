//! Why TLS to an origin failed.
//!
//! Owns: the kinds of fault, what they mean to a client, and how they are read from pingora's
//! errors. Never touches: handshakes.

use std::io;

use pingora_error::{Error, ErrorType};

/// What was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsError {
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// No root that is trusted leads to the certificate.
    UnknownIssuer,
    /// An authority's own certificate where one of a host belongs.
    SelfSigned,
    /// The certificate is for other names.
    WrongName,
    /// Its authority has taken the certificate back.
    Revoked,
    /// Whatever else is wrong with a certificate.
    Certificate,
    /// The host is no name that a certificate can be for.
    NoName,
    /// The origin wants to know who larder is, and was not told to its liking.
    ClientCertificate,
    /// The origin broke the handshake off with an alert.
    Alert,
    /// Whatever came was no handshake, or none that both know.
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

    /// Whether it is the same a moment later.
    pub fn lasts(self) -> bool {
        !matches!(self, Self::Alert | Self::Handshake)
    }

    /// The class in what a client is told.
    pub fn class(self) -> &'static str {
        if self.proxy_status() == CERTIFICATE_ERROR {
            CERTIFICATE_ERROR
        } else {
            "tls_handshake_error"
        }
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

    /// What a client is told to do about it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Expired => "the origin's certificate has expired; its operator renews it",
            Self::NotYetValid => {
                "the origin's certificate is not valid yet; look at the clock of larder's host"
            }
            Self::UnknownIssuer => {
                "the origin's certificate is issued by an authority that is not trusted; if it is \
                 yours, add its root to upstreams.NAME.tls.extra_roots"
            }
            Self::SelfSigned => {
                "the origin shows an authority's certificate as its own (self-signed); give it one \
                 that this authority issued, and the authority to upstreams.NAME.tls.extra_roots"
            }
            Self::WrongName => {
                "the origin's certificate is for other names than the one that was asked for"
            }
            Self::Revoked => "the origin's certificate has been revoked",
            Self::Certificate => "the origin's certificate cannot be used",
            Self::NoName => "the host is no name that a certificate can be for",
            Self::ClientCertificate => {
                "the origin wants a client certificate that it accepts; give one in \
                 upstreams.NAME.tls.client_cert"
            }
            Self::Alert => {
                "the origin broke the TLS handshake off; it may not know the name, or want a client \
                 certificate or another version of TLS"
            }
            Self::Handshake => {
                "the TLS handshake with the origin failed; look whether it speaks TLS at this port"
            }
        }
    }

    /// The fault that `error` tells of; `None` when it tells of none.
    ///
    /// pingora keeps of a failed handshake only rustls's text, so the text is what is read; a test
    /// for each fault fails when an update words it otherwise.
    #[expect(clippy::wildcard_enum_match_arm, reason = "pingora adds error types; no other is TLS")]
    pub(crate) fn of(error: &Error) -> Option<Self> {
        use ErrorType::{InvalidCert, TLSHandshakeFailure, TLSWantX509Lookup};
        match error.etype() {
            TLSHandshakeFailure | InvalidCert | TLSWantX509Lookup => {
                let text = error.to_string();
                // The first mark is pingora's own: nothing that an origin chose stands before it.
                let said = text.split_once(MARK).map_or("", |(_, said)| said);
                Some(Self::said(said))
            }
            _ => None,
        }
    }

    /// The fault that a connection's end tells of; `None` when it tells of none. In TLS 1.3 an origin
    /// looks at a client's certificate when larder is done, and says so where its answer is awaited.
    pub(crate) fn of_end(error: &io::Error) -> Option<Self> {
        error.to_string().strip_prefix(ALERT).map(Self::alert)
    }

    fn said(text: &str) -> Self {
        if let Some(alert) = text.strip_prefix(ALERT) {
            return Self::alert(alert);
        }
        let Some(certificate) = text.strip_prefix("invalid peer certificate: ") else {
            let none = text.starts_with("peer sent no certificates");
            return if none { Self::Certificate } else { Self::Handshake };
        };
        let known = SAID.iter().find(|(words, _)| certificate.starts_with(words));
        known.map_or(Self::Certificate, |(_, fault)| *fault)
    }

    fn alert(name: &str) -> Self {
        let of_client = ABOUT_CLIENT.iter().any(|about| name.starts_with(about));
        if of_client { Self::ClientCertificate } else { Self::Alert }
    }
}

const CERTIFICATE_ERROR: &str = "tls_certificate_error";

/// What pingora writes before the words of rustls.
const MARK: &str = "tls connect error cause: ";

/// What rustls writes before the name of an alert.
const ALERT: &str = "received fatal alert: ";

/// What rustls says of a certificate, and what it means.
const SAID: [(&str, TlsError); 7] = [
    ("certificate expired", TlsError::Expired),
    ("certificate not valid yet", TlsError::NotYetValid),
    ("UnknownIssuer", TlsError::UnknownIssuer),
    // A trusted root of the issuer's name has another key: an authority that was made anew.
    ("BadSignature", TlsError::UnknownIssuer),
    ("Other(OtherError(CaUsedAsEndEntity", TlsError::SelfSigned),
    ("certificate not valid for name", TlsError::WrongName),
    ("Revoked", TlsError::Revoked),
];

/// The alerts that tell what an origin thinks of the client's certificate (RFC 8446 §6.2).
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
    // A signature that is not the client's.
    "DecryptError",
];
