//! The certificate of an authority: the fields of larder's own, and of one that is read.
//!
//! Owns: its fields. Never touches: the key, the files.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::config::name_constraint::NameConstraint;
use crate::frontend::ca::name_constraints::CaNameConstraints;

/// The validity from now on. With the time of [`BACKDATED`] it is less than two years.
const VALIDITY: Duration = Duration::from_secs(729 * 24 * 60 * 60);

/// The start of the validity lies this far back, because the clocks of clients may be slow.
pub(super) const BACKDATED: Duration = Duration::from_secs(30 * 60);

/// A parsed certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The subject, such as `CN=larder CA 3f9c12ab`.
    pub subject: String,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// The end of its validity.
    pub not_after: SystemTime,
    /// The hosts that it may issue certificates for.
    pub bounds: CaNameConstraints,
    /// Whether it is a root: clients can trust it without another certificate.
    pub is_root: bool,
    /// The reason why it is not the certificate of an authority, if so.
    pub(super) unfit: Option<&'static str>,
    pub(super) public_key: Box<[u8]>,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// Parses a certificate; `None` if it is invalid.
    pub(super) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (rest, read) = X509Certificate::from_der(der).ok()?;
        let constraints = read.name_constraints().ok()?;
        let bounds = constraints
            .map(|extension| CaNameConstraints::from_certificate(extension.value))
            .unwrap_or_default();
        rest.is_empty().then_some(())?;
        Some(Self {
            subject: read.subject().to_string(),
            not_before: time(read.validity().not_before),
            not_after: time(read.validity().not_after),
            bounds,
            is_root: read.subject().as_raw() == read.issuer().as_raw(),
            unfit: unfit(&read),
            public_key: read.public_key().subject_public_key.data.as_ref().into(),
            der: der.clone().into_owned(),
        })
    }

    /// Whether larder made it.
    pub(super) fn is_made_by_larder(&self) -> bool {
        self.is_root && self.subject.starts_with("CN=larder CA ")
    }

    /// The certificate in DER, as it is sent in handshakes.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate in PEM.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// The SHA-256 of the certificate, in pairs of hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let pairs: Vec<_> = Sha256::digest(&self.der).iter().map(|b| format!("{b:02X}")).collect();
        pairs.join(":")
    }
}

/// The fields of a new authority of larder's. They share nothing with another installation.
pub(super) fn params(
    key: &KeyPair,
    constrain: &[NameConstraint],
    now: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let id = Sha256::digest(key.der_bytes());
    let [a, b, c, d, ..] = <[u8; 32]>::from(id);
    let id = u32::from_be_bytes([a, b, c, d]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("larder CA {id:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = CaNameConstraints::from_config(constrain).to_certificate();
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    params.not_before = now.checked_sub(BACKDATED).unwrap_or(now).into();
    params.not_after = now.checked_add(VALIDITY).unwrap_or(now).into();
    Ok(params)
}

/// 126 random bits of constant length, positive.
pub(super) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Encodes as PEM (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: String =
        encoded.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

fn unfit(read: &X509Certificate<'_>) -> Option<&'static str> {
    let constraints = read.basic_constraints().ok().flatten();
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Some("is not the certificate of an authority (it lacks CA:TRUE)");
    }
    let usage = read.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Some("may not sign certificates (its key usage lacks keyCertSign)");
    }
    None
}

fn time(at: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(at.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}
