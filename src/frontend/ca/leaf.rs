//! Leaf certificates: one for each intercepted host.
//!
//! Owns: the fields of a leaf, the key that all leaves of an issuer share, the size and the lifetime of
//! the cache. Never touches: which hosts are intercepted.
//!
//! A leaf is sent alone if clients trust the authority itself, as they do with larder's own. If an operator's
//! authority is an intermediate, its certificate is sent along, because clients trust only the one above it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::ServerConfig;
use rustls::compress::CompressionCache;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::clock::Clock;
use crate::config::name_constraint::address;
use crate::frontend::ca::certificate::{BACKDATED, serial};
use crate::frontend::ca::{CaError, CertificateAuthority};

/// The validity from now on. With the time of [`BACKDATED`] it is less than seven days.
const VALIDITY: Duration = Duration::from_secs(6 * 24 * 60 * 60);

/// How long a leaf is used for new connections: no connection that begins with it lasts until the leaf
/// expires.
const USE_TIME: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// The maximum number of cached leaves, about 2 KiB each.
const MAX_CACHED: usize = 1000;

/// Issues leaf certificates and caches the latest.
pub struct LeafIssuer {
    authority: Arc<CertificateAuthority>,
    key: KeyPair,
    signer: Arc<dyn SigningKey>,
    /// The settings that all hosts share: ciphers, the key of session tickets.
    common: ServerConfig,
    cache: Cache<String, CachedLeaf>,
    clock: Clock,
}

#[derive(Clone)]
struct CachedLeaf {
    config: Arc<ServerConfig>,
    until: SystemTime,
}

impl LeafIssuer {
    /// Creates an issuer of `authority`, with its own key.
    pub fn new(authority: Arc<CertificateAuthority>, clock: Clock) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = ring::default_provider().key_provider.load_private_key(der)?;
        let common = common(CertifiedKey::new(Vec::new(), Arc::clone(&signer)))?;
        Ok(Self { authority, key, signer, common, cache: Cache::new(MAX_CACHED), clock })
    }

    /// The TLS configuration for `host` (lower-case, as in a target: an IPv6 address in brackets).
    /// Offers `h2` and `http/1.1`. Concurrent calls for one host share one leaf.
    pub fn config(&self, host: &str) -> Result<Arc<ServerConfig>, CaError> {
        let now = self.clock.now();
        let config_of = |leaf: CachedLeaf| leaf.config;
        if let Some(leaf) = self.cache.get(host).filter(|leaf| now < leaf.until) {
            return Ok(config_of(leaf));
        }
        let found = self.cache.entry(host, None, |_, leaf: &mut CachedLeaf| {
            if now < leaf.until {
                EntryAction::Retain(Arc::clone(&leaf.config))
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        match found {
            EntryResult::Retained(config) => Ok(config),
            EntryResult::Vacant(place) | EntryResult::Replaced(place, _) => {
                let leaf = self.issue(host, now)?;
                // If the cache rejects the leaf, it still serves this connection.
                let _inserted = place.insert(leaf.clone());
                Ok(config_of(leaf))
            }
            // Neither is requested.
            EntryResult::Removed(..) | EntryResult::Timeout => self.issue(host, now).map(config_of),
        }
    }

    fn issue(&self, host: &str, now: SystemTime) -> Result<CachedLeaf, CaError> {
        let expires = self.authority.certificate().not_after;
        if now >= expires {
            return Err(self.authority.expired());
        }
        let until = now.checked_add(USE_TIME).unwrap_or(now).min(expires);
        let chain = self.chain(self.leaf_at(host, now)?);
        let certified = CertifiedKey::new(chain, Arc::clone(&self.signer));
        let mut config = self.common.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        Ok(CachedLeaf { config: Arc::new(config), until })
    }

    /// Issues a leaf for exactly this host, which is not cached.
    pub fn leaf(&self, host: &str) -> Result<CertificateDer<'static>, CaError> {
        self.leaf_at(host, self.clock.now())
    }

    fn leaf_at(&self, host: &str, now: SystemTime) -> Result<CertificateDer<'static>, CaError> {
        let name = name(host).ok_or_else(|| CaError::Name(shortened(host)))?;
        let issuer = self.authority.certificate();
        if !issuer.bounds.allows(host) {
            return Err(CaError::Outside { host: host.to_owned(), subject: issuer.subject.clone() });
        }
        let mut params = CertificateParams::new(Vec::new())?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, common_name(&name));
        params.distinguished_name = subject;
        params.subject_alt_names = vec![name];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        let from = now.checked_sub(BACKDATED).unwrap_or(now).max(issuer.not_before);
        params.not_before = from.into();
        params.not_after = now.checked_add(VALIDITY).unwrap_or(now).min(issuer.not_after).into();
        let leaf = params.signed_by(&self.key, &self.authority.issuer)?;
        Ok(leaf.into())
    }

    /// The leaf and its issuers. Clients have the root, but the authority itself is sent even if it is one:
    /// Chromium's flag for larder's certificates names the key of a certificate that the server sends
    /// (`exec_env::chromium`).
    fn chain(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        let above = self.authority.chain().skip(1).filter(|one| !one.is_root);
        let issuers = self.authority.chain().take(1).chain(above);
        [leaf].into_iter().chain(issuers.map(|one| one.der().clone())).collect()
    }
}

/// The settings for all hosts. Sessions are resumed by tickets, for which larder stores nothing.
fn common(key: CertifiedKey) -> Result<ServerConfig, CaError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    config.cert_compression_cache = Arc::new(CompressionCache::Disabled);
    Ok(config)
}

/// The subject alternative name for this host; `None` if no certificate can contain it.
fn name(host: &str) -> Option<SanType> {
    if let Some(address) = address(host) {
        return Some(SanType::IpAddress(address));
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let labels = name.split('.').all(|label| (1..=63).contains(&label.len()));
    if !plain || !labels || name.len() > 253 {
        return None;
    }
    name.try_into().ok().map(SanType::DnsName)
}

/// It has no dot, so that no client checks it against name constraints.
const NAMELESS: &str = "larder";

/// Old clients read the common name. An address is not a name, and X.520 limits it to 64 characters.
fn common_name(name: &SanType) -> &str {
    let SanType::DnsName(name) = name else { return NAMELESS };
    if name.as_str().len() <= 64 { name.as_str() } else { NAMELESS }
}

fn shortened(host: &str) -> String {
    host.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests;
