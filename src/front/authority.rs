//! The certificate authority that vouches for larder in intercepted connections.
//!
//! Owns: which one a configuration means, what makes it fit for that, and that its key is seen by
//! nobody: it is printed nowhere and kept out of core dumps.
//! Never touches: which connections are intercepted (`tls`), leaf certificates (`mint`).

pub mod bounds;
pub mod certificate;
mod files;
pub mod mint;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::constraint::Constraint;
use crate::config::{CaFiles, Config};
use crate::front::authority::bounds::Bounds;
use crate::front::authority::certificate::Certificate;
use crate::front::authority::files::Pair;
use crate::route::pattern::HostPattern;

/// Less than this before its end, an authority is told to be replaced.
const LAST_DAYS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A certificate authority. Prints without its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    /// Those that vouch for it, if its file has them.
    above: Vec<Certificate>,
    files: Option<CaFiles>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// Why there is no authority, or no leaf of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A certificate or key could not be made.
    #[error("could not make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS does not take what was made.
    #[error("could not use a certificate: {0}")]
    Use(#[from] rustls::Error),
    /// A file could not be read or written.
    #[error("certificate authority: {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One file of the pair is missing.
    #[error(
        "certificate authority: {} is there, but {} is not: bring it back from a backup, or move \
         the other away too and larder makes a new pair", there.display(), missing.display()
    )]
    Half {
        /// The one that is there.
        there: PathBuf,
        /// The other one.
        missing: PathBuf,
    },
    /// Others may read the key.
    #[error(
        "certificate authority: its key {} may be read by others: `chmod 600` it, and make a new \
         one (`larder ca rotate`) if somebody could have", .0.display()
    )]
    Open(PathBuf),
    /// The key is another user's.
    #[error(
        "certificate authority: its key {} belongs to another user, who can read it: `chown` it to \
         the user that larder runs as", .0.display()
    )]
    Foreign(PathBuf),
    /// The key is a link.
    #[error(
        "certificate authority: its key {} is a symbolic link, which hides who can read it: name \
         the file itself in tls.ca.key, or copy it (`install -m 600`)", .0.display()
    )]
    Link(PathBuf),
    /// The key's file holds none that can be read.
    #[error(
        "certificate authority: {} holds no RSA, P-256 or P-384 key in PKCS#8 without a \
         passphrase: convert it, `openssl pkcs8 -topk8 -nocrypt -in FILE`", .0.display()
    )]
    Key(PathBuf),
    /// The certificate's file holds none.
    #[error("certificate authority: {} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// The certificate is not an authority's.
    #[error("certificate authority: {} {what}: name an authority's in tls.ca.cert", path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// Certificate and key are not a pair.
    #[error(
        "certificate authority: {} is not the key of {}: name a pair in tls.ca, or bring the other \
         back from a backup", key.display(), cert.display()
    )]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// It is not larder's to replace.
    #[error(
        "certificate authority: {} was not made by larder: replace both files with the next pair \
         from where they came, then `larder reload`", .0.display()
    )]
    Operators(PathBuf),
    /// Its time is over.
    #[error(
        "certificate authority: {subject} has expired on {}, no client accepts what it vouches \
         for: {fix}", humantime::format_rfc3339_seconds(*since)
    )]
    Expired {
        /// Whose time.
        subject: String,
        /// When it was over.
        since: SystemTime,
        /// How to get another.
        fix: &'static str,
    },
    /// Its name constraints leave a host out.
    #[error(
        "certificate authority: {subject} may not vouch for {host}: make one that may (`larder ca \
         rotate`), or name the host in tls.passthrough"
    )]
    Outside {
        /// Which host.
        host: String,
        /// Whose constraints.
        subject: String,
    },
    /// No certificate can be for this host.
    #[error("no certificate can be for a host named {0:?}")]
    Name(String),
}

impl Authority {
    /// The one that `config` means, made if it is not there; `None` when nothing is intercepted.
    pub fn of(config: &Config, now: SystemTime) -> Result<Option<Self>, AuthorityError> {
        if !config.intercepts() {
            return Ok(None);
        }
        let constrain = &config.tls.ca.constrain;
        let Some(files) = files_of(config) else {
            tracing::warn!(
                "The certificate authority ends with this process, as nothing is kept on disk: \
                 clients must be given the next one; name files in tls.ca to keep it"
            );
            return Self::for_now(now, constrain).map(Some);
        };
        let authority = Self::lasting(files, constrain, now)?;
        authority.check_against(config, now)?;
        Ok(Some(authority))
    }

    /// The same in place of `before`, of which one without files is kept: clients know it.
    pub fn after(
        before: Option<&Arc<Self>>,
        config: &Config,
        now: SystemTime,
    ) -> Result<Option<Arc<Self>>, AuthorityError> {
        let bounds = Bounds::of(&config.tls.ca.constrain);
        let stays = |before: &&Arc<Self>| {
            before.files.is_none()
                && files_of(config).is_none()
                && before.certificate().bounds == bounds
                && now < before.certificate().not_after
        };
        if let Some(before) = before.filter(stays)
            && config.intercepts()
        {
            return Ok(Some(Arc::clone(before)));
        }
        Ok(Self::of(config, now)?.map(Arc::new))
    }

    /// The one in `files`, made if neither is there.
    pub fn lasting(
        files: CaFiles,
        constrain: &[Constraint],
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
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
        constrain: &[Constraint],
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        // The certificate alone: what is wrong with the key is no reason to keep it.
        let before = files::read_cert(&files.cert)?.map(|pem| CertificateDer::from_pem_slice(&pem));
        let before = before.and_then(|der| Certificate::read(&der.ok()?));
        if before.is_some_and(|before| !before.is_larders()) {
            return Err(AuthorityError::Operators(files.cert));
        }
        let pair = made(constrain, now)?;
        files::replace(&files, &pair, &mark(now))?;
        Self::from_pair(&pair, Some(files))
    }

    /// One that lasts as long as the process: its key lies nowhere.
    pub fn for_now(now: SystemTime, constrain: &[Constraint]) -> Result<Self, AuthorityError> {
        Self::from_pair(&made(constrain, now)?, None)
    }

    fn from_pair(pair: &Pair, files: Option<CaFiles>) -> Result<Self, AuthorityError> {
        keep_out_of_dumps();
        let CaFiles { cert, key } = files.clone().unwrap_or_default();
        let no_certificate = || AuthorityError::NoCertificate(cert.clone());
        let read = |der: Result<CertificateDer<'static>, _>| Certificate::read(&der.ok()?);
        let mut all = CertificateDer::pem_slice_iter(&pair.cert).map(read);
        let certificate = all.next().flatten().ok_or_else(no_certificate)?;
        let above = all.collect::<Option<_>>().ok_or_else(no_certificate)?;
        if let Some(what) = certificate.unfit {
            return Err(AuthorityError::NotOne { path: cert, what });
        }
        let pair = PrivateKeyDer::from_pem_slice(&pair.key).ok();
        let pair = pair.and_then(|der| KeyPair::try_from(&der).ok());
        let pair = pair.ok_or_else(|| AuthorityError::Key(key.clone()))?;
        if pair.der_bytes() != &*certificate.public_key {
            return Err(AuthorityError::Mismatch { cert, key });
        }
        let issuer = Issuer::from_ca_cert_der(certificate.der(), pair)?;
        Ok(Self { issuer, certificate, above, files })
    }

    /// Whether it can do what `config` asks of it.
    fn check_against(&self, config: &Config, now: SystemTime) -> Result<(), AuthorityError> {
        let own = self.certificate();
        if now >= own.not_after {
            return Err(self.expired());
        }
        let spared = |host: &HostPattern| config.tls.passthrough.iter().any(|p| p.covers(host));
        let outside = config
            .named()
            .filter(|host| !spared(host))
            .find(|host| Constraint::around(host).is_some_and(|hosts| !own.bounds.cover(&hosts)));
        if let Some(host) = outside {
            let (host, subject) = (host.to_string(), own.subject.clone());
            return Err(AuthorityError::Outside { host, subject });
        }
        let wanted = &config.tls.ca.constrain;
        let asked = !wanted.is_empty() || config.tls.ca.files.is_none();
        if asked && own.bounds != Bounds::of(wanted) {
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

    fn expired(&self) -> AuthorityError {
        let own = self.certificate();
        let (subject, since, fix) = (own.subject.clone(), own.not_after, self.another());
        AuthorityError::Expired { subject, since, fix }
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

fn made(constrain: &[Constraint], now: SystemTime) -> Result<Pair, AuthorityError> {
    let key = KeyPair::generate()?;
    let cert = certificate::params(&key, constrain, now)?.self_signed(&key)?;
    Ok(Pair { cert: cert.pem().into_bytes(), key: key.serialize_pem().into_bytes() })
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
