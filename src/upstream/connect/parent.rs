//! The way through a parent proxy: a tunnel to the origin (`CONNECT`, RFC 9110 §9.3.6, or SOCKS 5, RFC 1928),
//! or a connection to the proxy itself for absolute-form requests.
//!
//! Owns: what is sent to the proxy before the origin's bytes, its credentials included, and its refusals.
//! Never touches: whether a call uses a parent (`parent_path`), TLS with the origin.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use http::HeaderValue;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_socks::tcp::Socks5Stream;
use tokio_socks::{Error as SocksError, TargetAddr};

use crate::config::parent_proxy::{ParentProtocol, ParentProxy};
use crate::upstream::connect::tls_config;
use crate::upstream::outcome::parent_error::ParentError;

/// The largest response head to a `CONNECT`.
const MAX_HEAD: usize = 16 * 1024;

/// Number of fields in it.
const MAX_FIELDS: usize = 64;

/// A parent proxy on the way to an origin.
#[derive(Debug, Clone)]
pub struct Hop {
    /// The proxy.
    pub proxy: Arc<ParentProxy>,
    /// The destination that it is asked for.
    pub target: HopTarget,
    /// TLS with a proxy whose URL is `https://`.
    pub tls: Arc<ParentTls>,
}

/// The target that a parent proxy is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HopTarget {
    /// Nothing: requests in absolute form are sent to the proxy itself.
    Requests,
    /// A tunnel to this host (in its URL form) and port, whose name the proxy looks up.
    Name(String, u16),
    /// A tunnel to this address.
    Address(SocketAddr),
}

impl Hop {
    /// Prepares a new connection to the proxy for the bytes of the call.
    pub async fn open(&self, stream: TcpStream) -> Result<OriginStream, ParentError> {
        let mut stream = match self.proxy.protocol {
            ParentProtocol::Https => OriginStream::Tls(Box::new(self.handshake(stream).await?)),
            ParentProtocol::Http | ParentProtocol::Socks5 | ParentProtocol::Socks5h => {
                OriginStream::Tcp(stream)
            }
        };
        match (self.proxy.protocol, &self.target) {
            (_, HopTarget::Requests) => Ok(stream),
            (ParentProtocol::Http | ParentProtocol::Https, target) => {
                let authority = match target {
                    HopTarget::Name(host, port) => format!("{host}:{port}"),
                    HopTarget::Address(address) => address.to_string(),
                    HopTarget::Requests => String::new(),
                };
                connect(&mut stream, &authority, self.proxy.authorization()).await?;
                Ok(stream)
            }
            (ParentProtocol::Socks5 | ParentProtocol::Socks5h, target) => self.socks(stream, target).await,
        }
    }

    async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, ParentError> {
        let host = self.proxy.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|_| ParentError::Tls)?;
        let config = self.tls.config()?;
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
            tracing::debug!(%error, proxy = %self.proxy, "The TLS handshake with the parent proxy failed");
            ParentError::Tls
        })
    }

    async fn socks(&self, stream: OriginStream, target: &HopTarget) -> Result<OriginStream, ParentError> {
        let target = match target {
            HopTarget::Name(host, port) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                bare.parse().map_or_else(
                    |_name| TargetAddr::Domain(bare.into(), *port),
                    |ip| TargetAddr::Ip(SocketAddr::new(ip, *port)),
                )
            }
            HopTarget::Address(address) => TargetAddr::Ip(*address),
            HopTarget::Requests => return Ok(stream),
        };
        let opened = match self.proxy.reveal() {
            None => Socks5Stream::connect_with_socket(stream, target).await,
            Some((user, password)) => {
                Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
            }
        };
        opened.map(Socks5Stream::into_inner).map_err(|error| socks_error(&error))
    }
}

/// Requests a tunnel and reads the response, byte by byte, since the bytes behind it belong to the tunnel.
async fn connect(
    stream: &mut OriginStream,
    authority: &str,
    authorization: Option<HeaderValue>,
) -> Result<(), ParentError> {
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(value) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let sent = async {
        stream.write_all(&request).await?;
        stream.flush().await
    };
    sent.await.map_err(|_| ParentError::Protocol)?;
    let mut head = Vec::with_capacity(256);
    loop {
        let byte = stream.read_u8().await.map_err(|_| ParentError::Protocol)?;
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
            match status(&head)? {
                100..200 => head.clear(),
                200..300 => return Ok(()),
                407 => return Err(ParentError::Authentication),
                400..500 => return Err(ParentError::Refused),
                500.. => return Err(ParentError::OriginUnreachable),
                _ => return Err(ParentError::Protocol),
            }
        }
        if head.len() >= MAX_HEAD {
            return Err(ParentError::Protocol);
        }
    }
}

fn status(head: &[u8]) -> Result<u16, ParentError> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut slots);
    let parsed = response.parse(head);
    let status = parsed.ok().filter(httparse::Status::is_complete).and(response.code);
    status.ok_or(ParentError::Protocol)
}

fn socks_error(error: &SocksError) -> ParentError {
    match error {
        SocksError::NoAcceptableAuthMethods
        | SocksError::UnknownAuthMethod
        | SocksError::PasswordAuthFailure(_)
        | SocksError::AuthorizationRequired
        | SocksError::InvalidAuthValues(_) => ParentError::Authentication,
        SocksError::ConnectionNotAllowedByRuleset | SocksError::CommandNotSupported => ParentError::Refused,
        SocksError::GeneralSocksServerFailure
        | SocksError::NetworkUnreachable
        | SocksError::HostUnreachable
        | SocksError::ConnectionRefused
        | SocksError::TtlExpired
        | SocksError::AddressTypeNotSupported => ParentError::OriginUnreachable,
        SocksError::Io(_)
        | SocksError::ParseError(_)
        | SocksError::InvalidTargetAddress(_)
        | SocksError::ProxyServerUnreachable
        | SocksError::InvalidResponseVersion
        | SocksError::UnknownError
        | SocksError::InvalidReservedByte
        | SocksError::UnknownAddressType
        | SocksError::IdentdAuthFailure
        | SocksError::InvalidUserIdAuthFailure => ParentError::Protocol,
    }
}

/// TLS with parent proxies: the system's roots and those of the caller. The roots are read at the first use.
#[derive(Default)]
pub struct ParentTls {
    caller_roots: Vec<CertificateDer<'static>>,
    config: OnceLock<Option<Arc<ClientConfig>>>,
}

impl ParentTls {
    /// Trusts these roots in addition to the system's.
    pub fn new(caller_roots: Vec<CertificateDer<'static>>) -> Self {
        Self { caller_roots, config: OnceLock::new() }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, ParentError> {
        let built = self.config.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(tls_config::system_roots());
            roots.add_parsable_certificates(self.caller_roots.iter().cloned());
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            Some(Arc::new(builder.ok()?.with_root_certificates(roots).with_no_client_auth()))
        });
        built.clone().ok_or(ParentError::Tls)
    }
}

impl std::fmt::Debug for ParentTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ParentTls({})", self.caller_roots.len())
    }
}

/// A connection over which an origin is reached, directly or through a parent proxy.
#[derive(Debug)]
pub enum OriginStream {
    /// TCP.
    Tcp(TcpStream),
    /// TLS with a parent proxy.
    Tls(Box<TlsStream<TcpStream>>),
}

impl OriginStream {
    /// The TCP connection.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for OriginStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for OriginStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// For pingora, whose own connections have a descriptor. The dialer has set the socket options.
impl VirtualSocket for OriginStream {
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}
