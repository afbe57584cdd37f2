//! The load: an origin, and clients on kept-alive connections in absolute-form.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const CONNECTIONS: usize = 32;

/// An origin and its clients on a runtime of their own.
pub(crate) struct Load {
    runtime: Runtime,
    calls: Arc<AtomicUsize>,
}

/// The address and the request of a load.
pub(crate) struct Target {
    address: SocketAddr,
    request: String,
}

impl Target {
    pub(crate) fn new(address: SocketAddr, path: &str) -> Self {
        Self { address, request: request(path) }
    }
}

/// The header fields of a response and the length of its body.
pub(crate) struct Response {
    pub(crate) fields: Vec<String>,
    pub(crate) body: usize,
}

/// The time until the last of many clients had its response.
pub(crate) struct Together {
    pub(crate) cold: f64,
    pub(crate) fresh: f64,
}

fn request(path: &str) -> String {
    format!(
        "GET http://api.example.test{path} HTTP/1.1\r\nHost: api.example.test\r\n\
         User-Agent: bench/1.0\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n\
         Connection: keep-alive\r\n\r\n"
    )
}

impl Load {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self { runtime: runtime.expect("a runtime"), calls: Arc::default() }
    }

    /// The number of calls that the origin received.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Starts an origin whose response bodies have `bytes` bytes.
    pub(crate) fn origin(&self, bytes: usize) -> SocketAddr {
        let calls = Arc::clone(&self.calls);
        self.runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, bytes, Arc::clone(&calls)));
                }
            });
            address
        })
    }

    /// Sends four requests, so that the returned response is the one that the load will get.
    pub(crate) fn warm(&self, target: &Target) -> Response {
        self.runtime.block_on(async {
            let mut stream = connect(target.address).await;
            let mut buffer = Vec::new();
            for _ in 0..3 {
                send(&mut stream, &target.request, &mut buffer).await;
            }
            send(&mut stream, &target.request, &mut buffer).await
        })
    }

    /// Sends `requests` requests over all connections.
    pub(crate) fn run(&self, target: &Target, requests: usize) {
        self.runtime.block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..CONNECTIONS {
                let (address, request) = (target.address, target.request.clone());
                clients.spawn(async move {
                    let mut stream = connect(address).await;
                    let mut buffer = Vec::new();
                    let body = send(&mut stream, &request, &mut buffer).await.body;
                    for _ in 1..requests / CONNECTIONS {
                        stream.write_all(request.as_bytes()).await.expect("a reader");
                        read_response(&mut stream, &mut buffer, body).await;
                    }
                });
            }
            while let Some(client) = clients.join_next().await {
                client.expect("a client that got its responses");
            }
        });
    }

    /// Requests `keys` different URLs, each once; returns the time of each.
    pub(crate) fn fill(&self, address: SocketAddr, keys: usize) -> Vec<Duration> {
        self.fill_over(address, keys, CONNECTIONS)
    }

    /// The same over this many connections.
    pub(crate) fn fill_over(&self, address: SocketAddr, keys: usize, connections: usize) -> Vec<Duration> {
        self.runtime.block_on(async {
            let mut clients = JoinSet::new();
            for client in 0..connections {
                clients.spawn(async move {
                    let mut stream = connect(address).await;
                    let mut buffer = Vec::new();
                    let mut times = Vec::with_capacity(keys / connections + 1);
                    for key in (client..keys).step_by(connections) {
                        let request = request(&format!("/key/{key}"));
                        let since = Clock::system().instant();
                        send(&mut stream, &request, &mut buffer).await;
                        times.push(Clock::system().instant().saturating_duration_since(since));
                    }
                    times
                });
            }
            let mut times = Vec::with_capacity(keys);
            while let Some(client) = clients.join_next().await {
                times.extend(client.expect("a client that got its responses"));
            }
            times
        })
    }

    /// `clients` connected clients request the same URL concurrently: first cold, then each once more.
    pub(crate) fn together(&self, target: &Target, clients: usize) -> Together {
        self.runtime.block_on(async {
            let start = Arc::new(Barrier::new(clients + 1));
            let mut all = JoinSet::new();
            for _ in 0..clients {
                let (address, request) = (target.address, target.request.clone());
                let start = Arc::clone(&start);
                all.spawn(async move {
                    let mut stream = connect(address).await;
                    let mut buffer = Vec::new();
                    start.wait().await;
                    send(&mut stream, &request, &mut buffer).await;
                    let cold = Clock::system().instant();
                    start.wait().await;
                    start.wait().await;
                    send(&mut stream, &request, &mut buffer).await;
                    (cold, Clock::system().instant())
                });
            }
            start.wait().await;
            let began_cold = Clock::system().instant();
            start.wait().await;
            let began_fresh = Clock::system().instant();
            start.wait().await;
            let (mut cold, mut fresh) = (Duration::ZERO, Duration::ZERO);
            while let Some(client) = all.join_next().await {
                let (got_cold, got_fresh) = client.expect("a client that got its responses");
                cold = cold.max(got_cold.saturating_duration_since(began_cold));
                fresh = fresh.max(got_fresh.saturating_duration_since(began_fresh));
            }
            Together { cold: cold.as_secs_f64(), fresh: fresh.as_secs_f64() }
        })
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the subject accepts");
    stream.set_nodelay(true).expect("a socket");
    stream
}

async fn send(stream: &mut TcpStream, request: &str, buffer: &mut Vec<u8>) -> Response {
    buffer.clear();
    stream.write_all(request.as_bytes()).await.expect("a reader");
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(stream.read_buf(buffer).await.expect("a response") > 0, "closed");
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let fields: Vec<String> = head.lines().skip(1).take_while(|l| !l.is_empty()).map(str::to_owned).collect();
    let length =
        fields.iter().find_map(|f| f.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let body: usize = length.expect("a length");
    while buffer.len() < end + body {
        assert!(stream.read_buf(buffer).await.expect("a body") > 0, "cut");
    }
    Response { fields, body }
}

/// Reads one response whose body has `body` bytes; its head may grow (`Age`).
async fn read_response(stream: &mut TcpStream, buffer: &mut Vec<u8>, body: usize) {
    buffer.clear();
    loop {
        assert!(stream.read_buf(buffer).await.expect("a response") > 0, "closed");
        let head = buffer.windows(4).position(|w| w == b"\r\n\r\n");
        if head.is_some_and(|end| buffer.len() >= end + 4 + body) {
            return;
        }
    }
}

async fn serve(mut stream: TcpStream, bytes: usize, calls: Arc<AtomicUsize>) {
    let body = "x".repeat(bytes);
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"an-etag-of-some-length\"\r\n\
         Server: origin\r\nX-Request-Id: 0123456789abcdef\r\nContent-Length: {bytes}\r\n\r\n{body}"
    );
    let mut buffer = Vec::new();
    loop {
        while !buffer.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        buffer.clear();
        calls.fetch_add(1, Ordering::SeqCst);
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}
