//! An HTTP client on one connection, which may end at any byte when larder is killed.
//!
//! Owns: the detection of truncated responses; only complete responses are checked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection to larder.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// A complete response.
pub struct Response {
    pub status: u16,
    /// `Cache-Status`.
    pub cache_status: String,
    pub body: Vec<u8>,
}

impl Response {
    /// Whether the response is in larder's store.
    pub fn is_stored(&self) -> bool {
        self.cache_status.contains("; hit") || self.cache_status.contains("; stored")
    }
}

impl Client {
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Requests URL number `n`; with `revalidate` the request must go to the origin (`no-cache`).
    pub fn get(&mut self, n: usize, revalidate: bool) -> io::Result<Response> {
        self.send("GET", n, if revalidate { "Cache-Control: no-cache\r\n" } else { "" })
    }

    /// Requests URL number `n` with `only-if-cached`.
    pub fn get_if_cached(&mut self, n: usize) -> io::Result<Response> {
        self.send("GET", n, "Cache-Control: only-if-cached\r\n")
    }

    /// Sends a POST to URL number `n`, which invalidates its stored responses (RFC 9111 §4.4).
    pub fn post(&mut self, n: usize) -> io::Result<Response> {
        self.send("POST", n, "Content-Length: 0\r\n")
    }

    /// Purges URL number `n` through the admin API: `self` is a connection to the admin listener.
    pub fn purge(&mut self, n: usize) -> io::Result<Response> {
        let body = format!("{{\"url\": \"http://api.example.test/{n}\"}}");
        let head = format!(
            "POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.read_response()
    }

    fn send(&mut self, method: &str, n: usize, field: &str) -> io::Result<Response> {
        let url = format!("http://api.example.test/{n}");
        let head = format!("{method} {url} HTTP/1.1\r\nHost: api.example.test\r\n{field}\r\n");
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.read_response()
    }

    fn read_response(&mut self) -> io::Result<Response> {
        let truncated = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(truncated());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let field = |name: &str| {
            let mut lines = head.iter().filter_map(|line| line.split_once(':'));
            lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let status = head.first().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let length = field("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.ok_or_else(truncated)?];
        self.stream.read_exact(&mut body)?;
        let cache_status = field("cache-status").unwrap_or_default().to_owned();
        Ok(Response { status: status.ok_or_else(truncated)?, cache_status, body })
    }
}
