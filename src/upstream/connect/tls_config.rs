//! TLS configuration of upstreams: trusted roots and larder's client certificate.
//!
//! Owns: reading the files of roots, and the form in which pingora receives them.
//! Never touches: connections, and which calls share them (`peer`).

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora_rustls::{RootCertStore, load_platform_certs_incl_env_into_store};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::Upstream;
use crate::config::client_cert::ClientCert;

/// The TLS configurations of all upstreams.
pub struct TlsConfigs {
    by_upstream: Vec<TlsConfig>,
    /// For hosts that no upstream lists.
    other: TlsConfig,
}

/// The TLS configuration of one upstream. The default: the system's roots and no client certificate.
#[derive(Clone, Default)]
pub(in crate::upstream) struct TlsConfig {
    /// The trusted roots; `None`: the system's.
    pub(in crate::upstream) roots: Option<Arc<CaType>>,
    /// The client certificate for an origin that requests one.
    pub(in crate::upstream) client: Option<Arc<CertKey>>,
    /// Whether any certificate is accepted.
    pub(in crate::upstream) insecure: bool,
}

/// Why roots cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A file of `extra_roots` cannot be used.
    #[error("upstreams.{upstream}.tls.extra_roots: {}: {reason}", path.display())]
    ExtraRoots {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The file.
        path: PathBuf,
        /// The error.
        reason: String,
    },
    /// There is no root at all; rustls requires one even if verification is off.
    #[error(
        "upstreams.{0}.tls.insecure: this requires at least one root certificate; install the system's \
         (ca-certificates), or specify any in extra_roots"
    )]
    NoRoots(Arc<str>),
    /// The system's roots cannot be used.
    #[error(
        "the system's root certificates cannot be used: {reason}; repair them, or set SSL_CERT_FILE \
         to a valid bundle"
    )]
    SystemRoots {
        /// The error.
        reason: String,
    },
}

/// Checks that pingora can use the system's roots; its connectors panic if they cannot be loaded.
pub fn check_system_roots() -> Result<(), ProfileError> {
    let mut store = RootCertStore::empty();
    load_platform_certs_incl_env_into_store(&mut store)
        .map_err(|error| ProfileError::SystemRoots { reason: error.root_cause().to_string() })?;
    if store.is_empty() {
        tracing::warn!("No root certificate found: only upstreams with extra_roots are trusted");
    }
    Ok(())
}

impl TlsConfigs {
    /// Reads `extra_roots` of every upstream; the system's roots and `caller_roots` are added to them.
    pub fn load(upstreams: &[Arc<Upstream>], caller: &CallerRoots) -> Result<Self, ProfileError> {
        let read = |upstream: &Arc<Upstream>| {
            let client = upstream.tls.client_cert.as_ref().map(cert_key);
            Ok(TlsConfig { roots: roots(upstream, caller)?, client, insecure: upstream.tls.insecure })
        };
        let by_upstream = upstreams.iter().map(read).collect::<Result<_, _>>()?;
        let roots = (!caller.0.is_empty()).then(|| usable(system_roots(), caller));
        Ok(Self { by_upstream, other: TlsConfig { roots, ..TlsConfig::default() } })
    }

    /// The configuration of an upstream; hosts that no upstream lists get the default.
    pub(in crate::upstream) fn for_upstream(&self, index: usize) -> TlsConfig {
        self.by_upstream.get(index).unwrap_or(&self.other).clone()
    }
}

fn cert_key(pair: &ClientCert) -> Arc<CertKey> {
    Arc::new(CertKey::new(pair.chain().to_vec(), pair.reveal().to_vec()))
}

/// The roots that the caller's environment names and the system does not have: those of a company that inspects
/// TLS, for example.
#[derive(Debug, Default)]
pub struct CallerRoots(Vec<CertificateDer<'static>>);

impl CallerRoots {
    /// Reads these files and directories. One that cannot be read is reported and left out, as clients do.
    pub fn load(paths: &[PathBuf]) -> Self {
        let known: HashSet<_> = if paths.is_empty() { HashSet::new() } else { system_roots().collect() };
        let mut found = Vec::new();
        for path in paths {
            let (file, directory) = if path.is_dir() { (None, Some(path)) } else { (Some(path), None) };
            let read = rustls_native_certs::load_certs_from_paths(
                file.map(PathBuf::as_path),
                directory.map(PathBuf::as_path),
            );
            if let Some(error) = read.errors.first().filter(|_| read.certs.is_empty()) {
                tracing::warn!(path = %path.display(), %error, "The roots of the environment cannot be read");
            }
            for certificate in read.certs {
                if !known.contains(&certificate) && !found.contains(&certificate) {
                    found.push(certificate);
                }
            }
        }
        Self(found)
    }

    /// The certificates.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.0.clone()
    }
}

/// The system's roots, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
pub(in crate::upstream) fn system_roots() -> impl Iterator<Item = CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs.into_iter()
}

fn roots(upstream: &Upstream, caller: &CallerRoots) -> Result<Option<Arc<CaType>>, ProfileError> {
    if upstream.tls.extra_roots.is_empty() && !caller.0.is_empty() {
        return Ok(Some(usable(system_roots(), caller)));
    }
    if upstream.tls.extra_roots.is_empty() {
        let none = upstream.tls.insecure && rustls_native_certs::load_native_certs().certs.is_empty();
        return if none { Err(ProfileError::NoRoots(Arc::clone(&upstream.name))) } else { Ok(None) };
    }
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    for path in &upstream.tls.extra_roots {
        let failed = |reason: String| ProfileError::ExtraRoots {
            upstream: Arc::clone(&upstream.name),
            path: path.clone(),
            reason,
        };
        let read = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
        let before = certificates.len();
        for certificate in read {
            certificates.push(certificate.map_err(|e| failed(e.to_string()))?);
        }
        if certificates.len() == before {
            return Err(failed("contains no certificate".to_owned()));
        }
    }
    Ok(Some(usable(certificates.into_iter(), caller)))
}

fn usable(certificates: impl Iterator<Item = CertificateDer<'static>>, caller: &CallerRoots) -> Arc<CaType> {
    let usable: Vec<WrappedX509> = certificates
        .chain(caller.certificates())
        // pingora's parser panics on an invalid certificate.
        .filter(|der| x509_parser::parse_x509_certificate(der).is_ok())
        .map(|der| WrappedX509::new(der.to_vec(), parse_x509))
        .collect();
    Arc::from(usable)
}
