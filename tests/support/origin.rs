//! A scripted origin: it sends the exact bytes that its script returns, and records all requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A request as the origin received it.
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    /// Its number among all requests, from 0.
    pub index: usize,
    /// The number of its connection, from 0.
    pub connection: usize,
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub raw_head: String,
}

impl ReceivedRequest {
    /// The first value of a field; the name is case-insensitive.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// A gate that a script waits for and a test opens.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open.
    pub async fn wait_open(&self) {
        let mut open = self.0.subscribe();
        open.wait_for(|open| *open).await.expect("the gate lives as long as its script");
    }
}

/// One step of a response.
#[derive(Clone)]
pub enum Step {
    Write(Vec<u8>),
    /// Writes the bytes this many times, without a buffer for all of them.
    Repeat(&'static [u8], usize),
    Wait(Gate),
    /// Sleeps in real time, for tests of timeouts.
    Pause(Duration),
    /// Closes the connection regularly.
    Close,
    /// Closes the connection with a reset.
    Reset,
    /// Sends nothing more and keeps the connection open.
    Hang,
    /// Calls a function of the test.
    Do(Arc<dyn Fn() + Send + Sync>),
    /// Sends nothing more until larder closes the connection; [`Origin::wait_for_disconnects`] counts these.
    UntilDisconnect,
}

/// A response as exact bytes.
#[derive(Clone)]
pub struct MockResponse(pub Vec<Step>);

impl MockResponse {
    /// Writes these bytes; then the connection serves its next request.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Write(bytes.into())])
    }

    /// A complete response with `Content-Length`; `fields` are lines such as `Cache-Control: max-age=60`.
    pub fn new(status: u16, fields: &[&str], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut head = head(status, fields);
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        Self::raw(bytes)
    }

    /// A chunked response with one chunk for each piece.
    pub fn chunked(status: u16, fields: &[&str], pieces: &[&[u8]]) -> Self {
        let mut response = Self::chunked_open(status, fields, pieces);
        response.0.push(Step::Write(b"0\r\n\r\n".to_vec()));
        response
    }

    /// A chunked response without its last chunk.
    pub fn chunked_open(status: u16, fields: &[&str], pieces: &[&[u8]]) -> Self {
        let head = head(status, fields) + "Transfer-Encoding: chunked\r\n\r\n";
        let mut steps = vec![Step::Write(head.into_bytes())];
        steps.extend(pieces.iter().map(|piece| Step::Write(chunk(piece))));
        Self(steps)
    }

    /// No response: closes the connection.
    pub fn closed() -> Self {
        Self(vec![Step::Close])
    }

    /// No response: keeps the connection open.
    pub fn hang() -> Self {
        Self(vec![Step::Hang])
    }

    /// The same response, sent once `gate` is open.
    pub fn after(mut self, gate: &Gate) -> Self {
        self.0.insert(0, Step::Wait(gate.clone()));
        self
    }

    /// The same response with further steps.
    pub fn then(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.0.extend(steps);
        self
    }
}

/// One chunk of a chunked body.
pub fn chunk(piece: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", piece.len()).into_bytes();
    bytes.extend_from_slice(piece);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn head(status: u16, fields: &[&str]) -> String {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    head
}

type Script = dyn Fn(&ReceivedRequest) -> MockResponse + Send + Sync;

struct State {
    script: Mutex<Arc<Script>>,
    requests: Mutex<Vec<ReceivedRequest>>,
    calls: watch::Sender<usize>,
    disconnects: watch::Sender<usize>,
    connections: AtomicUsize,
    repeated: AtomicUsize,
}

/// A running origin; it ends with the test.
pub struct Origin {
    pub addr: SocketAddr,
    state: Arc<State>,
    accept_task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

impl Origin {
    /// Starts an origin that sends the responses of `script`.
    pub async fn start(script: impl Fn(&ReceivedRequest) -> MockResponse + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    /// The same at a given address.
    pub async fn start_at(
        address: &str,
        script: impl Fn(&ReceivedRequest) -> MockResponse + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is local and free");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            script: Mutex::new(Arc::new(script)),
            requests: Mutex::default(),
            calls: watch::Sender::new(0),
            disconnects: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
            repeated: AtomicUsize::new(0),
        });
        let accept_task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { addr, state, accept_task }
    }

    /// Starts an origin that sends the same response to every request.
    pub async fn always(response: MockResponse) -> Self {
        Self::start(move |_| response.clone()).await
    }

    /// Replaces the script.
    pub fn set_script(&self, script: impl Fn(&ReceivedRequest) -> MockResponse + Send + Sync + 'static) {
        *self.state.script.lock() = Arc::new(script);
    }

    /// Closes the listener: further connections are refused.
    pub async fn close(&self) {
        self.accept_task.abort();
        while !self.accept_task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    /// The number of received requests.
    pub fn calls(&self) -> usize {
        self.state.requests.lock().len()
    }

    /// All received requests.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.requests.lock().clone()
    }

    /// The number of accepted connections.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// The number of bytes that [`Step::Repeat`] has written.
    pub fn repeated(&self) -> usize {
        self.state.repeated.load(Ordering::SeqCst)
    }

    /// Waits until `calls` requests have been received.
    pub async fn wait_for_calls(&self, calls: usize) {
        let mut count = self.state.calls.subscribe();
        count.wait_for(|count| *count >= calls).await.expect("the origin lives");
    }

    /// Waits until larder has closed this many connections during [`Step::UntilDisconnect`].
    pub async fn wait_for_disconnects(&self, connections: usize) {
        let mut count = self.state.disconnects.subscribe();
        count.wait_for(|count| *count >= connections).await.expect("the origin lives");
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Without Nagle's algorithm, the bytes of a step are sent before the next step.
        stream.set_nodelay(true).expect("a connection that was just accepted");
        let connection = state.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(stream, connection, Arc::clone(&state)));
    }
}

async fn serve(mut stream: TcpStream, connection: usize, state: Arc<State>) {
    let mut bytes = Vec::new();
    while let Some(mut request) = read_request(&mut stream, &mut bytes).await {
        request.connection = connection;
        let script = Arc::clone(&*state.script.lock());
        {
            let mut requests = state.requests.lock();
            request.index = requests.len();
            requests.push(request.clone());
        }
        state.calls.send_modify(|count| *count += 1);
        let response = script(&request);
        if !send_response(&mut stream, response, &state).await {
            return;
        }
    }
}

/// Sends a response; false when the connection has ended.
async fn send_response(stream: &mut TcpStream, response: MockResponse, state: &State) -> bool {
    for step in response.0 {
        match step {
            Step::Write(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return false;
                }
            }
            Step::Repeat(bytes, times) => {
                for _ in 0..times {
                    if stream.write_all(bytes).await.is_err() {
                        return false;
                    }
                    state.repeated.fetch_add(bytes.len(), Ordering::SeqCst);
                }
            }
            Step::Wait(gate) => gate.wait_open().await,
            Step::Pause(time) => tokio::time::sleep(time).await,
            Step::Do(act) => act(),
            Step::Close => return false,
            Step::Reset => {
                socket2::SockRef::from(&*stream)
                    .set_linger(Some(Duration::ZERO))
                    .expect("a socket can be reset");
                return false;
            }
            Step::Hang => std::future::pending().await,
            Step::UntilDisconnect => {
                let mut sink = [0; 1024];
                while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
                state.disconnects.send_modify(|count| *count += 1);
                return false;
            }
        }
    }
    true
}

async fn read_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<ReceivedRequest> {
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    };
    let raw_head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    bytes.drain(..end);
    let mut lines = raw_head.split("\r\n");
    let mut request_line = lines.next()?.split(' ');
    let (method, target) = (request_line.next()?.to_owned(), request_line.next()?.to_owned());
    let fields: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut request = ReceivedRequest {
        index: 0,
        connection: 0,
        method,
        target,
        fields,
        body: Vec::new(),
        raw_head: raw_head.clone(),
    };
    let length = request.field("content-length").and_then(|v| v.parse::<usize>().ok());
    if request.field("transfer-encoding").is_some() {
        request.body = read_chunked(stream, bytes).await?;
    } else if let Some(length) = length {
        while bytes.len() < length {
            if stream.read_buf(bytes).await.ok()? == 0 {
                return None;
            }
        }
        request.body = bytes.drain(..length).collect();
    }
    Some(request)
}

async fn read_chunked(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
                break end;
            }
            if stream.read_buf(bytes).await.ok()? == 0 {
                return None;
            }
        };
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).ok()?, 16).ok()?;
        while bytes.len() < line + 2 + size + 2 {
            if stream.read_buf(bytes).await.ok()? == 0 {
                return None;
            }
        }
        body.extend_from_slice(&bytes[line + 2..line + 2 + size]);
        bytes.drain(..line + 2 + size + 2);
        if size == 0 {
            return Some(body);
        }
    }
}
