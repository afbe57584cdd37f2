//! The certificate authority that vouches for larder in intercepted connections.
//!
//! Owns: which one a configuration means, what makes it fit for that, and that its key is seen by
//! nobody: it is printed nowhere and kept out of core dumps.
//! Never touches: which connections are intercepted (`tls`), leaf certificates (`mint`).

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

/// Less than this before its end, an authority is told to be replaced.
const LAST_DAYS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A certificate authority. Prints without its key.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    /// Those that vouch for it, if its file has them.
    above: Vec<Certificate>,
    files: Option<CaFiles>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

impl CertificateAuthority {
    /// The one that `config` means, made if it is not there; `None` when nothing is intercepted.
    pub fn of(config: &Config, now: SystemTime) -> Result<Option<Arc<Self>>, CaError> {
        Self::after(None, config, now)
    }

    /// The same in place of `before`, of which one without files is kept: clients know it.
    pub fn after(
        before: Option<&Arc<Self>>,
        config: &Config,
        now: SystemTime,
    ) -> Result<Option<Arc<Self>>, CaError> {
        if !config.intercepts() {
            return Ok(None);
        }
        let constrain = &config.tls.ca.constrain;
        let lasting = files_of(config).map(|files| Self::lasting(files, constrain, now));
        let why = match lasting {
            Some(Ok(authority)) => {
                authority.check_against(config, now)?;
                return Ok(Some(Arc::new(authority)));
            }
            // As with the secret of all keys: a directory of larder's own that cannot be written
            // costs no answer.
            Some(Err(why @ CaError::Unwritten { .. })) if config.tls.ca.files.is_none() => {
                Some(why)
            }
            Some(Err(why)) => return Err(why),
            None => None,
        };
        let bounds = CaNameConstraints::of(constrain);
        let stays = |one: &&Arc<Self>| {
            let own = one.certificate();
            one.files.is_none() && own.bounds == bounds && now < own.not_after
        };
        if let Some(before) = before.filter(stays) {
            return Ok(Some(Arc::clone(before)));
        }
        tell_that_it_ends(why.as_ref());
        Ok(Some(Arc::new(Self::for_now(now, constrain)?)))
    }

    /// The one in `files`, made if neither is there.
    pub fn lasting(
        files: CaFiles,
        constrain: &[NameConstraint],
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let pair = files::read_or_make(&files, || {
            tracing::info!(cert = %files.cert.display(), "Certificate authority made");
            made(constrain, now)
        })?;
        Self::from_pair(&pair, Some(files))
    }

    /// Another in the place of the one in `files`, which is kept beside under names that end in the
    /// time. One that larder did not make is not larder's to replace.
    pub fn rotated(
        files: CaFiles,
        constrain: &[NameConstraint],
        now: SystemTime,
    ) -> Result<Self, CaError> {
        // The certificate alone: what is wrong with the key is no reason to keep it.
        let before = files::read_cert(&files.cert)?.map(|pem| CertificateDer::from_pem_slice(&pem));
        let before = before.and_then(|der| Certificate::read(&der.ok()?));
        if before.is_some_and(|before| !before.is_larders()) {
            return Err(CaError::Operators(files.cert));
        }
        let pair = made(constrain, now)?;
        files::replace(&files, &pair, &mark(now))?;
        Self::from_pair(&pair, Some(files))
    }

    /// One that lasts as long as the process: its key lies nowhere.
    pub fn for_now(now: SystemTime, constrain: &[NameConstraint]) -> Result<Self, CaError> {
        Self::from_pair(&made(constrain, now)?, None)
    }

    fn from_pair(pair: &CertKeyPair, files: Option<CaFiles>) -> Result<Self, CaError> {
        keep_out_of_dumps();
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

    /// Whether it can do what `config` asks of it.
    fn check_against(&self, config: &Config, now: SystemTime) -> Result<(), CaError> {
        let own = self.certificate();
        if now >= own.not_after {
            return Err(self.expired());
        }
        let spared = |host: &HostPattern| config.tls.passthrough.iter().any(|p| p.covers(host));
        let outside = config.named().filter(|host| !spared(host)).find(|host| {
            NameConstraint::around(host).is_some_and(|hosts| !own.bounds.cover(&hosts))
        });
        if let Some(host) = outside {
            let (host, subject) = (host.to_string(), own.subject.clone());
            return Err(CaError::Outside { host, subject });
        }
        let wanted = &config.tls.ca.constrain;
        let asked = !wanted.is_empty() || config.tls.ca.files.is_none();
        if asked && own.bounds != CaNameConstraints::of(wanted) {
            tracing::warn!(
                subject = own.subject,
                may = %own.bounds,
                "The certificate authority is not constrained as tls.ca.constrain says: \
                 `larder ca rotate` makes one that is"
            );
        }
        if own.not_after.duration_since(now).is_ok_and(|left| left < LAST_DAYS) {
            let until = humantime::format_rfc3339_seconds(own.not_after);
            let fix = self.another();
            tracing::warn!(subject = own.subject, %until, fix, "The certificate authority expires");
        }
        Ok(())
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its certificate, as clients are given it to trust, and those that vouch for it.
    pub fn pem(&self) -> String {
        self.chain().map(Certificate::pem).collect()
    }

    /// Where it lies; `None`: nowhere.
    pub fn files(&self) -> Option<&CaFiles> {
        self.files.as_ref()
    }

    /// From its own up.
    fn chain(&self) -> impl Iterator<Item = &Certificate> {
        [&self.certificate].into_iter().chain(&self.above)
    }

    fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    fn expired(&self) -> CaError {
        let own = self.certificate();
        let (subject, since, fix) = (own.subject.clone(), own.not_after, self.another());
        CaError::Expired { subject, since, fix }
    }

    /// How to get another.
    fn another(&self) -> &'static str {
        if self.files.is_some() {
            "`larder ca rotate`, or name another in tls.ca; then `larder reload`"
        } else {
            "restart larder"
        }
    }
}

/// `why`: what kept it from lasting; `None`: nothing shall be kept.
fn tell_that_it_ends(why: Option<&CaError>) {
    const ENDS: &str = "The certificate authority ends with this process: clients must be given the \
                        next one; name files in tls.ca to keep it";
    if let Some(error) = why {
        tracing::error!(%error, "{ENDS}");
    } else {
        tracing::warn!("{ENDS}");
    }
}

/// Where the authority of `config` lies; `None` where nothing outlives the process.
pub fn files_of(config: &Config) -> Option<CaFiles> {
    let below = |name: &str| config.store.path.join("ca").join(name);
    let ours = || CaFiles { cert: below("ca.pem"), key: below("ca.key") };
    config.tls.ca.files.clone().or_else(|| (config.store.disk > 0).then(ours))
}

/// Where a rotation at `now` keeps what it replaced.
pub fn kept_by_rotation(files: &CaFiles, now: SystemTime) -> CaFiles {
    let kept = |path| files::kept_as(path, &mark(now));
    CaFiles { cert: kept(&files.cert), key: kept(&files.key) }
}

fn mark(now: SystemTime) -> String {
    humantime::format_rfc3339_seconds(now).to_string()
}

fn made(constrain: &[NameConstraint], now: SystemTime) -> Result<CertKeyPair, CaError> {
    let key = KeyPair::generate()?;
    let cert = certificate::params(&key, constrain, now)?.self_signed(&key)?;
    Ok(CertKeyPair { cert: cert.pem().into_bytes(), key: key.serialize_pem().into_bytes() })
}

/// A process that holds a key leaves no core behind, and no other process of its user can look
/// into it.
fn keep_out_of_dumps() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // It cannot fail with a behaviour that the system knows.
        let _kept = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

#[cfg(test)]
mod tests;
