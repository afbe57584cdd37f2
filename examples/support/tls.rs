//! TLS in front of an API that speaks in the clear, with a certificate authority of its own.
//!
//! Owns: the authority and the leaf. Never touches: the bytes inside, which are copied both ways.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::client::Failure;

/// It serves as long as the example runs.
pub(crate) struct Front {
    pub(crate) addr: SocketAddr,
    /// The root to trust, PEM.
    pub(crate) root: String,
    /// The certificate that it presents, DER.
    pub(crate) leaf: Vec<u8>,
}

impl Front {
    /// As `name`, HTTP/1.1 inside, in front of what listens at `behind`.
    pub(crate) async fn start(name: &str, behind: SocketAddr) -> Result<Self, Failure> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "The fake API's own root");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(acceptor.clone(), stream, behind));
            }
        });
        Ok(Self { addr, root: issuer.pem(), leaf: leaf.der().to_vec() })
    }
}

async fn converse(acceptor: TlsAcceptor, stream: TcpStream, behind: SocketAddr) -> Option<()> {
    let mut outside = acceptor.accept(stream).await.ok()?;
    let mut inside = TcpStream::connect(behind).await.ok()?;
    // However it ends, both sides see it.
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.ok().map(drop)
}
