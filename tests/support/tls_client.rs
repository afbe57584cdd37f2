//! A client that uses TLS in a tunnel through larder and trusts only larder's certificate authority.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Client;
use crate::larder_under_test::Larder;
use crate::unverified_tls::AcceptAnyCertificate;

/// The settings of a client: the larder for its tunnels and its TLS configuration.
pub struct TlsClient {
    pub larder: SocketAddr,
    config: ClientConfig,
}

impl TlsClient {
    /// A client of `larder` that offers `protocols`.
    pub fn for_larder(larder: &Larder, protocols: &[&str]) -> Self {
        let ca = larder.server.ca().expect("larder intercepts");
        Self::trusting(larder.addr(), &ca, protocols)
    }

    /// A client that trusts only the certificates in `roots` (PEM).
    pub fn trusting(larder: SocketAddr, roots: &str, protocols: &[&str]) -> Self {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root.expect("a certificate")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(FixedTime))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { larder, config }
    }

    /// The same client without SNI.
    pub fn without_sni(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    /// The same client without certificate verification.
    pub fn without_verification(mut self) -> Self {
        self.config.dangerous().set_certificate_verifier(Arc::new(AcceptAnyCertificate));
        self
    }

    /// Opens a tunnel to `authority`.
    pub async fn tunnel(&self, authority: &str) -> TcpStream {
        let mut client = Client::connect(self.larder).await;
        client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
        let response = client.response("CONNECT").await.expect("a response");
        assert_eq!(response.status, 200, "{}", response.text());
        client.stream
    }

    /// Opens a tunnel to `authority` and a TLS connection in it to the host `name`.
    pub async fn connect(&self, authority: &str, name: &str) -> io::Result<TlsStream<TcpStream>> {
        let tunnel = self.tunnel(authority).await;
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        TlsConnector::from(Arc::new(self.config.clone())).connect(name, tunnel).await
    }

    /// An HTTP/1.1 connection to `host` on port 443.
    pub async fn http1(&self, host: &str) -> Client<TlsStream<TcpStream>> {
        Client::over(self.connect(&format!("{host}:443"), host).await.expect("a handshake"))
    }
}

/// The start time of the manual clock of a [`Larder`].
#[derive(Debug)]
struct FixedTime;

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)))
    }
}

/// The certificate chain of the server.
pub fn peer_certificates(stream: &TlsStream<TcpStream>) -> Vec<CertificateDer<'static>> {
    let (_, connection) = stream.get_ref();
    connection
        .peer_certificates()
        .map(|chain| chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
        .unwrap_or_default()
}
