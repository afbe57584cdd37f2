//! Leaf certificates: one for each host that is intercepted.
//!
//! Owns: what a leaf says, the key that all leaves of a mint share, how many are kept, and for how
//! long. Never touches: which hosts are intercepted.
//!
//! A leaf is sent alone where clients trust the authority itself, as they do larder's own. An
//! operator's authority that another vouches for is sent along, for clients trust only that other.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
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

/// From now on; with what it is back-dated less than seven days.
const LASTS: Duration = Duration::from_secs(6 * 24 * 60 * 60);

/// How long a leaf is used: a connection that begins with it outlives it by no client's measure.
const USED: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Leaves that are kept, some 2 KiB each.
const KEPT: usize = 1000;

/// Makes leaf certificates and keeps the latest.
pub struct LeafIssuer {
    authority: Arc<CertificateAuthority>,
    key: KeyPair,
    signer: Arc<dyn SigningKey>,
    /// What the configurations of all hosts share: ciphers, the key of session tickets.
    common: ServerConfig,
    kept: Cache<String, CachedLeaf>,
    clock: Clock,
}

#[derive(Clone)]
struct CachedLeaf {
    config: Arc<ServerConfig>,
    until: SystemTime,
}

impl LeafIssuer {
    /// A mint of `authority`, with a key of its own.
    pub fn new(authority: Arc<CertificateAuthority>, clock: Clock) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = ring::default_provider().key_provider.load_private_key(der)?;
        let common = common(CertifiedKey::new(Vec::new(), Arc::clone(&signer)))?;
        Ok(Self { authority, key, signer, common, kept: Cache::new(KEPT), clock })
    }

    /// How larder presents itself as `host` (lower-case, as in a target: an IPv6 address in
    /// brackets). Offers `h2` and `http/1.1`. Who asks for a host whose leaf is being made waits
    /// for that one.
    pub fn config(&self, host: &str) -> Result<Arc<ServerConfig>, CaError> {
        let now = self.clock.now();
        let unkept = |kept: CachedLeaf| kept.config;
        if let Some(kept) = self.kept.get(host).filter(|kept| now < kept.until) {
            return Ok(unkept(kept));
        }
        let found = self.kept.entry(host, None, |_, kept: &mut CachedLeaf| {
            if now < kept.until {
                EntryAction::Retain(Arc::clone(&kept.config))
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        match found {
            EntryResult::Retained(config) => Ok(config),
            EntryResult::Vacant(place) | EntryResult::Replaced(place, _) => {
                let kept = self.made(host, now)?;
                // What cannot be kept serves this connection all the same.
                let _kept = place.insert(kept.clone());
                Ok(unkept(kept))
            }
            // Neither is asked for.
            EntryResult::Removed(..) | EntryResult::Timeout => self.made(host, now).map(unkept),
        }
    }

    fn made(&self, host: &str, now: SystemTime) -> Result<CachedLeaf, CaError> {
        let expires = self.authority.certificate().not_after;
        if now >= expires {
            return Err(self.authority.expired());
        }
        let until = now.checked_add(USED).unwrap_or(now).min(expires);
        let chain = self.chain(self.leaf_at(host, now)?);
        let certified = CertifiedKey::new(chain, Arc::clone(&self.signer));
        let mut config = self.common.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        Ok(CachedLeaf { config: Arc::new(config), until })
    }

    /// A leaf of exactly this host, for nobody but who asks: it is not kept.
    pub fn leaf(&self, host: &str) -> Result<CertificateDer<'static>, CaError> {
        self.leaf_at(host, self.clock.now())
    }

    fn leaf_at(&self, host: &str, now: SystemTime) -> Result<CertificateDer<'static>, CaError> {
        let name = name(host).ok_or_else(|| CaError::Name(shortened(host)))?;
        let issuer = self.authority.certificate();
        if !issuer.bounds.admit(host) {
            return Err(CaError::Outside {
                host: host.to_owned(),
                subject: issuer.subject.clone(),
            });
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
        params.not_after = now.checked_add(LASTS).unwrap_or(now).min(issuer.not_after).into();
        let leaf = params.signed_by(&self.key, self.authority.issuer())?;
        Ok(leaf.into())
    }

    fn chain(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        let above = self.authority.chain().filter(|one| !one.is_root);
        [leaf].into_iter().chain(above.map(|one| one.der().clone())).collect()
    }
}

/// What holds for every host. Sessions are resumed by tickets, which larder keeps no memory of.
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

/// What a certificate for this host names; `None` where none can.
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

/// Without a dot, so that nobody holds it against name constraints.
const NAMELESS: &str = "larder";

/// Old clients look here. An address is no name, and X.520 ends at 64 characters.
fn common_name(name: &SanType) -> &str {
    let SanType::DnsName(name) = name else { return NAMELESS };
    if name.as_str().len() <= 64 { name.as_str() } else { NAMELESS }
}

fn shortened(host: &str) -> String {
    host.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests;
