//! The load over TLS: an origin with TLS, and clients that use CONNECT tunnels.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::unverified_tls::AcceptAnyCertificate;

const CONNECTIONS: usize = 32;

const REQUEST: &str = "GET /hit HTTP/1.1\r\nHost: api.example.test\r\nUser-Agent: bench/1.0\r\n\
                       Accept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n\
                       Connection: keep-alive\r\n\r\n";

/// An origin and its clients on a runtime of their own.
pub(crate) struct TlsLoad {
    runtime: Runtime,
    connector: TlsConnector,
}

impl TlsLoad {
    pub(crate) fn new() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Every handshake is a full one.
        config.resumption = rustls::client::Resumption::disabled();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        Self { runtime, connector: TlsConnector::from(Arc::new(config)) }
    }

    /// Starts an origin whose response bodies have `bytes` bytes; returns its address.
    pub(crate) fn origin(&self, bytes: usize) -> String {
        let acceptor = acceptor();
        let body = "x".repeat(bytes);
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{body}");
        self.runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, response) = (acceptor.clone(), response.clone());
                    tokio::spawn(async move {
                        let Ok(mut stream) = acceptor.accept(stream).await else { return };
                        let mut buffer = Vec::new();
                        while head(&mut stream, &mut buffer).await.is_some() {
                            buffer.clear();
                            let sent = stream.write_all(response.as_bytes()).await;
                            if sent.is_err() || stream.flush().await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
            address.to_string()
        })
    }

    /// Sends `requests` requests over kept-alive connections.
    pub(crate) fn run(&self, larder: SocketAddr, requests: usize) {
        self.runtime.block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..CONNECTIONS {
                let connector = self.connector.clone();
                clients.spawn(async move {
                    let mut stream = connect(&connector, larder, "api.example.test").await;
                    let mut buffer = Vec::new();
                    for _ in 0..requests / CONNECTIONS {
                        stream.write_all(REQUEST.as_bytes()).await.expect("a reader");
                        stream.flush().await.expect("a reader");
                        buffer.clear();
                        let end = head(&mut stream, &mut buffer).await.expect("a response");
                        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
                        while buffer.len() < end + 1024 {
                            assert!(stream.read_buf(&mut buffer).await.expect("a body") > 0, "cut");
                        }
                    }
                });
            }
            while let Some(client) = clients.join_next().await {
                client.expect("a client that got its responses");
            }
        });
    }

    /// Opens one connection to each of this many hosts, without sending a request.
    pub(crate) fn connect_each(&self, larder: SocketAddr, hosts: usize) {
        self.runtime.block_on(async {
            for host in 0..hosts {
                let name = format!("h{host}.hosts.example.test");
                let mut stream = connect(&self.connector, larder, &name).await;
                stream.shutdown().await.expect("an end");
                // Reads the session tickets and the end of the stream.
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.expect("a clean end");
            }
        });
    }
}

async fn connect(connector: &TlsConnector, larder: SocketAddr, host: &str) -> TlsStream<TcpStream> {
    let mut stream = TcpStream::connect(larder).await.expect("the subject accepts");
    stream.set_nodelay(true).expect("a socket");
    let request = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a reader");
    let mut buffer = Vec::new();
    head(&mut stream, &mut buffer).await.expect("a response");
    assert!(buffer.starts_with(b"HTTP/1.1 200"), "no tunnel");
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    connector.connect(name, stream).await.expect("a handshake")
}

/// Reads a head; returns its length.
async fn head<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<usize> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            return Some(end + 4);
        }
        if !stream.read_buf(buffer).await.is_ok_and(|read| read > 0) {
            return None;
        }
    }
}

fn acceptor() -> TlsAcceptor {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["api.example.test".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate").der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key belongs to the certificate");
    TlsAcceptor::from(Arc::new(config))
}
