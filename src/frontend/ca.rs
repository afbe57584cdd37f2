//! The certificate authority that issues the certificates of intercepted connections.
//!
//! Owns: which authority a configuration uses, the checks of its fitness, and the secrecy of its key:
//! it is never printed, and it is excluded from core dumps. Never touches: which connections are
//! intercepted (`interception`), leaf certificates (`leaf`).

pub mod certificate;
mod error;
mod files;
pub mod leaf;
pub mod name_constraints;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::name_constraint::NameConstraint;
use crate::config::{CaFiles, Config};
use crate::frontend::ca::certificate::Certificate;
pub use crate::frontend::ca::error::CaError;
use crate::frontend::ca::files::CertKeyPair;
use crate::frontend::ca::name_constraints::CaNameConstraints;
use crate::route::pattern::HostPattern;

/// An authority that expires within this time causes a warning.
const LAST_DAYS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A certificate authority. Its debug output omits the key.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    /// The certificates above it in the chain, if its file contains them.
    above: Vec<Certificate>,
    files: Option<CaFiles>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

impl CertificateAuthority {
    /// The authority that `config` uses, created if it does not exist; `None` if nothing is intercepted.
    pub fn from_config(config: &Config, now: SystemTime) -> Result<Option<Arc<Self>>, CaError> {
        Self::for_reload(None, config, now)
    }

    /// Like [`CertificateAuthority::from_config`], as the successor of `before`. If `before` has no
    /// files it is kept: clients trust it.
    pub fn for_reload(
        before: Option<&Arc<Self>>,
        config: &Config,
        now: SystemTime,
    ) -> Result<Option<Arc<Self>>, CaError> {
        if !config.intercepts() {
            return Ok(None);
        }
        let constrain = &config.tls.ca.constrain;
        let loaded = files_for(config).map(|files| Self::persistent(files, constrain, now));
        let error = match loaded {
            Some(Ok(authority)) => {
                authority.check_against(config, now)?;
                return Ok(Some(Arc::new(authority)));
            }
            // As for the secret of all keys, larder starts even if its own directory cannot be written.
            Some(Err(error @ CaError::Unwritten { .. })) if config.tls.ca.files.is_none() => Some(error),
            Some(Err(error)) => return Err(error),
            None => None,
        };
        let bounds = CaNameConstraints::from_config(constrain);
        let is_reusable = |one: &&Arc<Self>| {
            let own = one.certificate();
            one.files.is_none() && own.bounds == bounds && now < own.not_after
        };
        if let Some(before) = before.filter(is_reusable) {
            return Ok(Some(Arc::clone(before)));
        }
        warn_ephemeral(error.as_ref());
        Ok(Some(Arc::new(Self::ephemeral(now, constrain)?)))
    }

    /// The authority in `files`, created if neither file exists.
    pub fn persistent(
        files: CaFiles,
        constrain: &[NameConstraint],
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let pair = files::read_or_create(&files, || {
            tracing::info!(cert = %files.cert.display(), "Certificate authority created");
            create_pair(constrain, now)
        })?;
        Self::from_pair(&pair, Some(files))
    }

    /// Replaces the authority in `files`. The old files are kept beside it, under names that end in the
    /// time. An authority that larder did not make is not replaced.
    pub fn rotated(files: CaFiles, constrain: &[NameConstraint], now: SystemTime) -> Result<Self, CaError> {
        // Only the certificate is checked: a damaged key is no reason to keep the pair.
        let before = files::read_cert(&files.cert)?.map(|pem| CertificateDer::from_pem_slice(&pem));
        let before = before.and_then(|der| Certificate::read(&der.ok()?));
        if before.is_some_and(|before| !before.is_made_by_larder()) {
            return Err(CaError::Operators(files.cert));
        }
        let pair = create_pair(constrain, now)?;
        files::replace(&files, &pair, &suffix(now))?;
        Self::from_pair(&pair, Some(files))
    }

    /// An authority that lasts as long as the process: its key is stored nowhere.
    pub fn ephemeral(now: SystemTime, constrain: &[NameConstraint]) -> Result<Self, CaError> {
        Self::from_pair(&create_pair(constrain, now)?, None)
    }

    fn from_pair(pair: &CertKeyPair, files: Option<CaFiles>) -> Result<Self, CaError> {
        exclude_from_dumps();
        let CaFiles { cert, key } = files.clone().unwrap_or_default();
        let no_certificate = || CaError::NoCertificate(cert.clone());
        let read = |der: Result<CertificateDer<'static>, _>| Certificate::read(&der.ok()?);
        let mut all = CertificateDer::pem_slice_iter(&pair.cert).map(read);
        let certificate = all.next().flatten().ok_or_else(no_certificate)?;
        let above = all.collect::<Option<_>>().ok_or_else(no_certificate)?;
        if let Some(what) = certificate.unfit {
            return Err(CaError::NotOne { path: cert, what });
        }
        let pair = PrivateKeyDer::from_pem_slice(&pair.key).ok();
        let pair = pair.and_then(|der| KeyPair::try_from(&der).ok());
        let pair = pair.ok_or_else(|| CaError::Key(key.clone()))?;
        if pair.der_bytes() != &*certificate.public_key {
            return Err(CaError::Mismatch { cert, key });
        }
        let issuer = Issuer::from_ca_cert_der(certificate.der(), pair)?;
        Ok(Self { issuer, certificate, above, files })
    }

    /// Checks whether the authority satisfies `config`.
    fn check_against(&self, config: &Config, now: SystemTime) -> Result<(), CaError> {
        let own = self.certificate();
        if now >= own.not_after {
            return Err(self.expired());
        }
        let excluded = |host: &HostPattern| config.tls.passthrough.iter().any(|p| p.covers(host));
        let outside = config.interception_patterns().filter(|host| !excluded(host)).find(|host| {
            NameConstraint::for_pattern(host).is_some_and(|hosts| !own.bounds.allows_all(&hosts))
        });
        if let Some(host) = outside {
            let (host, subject) = (host.to_string(), own.subject.clone());
            return Err(CaError::Outside { host, subject });
        }
        let constrain = &config.tls.ca.constrain;
        let checked = !constrain.is_empty() || config.tls.ca.files.is_none();
        if checked && own.bounds != CaNameConstraints::from_config(constrain) {
            tracing::warn!(
                subject = own.subject,
                may = %own.bounds,
                "The certificate authority does not have the constraints of tls.ca.constrain: \
                 `larder ca rotate` creates one that does"
            );
        }
        if own.not_after.duration_since(now).is_ok_and(|left| left < LAST_DAYS) {
            let until = humantime::format_rfc3339_seconds(own.not_after);
            let fix = self.replacement_hint();
            tracing::warn!(subject = own.subject, %until, fix, "The certificate authority expires");
        }
        Ok(())
    }

    /// The certificate of the authority.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The certificate that clients must trust, followed by those above it, in PEM.
    pub fn pem(&self) -> String {
        self.chain().map(Certificate::pem).collect()
    }

    /// The files of the authority; `None`: it has none.
    pub fn files(&self) -> Option<&CaFiles> {
        self.files.as_ref()
    }

    /// The chain, beginning with the authority's own certificate.
    fn chain(&self) -> impl Iterator<Item = &Certificate> {
        [&self.certificate].into_iter().chain(&self.above)
    }

    fn expired(&self) -> CaError {
        let own = self.certificate();
        let (subject, since, fix) = (own.subject.clone(), own.not_after, self.replacement_hint());
        CaError::Expired { subject, since, fix }
    }

    /// The instruction for replacing the authority.
    fn replacement_hint(&self) -> &'static str {
        if self.files.is_some() {
            "run `larder ca rotate`, or set another in tls.ca; then run `larder reload`"
        } else {
            "restart larder"
        }
    }
}

/// `reason`: the error that prevents a persistent authority; `None`: none is configured.
fn warn_ephemeral(reason: Option<&CaError>) {
    const ENDS: &str = "The certificate authority ends with this process: clients must then trust the \
                        next one; name files in tls.ca to keep it";
    if let Some(error) = reason {
        tracing::error!(%error, "{ENDS}");
    } else {
        tracing::warn!("{ENDS}");
    }
}

/// The files of the authority of `config`; `None` if nothing outlives the process.
pub fn files_for(config: &Config) -> Option<CaFiles> {
    let below = |name: &str| config.store.path.join("ca").join(name);
    let own_files = || CaFiles { cert: below("ca.pem"), key: below("ca.key") };
    config.tls.ca.files.clone().or_else(|| (config.store.disk > 0).then(own_files))
}

/// The files in which a rotation at `now` keeps the old pair.
pub fn rotation_backup(files: &CaFiles, now: SystemTime) -> CaFiles {
    let kept = |path| files::backup_path(path, &suffix(now));
    CaFiles { cert: kept(&files.cert), key: kept(&files.key) }
}

fn suffix(now: SystemTime) -> String {
    humantime::format_rfc3339_seconds(now).to_string()
}

fn create_pair(constrain: &[NameConstraint], now: SystemTime) -> Result<CertKeyPair, CaError> {
    let key = KeyPair::generate()?;
    let cert = certificate::params(&key, constrain, now)?.self_signed(&key)?;
    Ok(CertKeyPair { cert: cert.pem().into_bytes(), key: key.serialize_pem().into_bytes() })
}

/// A process that has a key must not leave a core file, and no other process of its user may read its memory.
fn exclude_from_dumps() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // It cannot fail with a behaviour that the system supports.
        let _kept = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

#[cfg(test)]
mod tests;
