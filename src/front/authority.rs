//! The certificate authority that vouches for larder in intercepted connections.
//!
//! Owns: its certificate and key, where they lie, and that nobody else reads the key.
//! Never touches: which connections are intercepted (`tls`), leaf certificates (`mint`).

pub mod mint;

use std::fmt;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

use crate::config::Config;

/// A certificate authority. Prints without its key.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A certificate or key could not be made.
    #[error("could not make a certificate authority: {0}")]
    Make(#[from] rcgen::Error),
}

impl Authority {
    /// The one that `config` names, made if it is not there; `None` when nothing is intercepted.
    pub fn of(config: &Config, now: SystemTime) -> Result<Option<Self>, AuthorityError> {
        if !config.intercepts() {
            return Ok(None);
        }
        Self::for_now(now, &config.tls.ca.constrain).map(Some)
    }

    /// One that lasts as long as the process: its key lies nowhere.
    pub fn for_now(_now: SystemTime, _constrain: &[Box<str>]) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "larder");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Its certificate, as clients are given it to trust.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }
}
