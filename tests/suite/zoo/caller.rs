//! A strict client of an origin or of larder. It keeps its connection open as long as the other side does.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::real_origin::HOST;
use crate::strict_http1::H1;
use crate::strict_http2::H2;
use crate::strict_response::{Fault, ReceivedResponse, TIMEOUT};
use crate::tls_client::TlsClient;
use crate::tls_origin::TestCa;
use crate::zoo::cases::Version;

/// The peer that a client connects to.
pub enum Dial {
    /// An origin, in the clear.
    Origin(SocketAddr),
    /// An origin with TLS.
    OriginTls(SocketAddr, Arc<ClientConfig>),
    /// Larder as a forward proxy.
    Larder(SocketAddr),
    /// Larder through a tunnel, in which it intercepts TLS.
    LarderTls(Box<TlsClient>),
}

enum Connection {
    H1(H1),
    H2(H2),
}

/// A client with at most one connection.
pub struct Caller {
    dial: Dial,
    version: Version,
    open: Option<Connection>,
}

impl Caller {
    pub fn new(dial: Dial, version: Version) -> Self {
        Self { dial, version, open: None }
    }

    /// A client of a TLS origin that trusts `authority`.
    pub fn for_tls_origin(addr: SocketAddr, authority: &TestCa, version: Version) -> Self {
        let pem = std::fs::read(authority.root()).expect("a root");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).expect("a certificate")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol(version).as_bytes().to_vec()];
        Self::new(Dial::OriginTls(addr, Arc::new(config)), version)
    }

    /// Requests a path, on a new connection if the other side has closed the previous one.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&'static str, String)],
    ) -> Result<ReceivedResponse, Fault> {
        let reused = self.open.is_some();
        match self.attempt(method, path, fields).await {
            Err(Fault::NotProcessed) if reused => self.attempt(method, path, fields).await,
            // An origin may close an idle connection while a request is on its way.
            Err(Fault::NoResponse) if reused && self.is_direct() => self.attempt(method, path, fields).await,
            outcome => outcome,
        }
    }

    /// Waits until the other side closes the idle connection; false if it does not.
    pub async fn is_closed_when_idle(&mut self) -> bool {
        match self.open.take() {
            None => true,
            Some(Connection::H1(mut connection)) => connection.is_closed_within(TIMEOUT / 4).await,
            Some(Connection::H2(mut connection)) => connection.is_closed_within(TIMEOUT / 4).await,
        }
    }

    fn is_direct(&self) -> bool {
        matches!(self.dial, Dial::Origin(_) | Dial::OriginTls(..))
    }

    async fn attempt(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&'static str, String)],
    ) -> Result<ReceivedResponse, Fault> {
        let connection = match self.open.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let (outcome, kept) = match connection {
            Connection::H1(mut connection) => {
                let target = match self.dial {
                    Dial::Larder(_) => format!("http://{HOST}{path}"),
                    Dial::Origin(_) | Dial::OriginTls(..) | Dial::LarderTls(_) => path.to_owned(),
                };
                let outcome = connection.send(method, &target, &lines(fields)).await;
                (outcome, connection.reusable.then_some(Connection::H1(connection)))
            }
            Connection::H2(mut connection) => {
                let outcome = connection.send(method, &format!("https://{HOST}{path}"), fields).await;
                (outcome, connection.is_reusable().then_some(Connection::H2(connection)))
            }
        };
        self.open = kept.filter(|_| outcome.is_ok());
        outcome
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let name = || ServerName::try_from(HOST).expect("a server name");
        let refused = |error: std::io::Error| Fault::Violation(format!("no connection: {error}"));
        let tls = match &self.dial {
            Dial::Origin(addr) | Dial::Larder(addr) => {
                let stream = TcpStream::connect(addr).await.map_err(refused)?;
                return Ok(Connection::H1(H1::over(stream)));
            }
            Dial::OriginTls(addr, config) => {
                let stream = TcpStream::connect(addr).await.map_err(refused)?;
                TlsConnector::from(Arc::clone(config)).connect(name(), stream).await
            }
            Dial::LarderTls(client) => client.connect(&format!("{HOST}:443"), HOST).await,
        };
        let stream = tls.map_err(refused)?;
        let agreed = stream.get_ref().1.alpn_protocol();
        match self.version {
            Version::H2 if agreed != Some(b"h2") => {
                Err(Fault::Violation(format!("HTTP/2 was not agreed on: {agreed:?}")))
            }
            Version::H2 => Ok(Connection::H2(H2::over(stream).await?)),
            Version::H1 => Ok(Connection::H1(H1::over(stream))),
        }
    }
}

/// The ALPN name of a version.
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::H1 => "http/1.1",
        Version::H2 => "h2",
    }
}

fn lines(fields: &[(&'static str, String)]) -> Vec<String> {
    let mut lines = vec![format!("Host: {HOST}")];
    lines.extend(fields.iter().map(|(name, value)| format!("{name}: {value}")));
    if fields.iter().any(|(name, _)| *name == "TE") {
        lines.push("Connection: TE".into());
    }
    lines
}
