//! The attacks: the requests, the responses of the API, and the memory bound that applies.
//!
//! Owns: the clients and the API. Never touches: the share of the bound that is allowed.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::MIB;
use crate::client::{Connection, Failure};
use crate::loopback::{listen, path_of, read_head};
use crate::process::Larder;

/// The number of large concurrent responses, and their size.
const RESPONSES: usize = 60;
const LARGE: usize = 7 * MIB;
/// The size of bodies of nested lists, which take many times that once they are parsed.
const NESTED: usize = 280_000;

/// The number of sequential responses, and of short ones.
const SEQUENTIAL: usize = 8000;
const SHORT_SEQUENTIAL: usize = 60_000;

/// The memory that the disk database and its write queue may take besides `store.memory`
/// (docs/operations.md).
const DATABASE: usize = 100 * MIB;

/// The host of the API.
const HOST: &str = "api.example.test";

/// The data that fills the cache's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Payload {
    ParsedBodies,
    NestedLists,
    CapturedResponses,
    /// URLs of this many bytes.
    Urls(usize),
    LongVaryLists,
    SmallResponses,
    ManyFields,
}

/// One way to fill the cache's memory, with a disk tier or without one.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    payload: Payload,
    disk: bool,
}

const fn without(payload: Payload) -> Attack {
    Attack { payload, disk: false }
}

const fn with_disk(payload: Payload) -> Attack {
    Attack { payload, disk: true }
}

impl Attack {
    pub(crate) const ALL: [Self; 10] = [
        without(Payload::ParsedBodies),
        without(Payload::NestedLists),
        without(Payload::CapturedResponses),
        without(Payload::Urls(16_000)),
        without(Payload::LongVaryLists),
        without(Payload::SmallResponses),
        without(Payload::ManyFields),
        with_disk(Payload::Urls(16_000)),
        with_disk(Payload::Urls(3_500)),
        with_disk(Payload::SmallResponses),
    ];

    pub(crate) fn name(self) -> String {
        let name = match self.payload {
            Payload::ParsedBodies => "60 JSON bodies of 7 MiB at once, read by rules".to_owned(),
            Payload::NestedLists => {
                "60 JSON bodies of 280 kB in nested lists at once, read by rules".to_owned()
            }
            Payload::CapturedResponses => {
                "60 POST responses of 7 MiB at once, captured and stored".to_owned()
            }
            Payload::Urls(length) => format!("{SEQUENTIAL} URLs of {length} bytes"),
            Payload::LongVaryLists => {
                format!("{SEQUENTIAL} responses that vary by 200 fields of 64 bytes")
            }
            Payload::SmallResponses => format!("{SHORT_SEQUENTIAL} responses of 11 bytes"),
            Payload::ManyFields => {
                format!("{SEQUENTIAL} responses with 90 limit fields and 90 empty ones")
            }
        };
        if self.disk { format!("{name}, with a disk tier") } else { name }
    }

    /// The memory that larder may use for this attack.
    pub(crate) fn bound(self) -> usize {
        let disk = if self.disk { DATABASE } else { 0 };
        // A captured response is in flight, and then stored.
        let times = if self.payload == Payload::CapturedResponses { 2 } else { 1 };
        times * 32 * MIB + disk
    }

    /// The configuration, with the API at `origin`.
    fn yaml(self, origin: SocketAddr) -> String {
        let rules = format!("hosts: [{HOST}], success: {{ json: {{ \"$.ok\": [true] }} }}");
        let upstream =
            if self.is_parsed() { format!("upstreams: {{ api: {{ {rules} }} }}\n") } else { String::new() };
        let disk = if self.disk { "1GiB" } else { "off" };
        format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: off\nlog: {{ level: error }}\n\
             resolve: {{ {HOST}: \"{origin}\" }}\n\
             limits: {{ in_flight: 32MiB }}\nstore: {{ path: store, memory: 32MiB, disk: {disk}, max_object: 8MiB }}\n\
             {upstream}routes: [{{ name: api, match: {{ host: {HOST} }}, retry: off }}]\n"
        )
    }

    /// Runs the attack; returns larder's maximum growth in bytes.
    pub(crate) async fn run(self) -> Result<usize, Failure> {
        let barrier = Arc::new(Barrier::new(RESPONSES));
        let api = listen(move |stream| self.serve(stream, Arc::clone(&barrier))).await?;
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("proxy.yaml");
        std::fs::write(&file, self.yaml(api))?;
        let larder = Larder::start(&file, &[]).await?;
        let (pid, proxy) = (larder.pid()?, larder.proxy()?);
        Connection::open(proxy).await?.get(&url("/first"), HOST, "").await?;
        let idle = memory(pid, "VmRSS:")?;
        match self.payload {
            Payload::ParsedBodies => at_once(proxy, "GET", LARGE).await?,
            Payload::NestedLists => at_once(proxy, "GET", NESTED).await?,
            Payload::CapturedResponses => at_once(proxy, "POST", LARGE).await?,
            Payload::Urls(_) | Payload::LongVaryLists | Payload::SmallResponses | Payload::ManyFields => {
                self.sequentially(proxy).await?;
            }
        }
        let peak = memory(pid, "VmHWM:")?;
        larder.stop().await?;
        Ok(peak.saturating_sub(idle))
    }

    async fn sequentially(self, proxy: SocketAddr) -> Result<(), Failure> {
        let query = if let Payload::Urls(length) = self.payload { "y".repeat(length) } else { String::new() };
        let count = if self.payload == Payload::SmallResponses { SHORT_SEQUENTIAL } else { SEQUENTIAL };
        let mut connection = Connection::open(proxy).await?;
        for number in 0..count {
            let response = connection.get(&url(&format!("/{number}?q={query}")), HOST, "").await?;
            if response.status != 200
                || response.hit
                || response.closes_connection
                || response.body.is_empty()
            {
                return Err("a response was not the API's".into());
            }
        }
        Ok(())
    }

    /// Serves a connection of the API: large responses wait for each other before their last byte, so
    /// that larder holds all of them at once.
    async fn serve(self, stream: TcpStream, barrier: Arc<Barrier>) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let head = read_head(&mut stream).await?;
            let path = path_of(&head)?;
            let large = path.starts_with("/large");
            let body = if large { self.large_body() } else { "{\"ok\":true}".to_owned() };
            let (length, vary) = (body.len(), self.vary());
            // Bodies that rules parse are not stored, so that the only bound is `limits.in_flight`.
            let cache_control = if self.is_parsed() { "no-store" } else { "max-age=600" };
            let response_head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: {cache_control}\r\n\
                 Content-Location: {path}\r\n{vary}Content-Length: {length}\r\n\r\n"
            );
            let (body_start, last_byte) = body.split_at(length - 1);
            stream.get_mut().write_all(response_head.as_bytes()).await.ok()?;
            stream.get_mut().write_all(body_start.as_bytes()).await.ok()?;
            if large {
                barrier.wait().await;
            }
            stream.get_mut().write_all(last_byte.as_bytes()).await.ok()?;
        }
    }

    fn is_parsed(self) -> bool {
        matches!(self.payload, Payload::ParsedBodies | Payload::NestedLists)
    }

    fn large_body(self) -> String {
        let a = if self.payload == Payload::NestedLists {
            let one = format!("{}{}", "[".repeat(120), "]".repeat(120));
            format!("[{}[]]", format!("{one},").repeat(NESTED / (one.len() + 1) + 1))
        } else {
            format!("\"{}\"", "x".repeat(LARGE))
        };
        format!("{{\"ok\":true,\"a\":{a}}}")
    }

    fn vary(self) -> String {
        if self.payload == Payload::ManyFields {
            let fields: Vec<_> = (0..90).map(|n| format!("X-RateLimit-{n}: 5\r\nX-Empty-{n}:\r\n")).collect();
            return fields.concat();
        }
        if self.payload != Payload::LongVaryLists {
            return String::new();
        }
        let names: Vec<_> = (0..200).map(|n| format!("x-{n:03}-{}", "v".repeat(58))).collect();
        format!("Vary: {}\r\n", names.join(", "))
    }
}

fn url(path: &str) -> String {
    format!("http://{HOST}{path}")
}

/// Requests all large responses concurrently, and reads each to its end.
async fn at_once(proxy: SocketAddr, method: &'static str, length: usize) -> Result<(), Failure> {
    let mut clients = JoinSet::new();
    for number in 0..RESPONSES {
        clients.spawn(async move {
            let mut stream = BufReader::new(TcpStream::connect(proxy).await?);
            let target = url(&format!("/large/{number}"));
            let head = format!(
                "{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.get_mut().write_all(head.as_bytes()).await?;
            let taken = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            let whole = taken >= u64::try_from(length)?;
            if whole { Ok::<_, Failure>(()) } else { Err("a response was cut short".into()) }
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(())
}

/// The memory of a process in bytes: now (`VmRSS:`), or its maximum so far (`VmHWM:`).
fn memory(pid: u32, field: &str) -> Result<usize, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).ok_or("unexpected /proc format")?;
    Ok(kibibytes.parse::<usize>()? * 1024)
}
