//! Leaf certificates: one for each host that is intercepted.
//!
//! Owns: what a leaf says, the key that all leaves of a process share, how many are kept.
//! Never touches: which hosts are intercepted.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::clock::Clock;
use crate::front::authority::{Authority, AuthorityError};

/// Makes leaf certificates and keeps the latest.
pub struct Mint {
    authority: Arc<Authority>,
    key: KeyPair,
    #[expect(dead_code, reason = "the validity of leaves comes next")]
    clock: Clock,
}

impl Mint {
    /// A mint of `authority`.
    pub fn new(authority: Arc<Authority>, clock: Clock) -> Result<Self, AuthorityError> {
        Ok(Self { authority, key: KeyPair::generate()?, clock })
    }

    /// How larder presents itself as `host` (lower-case, as in a target: an IPv6 address in
    /// brackets). Offers `h2` and `http/1.1`.
    pub fn config(&self, host: &str) -> Result<Arc<ServerConfig>, AuthorityError> {
        let name = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let params = CertificateParams::new(vec![name.to_owned()])?;
        let leaf = params.signed_by(&self.key, &self.authority.issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key)
            });
        let mut config = config.map_err(|_| rcgen::Error::RemoteKeyError)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
