//! TLS in front of a plaintext API, with its own certificate authority.
//!
//! Owns: the authority and the leaf. Never touches: the bytes inside, which it copies in both directions.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::client::Failure;
use crate::loopback::listen;

/// A TLS frontend that serves until the example ends.
pub(crate) struct TlsFrontend {
    pub(crate) addr: SocketAddr,
    /// The root certificate to trust, PEM.
    pub(crate) root: String,
    /// The leaf certificate that it presents, DER.
    pub(crate) leaf: Vec<u8>,
}

impl TlsFrontend {
    /// Starts a frontend for host `name`, HTTP/1.1 only, in front of the API at `backend`.
    pub(crate) async fn start(name: &str, backend: SocketAddr) -> Result<Self, Failure> {
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
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let addr = listen(move |stream| relay(acceptor.clone(), stream, backend)).await?;
        Ok(Self { addr, root: issuer.pem(), leaf: leaf.der().to_vec() })
    }
}

async fn relay(acceptor: TlsAcceptor, stream: TcpStream, backend: SocketAddr) -> Option<()> {
    let mut client_side = acceptor.accept(stream).await.ok()?;
    let mut backend_side = TcpStream::connect(backend).await.ok()?;
    // Any end or error of the copy closes both sides.
    tokio::io::copy_bidirectional(&mut client_side, &mut backend_side).await.ok().map(drop)
}
