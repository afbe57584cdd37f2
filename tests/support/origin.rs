//! A scripted origin: it answers each request as its script says, byte for byte, and remembers what
//! it saw.

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
pub struct Seen {
    /// Its place among all requests, from 0.
    pub index: usize,
    /// Which connection it came on, from 0.
    pub connection: usize,
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub raw_head: String,
}

impl Seen {
    /// The value of a field, the first if there are several; names in any case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// Something that a script waits for until the test opens it.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn passed(&self) {
        let mut open = self.0.subscribe();
        open.wait_for(|open| *open).await.expect("the gate lives as long as its script");
    }
}

/// One step of an answer.
#[derive(Clone)]
pub enum Step {
    Write(Vec<u8>),
    /// The same bytes so many times, without holding them all.
    Repeat(&'static [u8], usize),
    Wait(Gate),
    /// Takes its time, where that is what a test is about.
    Pause(Duration),
    /// Close the connection in order.
    Close,
    /// Close it with a reset.
    Reset,
    /// Say nothing more, keep the connection open.
    Hang,
    /// Something for the test to know that it has come so far.
    Do(Arc<dyn Fn() + Send + Sync>),
    /// Say nothing more until larder closes the connection; [`Origin::left`] counts those.
    UntilGone,
}

/// An answer, byte for byte.
#[derive(Clone)]
pub struct Answer(pub Vec<Step>);

impl Answer {
    /// These bytes, then the next request of the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Write(bytes.into())])
    }

    /// A whole answer with `Content-Length`; `fields` are lines such as `Cache-Control: max-age=60`.
    pub fn new(status: u16, fields: &[&str], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut head = head(status, fields);
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        Self::raw(bytes)
    }

    /// A chunked answer of these pieces.
    pub fn chunked(status: u16, fields: &[&str], pieces: &[&[u8]]) -> Self {
        let mut answer = Self::chunked_open(status, fields, pieces);
        answer.0.push(Step::Write(b"0\r\n\r\n".to_vec()));
        answer
    }

    /// A chunked answer that has not ended yet.
    pub fn chunked_open(status: u16, fields: &[&str], pieces: &[&[u8]]) -> Self {
        let head = head(status, fields) + "Transfer-Encoding: chunked\r\n\r\n";
        let mut steps = vec![Step::Write(head.into_bytes())];
        steps.extend(pieces.iter().map(|piece| Step::Write(chunk(piece))));
        Self(steps)
    }

    /// Nothing at all, then a closed connection.
    pub fn closed() -> Self {
        Self(vec![Step::Close])
    }

    /// Nothing at all, for ever.
    pub fn hung() -> Self {
        Self(vec![Step::Hang])
    }

    /// The same after `gate` was opened.
    pub fn after(mut self, gate: &Gate) -> Self {
        self.0.insert(0, Step::Wait(gate.clone()));
        self
    }

    /// The same with further steps.
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

type Script = dyn Fn(&Seen) -> Answer + Send + Sync;

struct State {
    script: Mutex<Arc<Script>>,
    seen: Mutex<Vec<Seen>>,
    calls: watch::Sender<usize>,
    left: watch::Sender<usize>,
    connections: AtomicUsize,
    repeated: AtomicUsize,
}

/// A running origin; it ends with the test.
pub struct Origin {
    pub addr: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Origin {
    /// Starts an origin that answers as `script` says.
    pub async fn start(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    /// The same at an address of one's choice.
    pub async fn start_at(
        address: &str,
        script: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is there and free");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            script: Mutex::new(Arc::new(script)),
            seen: Mutex::default(),
            calls: watch::Sender::new(0),
            left: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
            repeated: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { addr, state, accepting }
    }

    /// An origin that gives the same answer to everything.
    pub async fn always(answer: Answer) -> Self {
        Self::start(move |_| answer.clone()).await
    }

    /// From now on it answers as `script` says.
    pub fn now(&self, script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        *self.state.script.lock() = Arc::new(script);
    }

    /// Accepts no more connections: from here on they are refused.
    pub async fn close(&self) {
        self.accepting.abort();
        while !self.accepting.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    /// How many requests have come.
    pub fn calls(&self) -> usize {
        self.state.seen.lock().len()
    }

    /// All requests that have come.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many bytes [`Step::Repeat`] has written.
    pub fn repeated(&self) -> usize {
        self.state.repeated.load(Ordering::SeqCst)
    }

    /// Waits until `calls` requests have come.
    pub async fn reached(&self, calls: usize) {
        let mut count = self.state.calls.subscribe();
        count.wait_for(|count| *count >= calls).await.expect("the origin lives");
    }

    /// Waits until larder has closed this many connections inside [`Step::UntilGone`].
    pub async fn left(&self, connections: usize) {
        let mut count = self.state.left.subscribe();
        count.wait_for(|count| *count >= connections).await.expect("the origin lives");
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        // What a step writes is there when the next one begins.
        stream.set_nodelay(true).expect("a connection that was just accepted");
        let connection = state.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(converse(stream, connection, Arc::clone(&state)));
    }
}

async fn converse(mut stream: TcpStream, connection: usize, state: Arc<State>) {
    let mut bytes = Vec::new();
    while let Some(mut seen) = read_request(&mut stream, &mut bytes).await {
        seen.connection = connection;
        let script = Arc::clone(&*state.script.lock());
        {
            let mut all = state.seen.lock();
            seen.index = all.len();
            all.push(seen.clone());
        }
        state.calls.send_modify(|count| *count += 1);
        let answer = script(&seen);
        if !answered(&mut stream, answer, &state).await {
            return;
        }
    }
}

/// Plays an answer; false when the connection is over.
async fn answered(stream: &mut TcpStream, answer: Answer, state: &State) -> bool {
    for step in answer.0 {
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
            Step::Wait(gate) => gate.passed().await,
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
            Step::UntilGone => {
                let mut sink = [0; 1024];
                while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
                state.left.send_modify(|count| *count += 1);
                return false;
            }
        }
    }
    true
}

async fn read_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Seen> {
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
    let mut request = lines.next()?.split(' ');
    let (method, target) = (request.next()?.to_owned(), request.next()?.to_owned());
    let fields: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut seen = Seen {
        index: 0,
        connection: 0,
        method,
        target,
        fields,
        body: Vec::new(),
        raw_head: raw_head.clone(),
    };
    let length = seen.field("content-length").and_then(|v| v.parse::<usize>().ok());
    if seen.field("transfer-encoding").is_some() {
        seen.body = read_chunked(stream, bytes).await?;
    } else if let Some(length) = length {
        while bytes.len() < length {
            if stream.read_buf(bytes).await.ok()? == 0 {
                return None;
            }
        }
        seen.body = bytes.drain(..length).collect();
    }
    Some(seen)
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
