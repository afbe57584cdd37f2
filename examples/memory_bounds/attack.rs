//! The attacks: what is asked, what the API answers, and the bound that is meant to hold.
//!
//! Owns: both sides of the traffic. Never touches: how much memory is too much.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::MIB;
use crate::client::{Connection, Failure};
use crate::process::Larder;

/// How many large answers come at once, and how large they are.
const ANSWERS: usize = 60;
const LARGE: usize = 7 * MIB;
/// And those of nested lists, which take many times that once they are parsed.
const NESTED: usize = 280_000;

/// How many answers come one after the other, and of short ones.
const ONES: usize = 8000;
const SHORT_ONES: usize = 60_000;

/// What the database on disk and what waits for it may take beside `store.memory` (docs/operations.md).
const DATABASE: usize = 100 * MIB;

/// The name of the API.
const HOST: &str = "api.example.test";

/// What fills a cache's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filled {
    BodiesThatRulesRead,
    NestedLists,
    RecordedAnswers,
    /// URLs of so many bytes.
    Urls(usize),
    LongVaryLists,
    SmallAnswers,
    ManyFields,
}

/// One way to fill a cache's memory, with a disk tier or without one.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    by: Filled,
    disk: bool,
}

const fn without(by: Filled) -> Attack {
    Attack { by, disk: false }
}

const fn with_disk(by: Filled) -> Attack {
    Attack { by, disk: true }
}

impl Attack {
    pub(crate) const ALL: [Self; 10] = [
        without(Filled::BodiesThatRulesRead),
        without(Filled::NestedLists),
        without(Filled::RecordedAnswers),
        without(Filled::Urls(16_000)),
        without(Filled::LongVaryLists),
        without(Filled::SmallAnswers),
        without(Filled::ManyFields),
        with_disk(Filled::Urls(16_000)),
        with_disk(Filled::Urls(3_500)),
        with_disk(Filled::SmallAnswers),
    ];

    pub(crate) fn name(self) -> String {
        let by = match self.by {
            Filled::BodiesThatRulesRead => {
                "60 JSON bodies of 7 MiB at once, read by rules".to_owned()
            }
            Filled::NestedLists => {
                "60 JSON bodies of 280 kB in nested lists at once, read by rules".to_owned()
            }
            Filled::RecordedAnswers => "60 POST answers of 7 MiB at once, recorded".to_owned(),
            Filled::Urls(length) => format!("{ONES} URLs of {length} bytes"),
            Filled::LongVaryLists => format!("{ONES} answers that vary by 200 fields of 64 bytes"),
            Filled::SmallAnswers => format!("{SHORT_ONES} answers of 11 bytes"),
            Filled::ManyFields => format!("{ONES} answers with 90 limit fields and 90 empty ones"),
        };
        if self.disk { format!("{by}, with a disk tier") } else { by }
    }

    /// What all that it makes larder hold may take.
    pub(crate) fn bound(self) -> usize {
        let disk = if self.disk { DATABASE } else { 0 };
        // What is recorded is on its way, and then stored.
        let times = if self.by == Filled::RecordedAnswers { 2 } else { 1 };
        times * 32 * MIB + disk
    }

    /// The configuration, with the API at `origin`.
    fn yaml(self, origin: SocketAddr) -> String {
        let rules = format!("hosts: [{HOST}], success: {{ json: {{ \"$.ok\": [true] }} }}");
        let upstream = if self.is_read() {
            format!("upstreams: {{ api: {{ {rules} }} }}\n")
        } else {
            String::new()
        };
        let disk = if self.disk { "1GiB" } else { "off" };
        format!(
            "version: 1\nlisten: 127.0.0.1:0\nadmin: off\nlog: {{ level: error }}\n\
             resolve: {{ {HOST}: \"{origin}\" }}\n\
             limits: {{ in_flight: 32MiB }}\nstore: {{ path: store, memory: 32MiB, disk: {disk}, max_object: 8MiB }}\n\
             {upstream}routes: [{{ name: api, match: {{ host: {HOST} }}, retry: off }}]\n"
        )
    }

    /// The bytes that larder has grown by at most.
    pub(crate) async fn run(self) -> Result<usize, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("proxy.yaml");
        std::fs::write(&file, self.yaml(listener.local_addr()?))?;
        let larder = Larder::start(&file, &[]).await?;
        let (pid, proxy) = (larder.pid()?, larder.proxy()?);
        let together = Arc::new(Barrier::new(ANSWERS));
        let api = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.answers(stream, Arc::clone(&together)));
            }
        });
        Connection::open(proxy).await?.get(&url("/first"), HOST, "").await?;
        let idle = memory(pid, "VmRSS:")?;
        match self.by {
            Filled::BodiesThatRulesRead => at_once(proxy, "GET", LARGE).await?,
            Filled::NestedLists => at_once(proxy, "GET", NESTED).await?,
            Filled::RecordedAnswers => at_once(proxy, "POST", LARGE).await?,
            Filled::Urls(_) | Filled::LongVaryLists | Filled::SmallAnswers | Filled::ManyFields => {
                self.one_by_one(proxy).await?;
            }
        }
        api.abort();
        let most = memory(pid, "VmHWM:")?;
        larder.stop().await?;
        Ok(most.saturating_sub(idle))
    }

    async fn one_by_one(self, proxy: SocketAddr) -> Result<(), Failure> {
        let long =
            if let Filled::Urls(length) = self.by { "y".repeat(length) } else { String::new() };
        let ones = if self.by == Filled::SmallAnswers { SHORT_ONES } else { ONES };
        let mut connection = Connection::open(proxy).await?;
        for number in 0..ones {
            let answer = connection.get(&url(&format!("/{number}?q={long}")), HOST, "").await?;
            if answer.status != 200 || answer.hit || answer.last || answer.body.is_empty() {
                return Err("an answer was not the API's".into());
            }
        }
        Ok(())
    }

    /// The API: large answers wait for each other before their last byte, so that all are held at once.
    async fn answers(self, stream: TcpStream, together: Arc<Barrier>) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                (stream.read_line(&mut head).await.ok()? > 0).then_some(())?;
            }
            let path = head.split(' ').nth(1)?.to_owned();
            let large = path.starts_with("/large");
            let body = if large { self.large_body() } else { "{\"ok\":true}".to_owned() };
            let (length, vary) = (body.len(), self.vary());
            // What rules read is stored nowhere, so that the bound is that of `limits.in_flight` alone.
            let keeps = if self.is_read() { "no-store" } else { "max-age=600" };
            let told = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: {keeps}\r\n\
                 Content-Location: {path}\r\n{vary}Content-Length: {length}\r\n\r\n"
            );
            let (most, last) = body.split_at(length - 1);
            stream.get_mut().write_all(told.as_bytes()).await.ok()?;
            stream.get_mut().write_all(most.as_bytes()).await.ok()?;
            if large {
                together.wait().await;
            }
            stream.get_mut().write_all(last.as_bytes()).await.ok()?;
        }
    }

    fn is_read(self) -> bool {
        matches!(self.by, Filled::BodiesThatRulesRead | Filled::NestedLists)
    }

    fn large_body(self) -> String {
        let a = if self.by == Filled::NestedLists {
            let one = format!("{}{}", "[".repeat(120), "]".repeat(120));
            format!("[{}[]]", format!("{one},").repeat(NESTED / (one.len() + 1) + 1))
        } else {
            format!("\"{}\"", "x".repeat(LARGE))
        };
        format!("{{\"ok\":true,\"a\":{a}}}")
    }

    fn vary(self) -> String {
        if self.by == Filled::ManyFields {
            let fields: Vec<_> =
                (0..90).map(|n| format!("X-RateLimit-{n}: 5\r\nX-Empty-{n}:\r\n")).collect();
            return fields.concat();
        }
        if self.by != Filled::LongVaryLists {
            return String::new();
        }
        let names: Vec<_> = (0..200).map(|n| format!("x-{n:03}-{}", "v".repeat(58))).collect();
        format!("Vary: {}\r\n", names.join(", "))
    }
}

fn url(path: &str) -> String {
    format!("http://{HOST}{path}")
}

/// All large answers at once, each taken to its end.
async fn at_once(proxy: SocketAddr, method: &'static str, length: usize) -> Result<(), Failure> {
    let mut clients = JoinSet::new();
    for number in 0..ANSWERS {
        clients.spawn(async move {
            let mut stream = BufReader::new(TcpStream::connect(proxy).await?);
            let target = url(&format!("/large/{number}"));
            let head = format!(
                "{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.get_mut().write_all(head.as_bytes()).await?;
            let taken = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            let whole = taken >= u64::try_from(length)?;
            if whole { Ok::<_, Failure>(()) } else { Err("an answer was cut".into()) }
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(())
}

/// The bytes of memory that a process takes: now (`VmRSS:`), or at most so far (`VmHWM:`).
fn memory(pid: u32, field: &str) -> Result<usize, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).ok_or("an odd /proc")?;
    Ok(kibibytes.parse::<usize>()? * 1024)
}
