//! The client certificate that larder presents to an origin (mutual TLS).
//!
//! Owns: which certificates and keys are accepted; the key is never printed.
//! Never touches: files and their permissions (`resolve`), connections.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate chain, larder's own certificate first, and its key: both in DER. `Debug` omits the key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCert(Arc<ClientCertKeyPair>);

#[derive(PartialEq, Eq)]
struct ClientCertKeyPair {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

/// Why a pair was refused. Never contains any of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientCertError {
    /// The file has no PEM certificate.
    #[error("contains no certificate")]
    NoCertificate,
    /// The PEM content is not a valid certificate.
    #[error("contains a certificate that cannot be read")]
    Certificate,
    /// The TLS library does not support the certificate.
    #[error("contains a certificate that cannot be used for TLS")]
    Unsupported,
    /// The file has no PEM private key.
    #[error("contains no private key")]
    NoKey,
    /// The private key is encrypted with a passphrase.
    #[error("contains a private key that is encrypted with a passphrase")]
    Encrypted,
    /// The private key is invalid, or its type is not used in TLS.
    #[error("contains a private key that cannot be used for TLS")]
    Key,
    /// The private key belongs to another certificate.
    #[error("contains the key of another certificate")]
    Mismatch,
}

impl ClientCertError {
    /// How to fix it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::NoCertificate | Self::Certificate => {
                "give a PEM file with larder's certificate first and its intermediates after it"
            }
            Self::Unsupported => {
                "give an X.509 v3 certificate: `openssl x509 -req` makes one with `-extfile` or `-copy_extensions copy`"
            }
            Self::NoKey | Self::Key => {
                "give a PEM file with one `BEGIN PRIVATE KEY` (ECDSA, Ed25519, or RSA from 2048 bits)"
            }
            Self::Encrypted => "remove the passphrase: `(umask 077; openssl pkey -in FILE -out KEY)`",
            Self::Mismatch => "give the key that belongs to the first certificate in `cert`",
        }
    }

    /// Whether the error is in the key file.
    pub fn is_key_error(self) -> bool {
        match self {
            Self::NoCertificate | Self::Certificate | Self::Unsupported => false,
            Self::NoKey | Self::Encrypted | Self::Key | Self::Mismatch => true,
        }
    }
}

impl ClientCert {
    /// The pair in the contents of two PEM files.
    pub fn parse(cert: &[u8], key: &[u8]) -> Result<Self, ClientCertError> {
        let chain = chain(cert)?;
        let key = private_key(key)?;
        let der = key.secret_der().to_vec();
        match CertifiedKey::from_der(chain.clone(), key, &default_provider()) {
            Ok(_pair) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(ClientCertError::Mismatch),
            // rustls rejects the certificate, for example X.509 v1.
            Err(rustls::Error::InvalidCertificate(_)) => return Err(ClientCertError::Unsupported),
            Err(_other) => return Err(ClientCertError::Key),
        }
        let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
        Ok(Self(Arc::new(ClientCertKeyPair { chain, key: der })))
    }

    /// The chain, larder's own certificate first; never empty.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.0.chain
    }

    /// The private key in DER, for handshakes.
    pub fn reveal(&self) -> &[u8] {
        &self.0.key
    }
}

impl fmt::Debug for ClientCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCert({} certificates, …)", self.0.chain.len())
    }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ClientCertError> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| ClientCertError::Certificate)?;
        // pingora's parser panics on certificates that it cannot parse.
        if x509_parser::parse_x509_certificate(&certificate).is_err() {
            return Err(ClientCertError::Certificate);
        }
        chain.push(certificate);
    }
    if chain.is_empty() { Err(ClientCertError::NoCertificate) } else { Ok(chain) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, ClientCertError> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let contains = |marker: &[u8]| pem.windows(marker.len()).any(|window| window == marker);
        if contains(b"BEGIN ENCRYPTED PRIVATE KEY") || contains(b"Proc-Type: 4,ENCRYPTED") {
            ClientCertError::Encrypted
        } else {
            ClientCertError::NoKey
        }
    })?;
    // pingora parses the DER again without the PEM label and panics on an error.
    PrivateKeyDer::try_from(key.secret_der().to_vec()).map_err(|_| ClientCertError::Key)
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A certificate and its key as PEM.
    pub(crate) fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["larder.test".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_valid_pair_is_accepted_and_its_key_is_never_printed() {
        let (cert, key) = pair();
        let chain = format!("{cert}{}", pair().0);
        let parsed = ClientCert::parse(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(parsed.chain().len(), 2);
        assert_eq!(format!("{parsed:?}"), "ClientCert(2 certificates, …)");
        // One file may contain both.
        let both = format!("{cert}{key}");
        assert!(ClientCert::parse(both.as_bytes(), both.as_bytes()).is_ok());
    }

    #[test]
    fn an_unusable_pair_is_refused_with_its_reason() {
        let (cert, key) = pair();
        let pem = |what: &str| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n");
        let legacy = pem("RSA PRIVATE KEY").replacen('\n', "\nProc-Type: 4,ENCRYPTED\n\n", 1);
        for (cert, key, error) in [
            ("", key.as_str(), ClientCertError::NoCertificate),
            (&key, &key, ClientCertError::NoCertificate),
            (&pem("CERTIFICATE"), &key, ClientCertError::Certificate),
            (&cert, "", ClientCertError::NoKey),
            (&cert, &cert, ClientCertError::NoKey),
            (&cert, &pem("ENCRYPTED PRIVATE KEY"), ClientCertError::Encrypted),
            (&cert, &legacy, ClientCertError::Encrypted),
            (&cert, &pem("PRIVATE KEY"), ClientCertError::Key),
            (&cert, &pair().1, ClientCertError::Mismatch),
        ] {
            let refusal = ClientCert::parse(cert.as_bytes(), key.as_bytes()).unwrap_err();
            assert_eq!(refusal, error);
        }
    }
}
