//! The certificate that larder shows to an origin that asks who it is.
//!
//! Owns: which certificates and keys are taken, and that no key is ever printed.
//! Never touches: files and who may read them (`resolve`), connections.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A chain, larder's own certificate first, and its key: both in DER. Prints without the key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCert(Arc<ClientCertKeyPair>);

#[derive(PartialEq, Eq)]
struct ClientCertKeyPair {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

/// Why a pair was refused. Never repeats any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientCertError {
    /// No PEM of a certificate.
    #[error("holds no certificate")]
    NoCertificate,
    /// PEM of something that is no certificate.
    #[error("holds a certificate that cannot be read")]
    Certificate,
    /// A certificate that no TLS library takes.
    #[error("holds a certificate that TLS cannot be done with")]
    Unfit,
    /// No PEM of a key.
    #[error("holds no private key")]
    NoKey,
    /// A key under a passphrase.
    #[error("holds a private key under a passphrase, and nobody is there to type it")]
    Encrypted,
    /// A key that cannot be read, or of a kind that is not used in TLS.
    #[error("holds a private key that TLS cannot be done with")]
    Key,
    /// The key of another certificate.
    #[error("holds the key of another certificate")]
    Mismatch,
}

impl ClientCertError {
    /// What to give instead.
    pub fn fix(self) -> &'static str {
        match self {
            Self::NoCertificate | Self::Certificate => {
                "give a PEM file with larder's certificate first and its intermediates after it"
            }
            Self::Unfit => {
                "give an X.509 v3 certificate: `openssl x509 -req` makes one with `-extfile` or `-copy_extensions copy`"
            }
            Self::NoKey | Self::Key => {
                "give a PEM file with one `BEGIN PRIVATE KEY` (ECDSA, Ed25519, or RSA from 2048 bits)"
            }
            Self::Encrypted => {
                "take the passphrase off: `(umask 077; openssl pkey -in FILE -out KEY)`"
            }
            Self::Mismatch => "give the key that belongs to the first certificate in `cert`",
        }
    }

    /// Whether it is the file with the key that is wrong.
    pub fn is_of_key(self) -> bool {
        match self {
            Self::NoCertificate | Self::Certificate | Self::Unfit => false,
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
            // A certificate that TLS cannot be done with either, such as one of X.509's first version.
            Err(rustls::Error::InvalidCertificate(_)) => return Err(ClientCertError::Unfit),
            Err(_other) => return Err(ClientCertError::Key),
        }
        let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
        Ok(Self(Arc::new(ClientCertKeyPair { chain, key: der })))
    }

    /// The chain, larder's own certificate first; never empty.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.0.chain
    }

    /// The key itself, for handshakes.
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
        // pingora's parser panics on what it cannot read.
        if x509_parser::parse_x509_certificate(&certificate).is_err() {
            return Err(ClientCertError::Certificate);
        }
        chain.push(certificate);
    }
    if chain.is_empty() { Err(ClientCertError::NoCertificate) } else { Ok(chain) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, ClientCertError> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let says = |mark: &[u8]| pem.windows(mark.len()).any(|window| window == mark);
        if says(b"BEGIN ENCRYPTED PRIVATE KEY") || says(b"Proc-Type: 4,ENCRYPTED") {
            ClientCertError::Encrypted
        } else {
            ClientCertError::NoKey
        }
    })?;
    // pingora reads it a second time, by its form alone, and panics where it cannot.
    PrivateKeyDer::try_from(key.secret_der().to_vec()).map_err(|_| ClientCertError::Key)
}

#[cfg(test)]
pub(in crate::config) mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A certificate and its key, as files hold them.
    pub(in crate::config) fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["larder.test".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_taken_and_its_key_is_never_printed() {
        let (cert, key) = pair();
        let chain = format!("{cert}{}", pair().0);
        let taken = ClientCert::parse(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(taken.chain().len(), 2);
        assert_eq!(format!("{taken:?}"), "ClientCert(2 certificates, …)");
        // One file may hold both.
        let both = format!("{cert}{key}");
        assert!(ClientCert::parse(both.as_bytes(), both.as_bytes()).is_ok());
    }

    #[test]
    fn what_cannot_be_shown_to_an_origin_is_refused_by_its_reason() {
        let (cert, key) = pair();
        let begun = |what: &str| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n");
        let legacy = begun("RSA PRIVATE KEY").replacen('\n', "\nProc-Type: 4,ENCRYPTED\n\n", 1);
        for (cert, key, error) in [
            ("", key.as_str(), ClientCertError::NoCertificate),
            (&key, &key, ClientCertError::NoCertificate),
            (&begun("CERTIFICATE"), &key, ClientCertError::Certificate),
            (&cert, "", ClientCertError::NoKey),
            (&cert, &cert, ClientCertError::NoKey),
            (&cert, &begun("ENCRYPTED PRIVATE KEY"), ClientCertError::Encrypted),
            (&cert, &legacy, ClientCertError::Encrypted),
            (&cert, &begun("PRIVATE KEY"), ClientCertError::Key),
            (&cert, &pair().1, ClientCertError::Mismatch),
        ] {
            let refused = ClientCert::parse(cert.as_bytes(), key.as_bytes()).unwrap_err();
            assert_eq!(refused, error);
        }
    }
}
