//! A TLS origin for HTTP/1.1 and HTTP/2, and a certificate authority for tests.
//!
//! Its HTTP/2 implements only the required minimum of RFC 9113, so that a test decides which frames are sent.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The protocols that the origin offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    H1,
    H2,
    /// Both; the client chooses.
    Both,
}

/// The certificate of the origin, valid or with one fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// Valid for `api.example.test`, `two.example.test`, `secure.example.test` and `127.0.0.1`.
    Good,
    OtherName,
    SelfSigned,
    /// A self-signed CA certificate, as `openssl req -x509` creates.
    SelfSignedCa,
    Expired,
    NotYetValid,
}

/// A client certificate, in files that only their owner can read.
pub struct ClientFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The certificate as the origin receives it.
    pub der: Vec<u8>,
}

/// A certificate authority with its root certificate in a file.
pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl TestCa {
    pub fn new() -> Self {
        Self::named("Test Root")
    }

    /// An authority with this common name and a new key.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a root");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("root.pem"), issuer.pem()).expect("a file");
        Self { issuer, directory }
    }

    /// The file with the root certificate.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    /// Issues a certificate for the name `name`.
    pub fn client(&self, name: &str) -> ClientFiles {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |ending: &str, text: String| {
            let path = self.directory.path().join(format!("{name}{ending}"));
            std::fs::write(&path, text).expect("a file");
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode");
            path
        };
        ClientFiles {
            cert: file(".pem", leaf.pem()),
            key: file("-key.pem", key.serialize_pem()),
            der: leaf.der().to_vec(),
        }
    }

    fn config(
        &self,
        certificate: Certificate,
        protocols: Protocols,
        requirements: ClientRequirements,
    ) -> ServerConfig {
        let names: &[&str] = match certificate {
            Certificate::OtherName => &["other.example.test"],
            Certificate::Good => {
                &["api.example.test", "two.example.test", "secure.example.test", "127.0.0.1"]
            }
            Certificate::SelfSigned
            | Certificate::SelfSignedCa
            | Certificate::Expired
            | Certificate::NotYetValid => &["api.example.test"],
        };
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        let (from, to) = match certificate {
            Certificate::Expired => (2020, 2021),
            Certificate::NotYetValid => (3000, 3001),
            Certificate::Good
            | Certificate::OtherName
            | Certificate::SelfSigned
            | Certificate::SelfSignedCa => (1975, 4096),
        };
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        if certificate == Certificate::SelfSignedCa {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().expect("a key");
        let leaf = match certificate {
            Certificate::SelfSigned | Certificate::SelfSignedCa => params.self_signed(&key),
            Certificate::Good | Certificate::OtherName | Certificate::Expired | Certificate::NotYetValid => {
                params.signed_by(&key, &self.issuer)
            }
        };
        let leaf = leaf.expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(requirements.versions)
            .expect("ring has them");
        let builder = if requirements.client_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("one root"))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder
            .with_single_cert(vec![leaf.der().clone()], key)
            .expect("the key belongs to the certificate");
        config.alpn_protocols = match protocols {
            Protocols::H1 => vec![b"http/1.1".to_vec()],
            Protocols::H2 => vec![b"h2".to_vec()],
            Protocols::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        config
    }
}

/// The requirements of the origin for its clients.
#[derive(Clone, Copy)]
pub struct ClientRequirements {
    pub client_certificate: bool,
    pub versions: &'static [&'static SupportedProtocolVersion],
}

impl ClientRequirements {
    pub const NONE: Self = Self { client_certificate: false, versions: rustls::ALL_VERSIONS };
}

/// A running TLS origin; it ends with the test.
pub struct TlsOrigin {
    pub addr: SocketAddr,
    stats: Arc<Stats>,
    accept_task: JoinHandle<()>,
}

#[derive(Default)]
struct Stats {
    attempts: AtomicUsize,
    /// The certificate of each client whose handshake was completed.
    client_certificates: Mutex<Vec<Option<Vec<u8>>>>,
    calls: AtomicUsize,
}

impl Drop for TlsOrigin {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

impl TlsOrigin {
    /// Starts an origin that sends a 200 with `body` to every request.
    pub async fn start(
        authority: &TestCa,
        certificate: Certificate,
        protocols: Protocols,
        body: &'static str,
    ) -> Self {
        Self::with_requirements(authority, certificate, protocols, ClientRequirements::NONE, body).await
    }

    /// The same with requirements for its clients.
    pub async fn with_requirements(
        authority: &TestCa,
        certificate: Certificate,
        protocols: Protocols,
        requirements: ClientRequirements,
        body: &'static str,
    ) -> Self {
        let config = authority.config(certificate, protocols, requirements);
        Self::start_with(config, move |stream, stats| async move {
            match protocols {
                Protocols::H1 => serve_http1(stream, body, &stats.calls).await,
                Protocols::H2 | Protocols::Both => serve_http2(stream, body, &stats.calls).await,
            }
        })
        .await
    }

    /// The number of accepted TCP connections.
    pub fn attempts(&self) -> usize {
        self.stats.attempts.load(Ordering::SeqCst)
    }

    /// Terminates TLS in front of a plain-text origin at `backend`.
    pub async fn in_front_of(authority: &TestCa, backend: SocketAddr) -> Self {
        let config = authority.config(Certificate::Good, Protocols::H1, ClientRequirements::NONE);
        Self::start_with(config, move |mut client, _stats| async move {
            let mut origin = TcpStream::connect(backend).await.ok()?;
            // Both connections are closed, whether it ends with an error or not.
            tokio::io::copy_bidirectional(&mut client, &mut origin).await.ok().map(|_bytes| ())
        })
        .await
    }

    /// An HTTP/2 origin that sends each request body back once it is complete, with the trailer
    /// `grpc-status: 0`.
    pub async fn with_trailers(authority: &TestCa) -> Self {
        let config = authority.config(Certificate::Good, Protocols::H2, ClientRequirements::NONE);
        Self::start_with(config, |stream, _stats| async {
            let mut connection = h2::server::handshake(stream).await.ok()?;
            while let Some(Ok((request, response))) = connection.accept().await {
                tokio::spawn(respond_with_trailers(request.into_body(), response));
            }
            Some(())
        })
        .await
    }

    /// An HTTP/2 origin that sends the frames of `script`, which gets the number of the call and of the
    /// connection, both from 0, and the stream identifier. A client that negotiates HTTP/1.1 gets the body
    /// `http/1.1`, or, if it requests an upgrade, a 101 and then an echo of its bytes.
    pub async fn scripted(
        authority: &TestCa,
        script: impl Fn(usize, usize, u32) -> Vec<Action> + Send + Sync + 'static,
    ) -> Self {
        let config = authority.config(Certificate::Good, Protocols::Both, ClientRequirements::NONE);
        let script = Arc::new(script);
        Self::start_with(config, move |stream, stats| {
            let script = Arc::clone(&script);
            let connection = stats.client_certificates.lock().len() - 1;
            async move {
                if stream.get_ref().1.alpn_protocol() == Some(b"http/1.1") {
                    return serve_http1_or_echo(stream).await;
                }
                let script = |call, stream| script(call, connection, stream);
                serve_frames(stream, &stats.calls, script).await
            }
        })
        .await
    }

    /// An HTTP/2 origin that allows one stream at a time. It responds to the path `/held` after a
    /// notification of `release`, and to all others at once.
    pub async fn one_stream_at_a_time(authority: &TestCa, release: Arc<tokio::sync::Notify>) -> Self {
        let config = authority.config(Certificate::Good, Protocols::H2, ClientRequirements::NONE);
        Self::start_with(config, move |stream, stats| {
            let release = Arc::clone(&release);
            async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(1);
                let mut connection = builder.handshake::<_, bytes::Bytes>(stream).await.ok()?;
                while let Some(Ok((request, mut response))) = connection.accept().await {
                    stats.calls.fetch_add(1, Ordering::SeqCst);
                    let release = Arc::clone(&release);
                    tokio::spawn(async move {
                        if request.uri().path() == "/held" {
                            release.notified().await;
                        }
                        response.send_response(http::Response::new(()), true)
                    });
                }
                Some(())
            }
        })
        .await
    }

    /// Starts an origin that runs `serve` for each connection after its handshake, and counts these.
    async fn start_with<F>(
        config: ServerConfig,
        serve: impl Fn(TlsStream<TcpStream>, Arc<Stats>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Option<()>> + Send + 'static,
    {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let stats: Arc<Stats> = Arc::default();
        let (shared, serve) = (Arc::clone(&stats), Arc::new(Mutex::new(serve)));
        let accept_task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, stats) = (acceptor.clone(), Arc::clone(&shared));
                let serve = Arc::clone(&serve);
                tokio::spawn(async move {
                    stats.attempts.fetch_add(1, Ordering::SeqCst);
                    let stream = handshake(&acceptor, stream).await?;
                    let chain = stream.get_ref().1.peer_certificates();
                    let client = chain.and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
                    let served = {
                        let serve = serve.lock();
                        stats.client_certificates.lock().push(client);
                        serve(stream, stats)
                    };
                    served.await
                });
            }
        });
        Self { addr, stats, accept_task }
    }

    /// The number of completed handshakes.
    pub fn connections(&self) -> usize {
        self.stats.client_certificates.lock().len()
    }

    /// The client certificate of each completed handshake.
    pub fn client_certificates(&self) -> Vec<Option<Vec<u8>>> {
        self.stats.client_certificates.lock().clone()
    }

    /// The number of received requests.
    pub fn calls(&self) -> usize {
        self.stats.calls.load(Ordering::SeqCst)
    }
}

/// Completes a handshake. After a failure it ends its side and reads until the client closes: a reset would
/// discard the alert before the client reads it.
async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => Some(stream),
        Err((_error, mut stream)) => {
            stream.shutdown().await.ok()?;
            let mut sink = [0; 1024];
            while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
            None
        }
    }
}

/// Serves HTTP/1.1 until the client disconnects.
async fn serve_http1(mut stream: TlsStream<TcpStream>, body: &str, calls: &AtomicUsize) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
            (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
        }
        let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        bytes.clear();
        calls.fetch_add(1, Ordering::SeqCst);
        let response = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(response.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
        // PHP's streams send `Connection: close` and read until the connection ends.
        if head.contains("\r\nconnection: close\r\n") {
            return stream.shutdown().await.ok();
        }
    }
}

/// Serves HTTP/1.1 until the client disconnects; after an upgrade it echoes all bytes.
async fn serve_http1_or_echo(mut stream: TlsStream<TcpStream>) -> Option<()> {
    loop {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
        }
        let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if head.contains("\r\nupgrade: ") {
            let switch = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch.as_bytes()).await.ok()?;
            let (mut read, mut write) = tokio::io::split(stream);
            return tokio::io::copy(&mut read, &mut write).await.ok().map(|_bytes| ());
        }
        stream.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 8\r\n\r\nhttp/1.1").await.ok()?;
        stream.flush().await.ok()?;
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// An action of a scripted origin.
#[derive(Debug, Clone)]
pub enum Action {
    Frame {
        kind: u8,
        flags: u8,
        id: u32,
        payload: Vec<u8>,
    },
    /// Ends the connection.
    Close,
}

impl Action {
    /// A response head with this status and a `content-length`.
    pub fn head(id: u32, status: u16, length: Option<usize>, ends: bool) -> Self {
        let table = [(200, 0x88), (204, 0x89), (404, 0x8d), (500, 0x8e)];
        let indexed = table.iter().find(|(indexed, _)| *indexed == status).map(|(_, byte)| *byte);
        let mut payload = match indexed {
            Some(byte) => vec![byte],
            // A literal value with the name of entry 8 of HPACK's static table, `:status`.
            None => [&[0x08, 3][..], status.to_string().as_bytes()].concat(),
        };
        if let Some(length) = length {
            // `content-length` is entry 28 of the static table.
            let digits = length.to_string();
            payload.extend_from_slice(&[0x0f, 0x0d, u8::try_from(digits.len()).expect("short")]);
            payload.extend_from_slice(digits.as_bytes());
        }
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        Self::Frame { kind: HEADERS, flags, id, payload }
    }

    pub fn data(id: u32, payload: &[u8], ends: bool) -> Self {
        let flags = if ends { END_STREAM } else { 0 };
        Self::Frame { kind: DATA, flags, id, payload: payload.to_vec() }
    }

    pub fn reset(id: u32, reason: h2::Reason) -> Self {
        let payload = u32::from(reason).to_be_bytes().to_vec();
        Self::Frame { kind: RST_STREAM, flags: 0, id, payload }
    }

    pub fn goaway(last: u32, reason: h2::Reason) -> Self {
        let payload = [last.to_be_bytes(), u32::from(reason).to_be_bytes()].concat();
        Self::Frame { kind: GOAWAY, flags: 0, id: 0, payload }
    }
}

/// Serves HTTP/2 until the client disconnects.
async fn serve_http2(stream: TlsStream<TcpStream>, body: &str, calls: &AtomicUsize) -> Option<()> {
    let script =
        |_call, id| vec![Action::head(id, 200, None, false), Action::data(id, body.as_bytes(), true)];
    serve_frames(stream, calls, script).await
}

/// Sends the actions of `script` for each request, until the client disconnects.
async fn serve_frames(
    mut stream: TlsStream<TcpStream>,
    calls: &AtomicUsize,
    script: impl Fn(usize, u32) -> Vec<Action>,
) -> Option<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.ok()?;
    write_frame(&mut stream, SETTINGS, 0, 0, &[]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let mut payload = vec![0; usize::try_from(length).ok()?];
        stream.read_exact(&mut payload).await.ok()?;
        match (head[3], head[4]) {
            (SETTINGS, flags) if flags & ACK == 0 => {
                write_frame(&mut stream, SETTINGS, ACK, 0, &[]).await?;
            }
            (PING, flags) if flags & ACK == 0 => {
                write_frame(&mut stream, PING, ACK, 0, &payload).await?;
            }
            (HEADERS, _) => {
                for act in script(calls.fetch_add(1, Ordering::SeqCst), id) {
                    let Action::Frame { kind, flags, id, payload } = act else {
                        return stream.shutdown().await.ok();
                    };
                    write_frame(&mut stream, kind, flags, id, &payload).await?;
                }
            }
            _ => {}
        }
    }
}

async fn write_frame(
    stream: &mut TlsStream<TcpStream>,
    kind: u8,
    flags: u8,
    id: u32,
    payload: &[u8],
) -> Option<()> {
    let length = u32::try_from(payload.len()).ok()?.to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await.ok()?;
    stream.flush().await.ok()
}

async fn respond_with_trailers(
    mut request: h2::RecvStream,
    mut response: h2::server::SendResponse<bytes::Bytes>,
) -> Result<(), h2::Error> {
    let mut body = Vec::new();
    while let Some(piece) = request.data().await {
        body.extend_from_slice(&piece?);
    }
    let mut stream = response.send_response(http::Response::new(()), false)?;
    stream.send_data(body.into(), false)?;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}
