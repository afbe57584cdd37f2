//! A client on one connection, which a killed larder may cut at any byte.
//!
//! Owns: telling a whole answer from a cut one. Only what comes whole is judged.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// A whole answer.
pub struct Answer {
    pub status: u16,
    /// `Cache-Status`.
    pub cache_status: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether larder keeps it.
    pub fn is_kept(&self) -> bool {
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

    /// Asks for the URL number `n`, of the origin if `anew`.
    pub fn get(&mut self, n: usize, anew: bool) -> io::Result<Answer> {
        self.ask("GET", n, if anew { "Cache-Control: no-cache\r\n" } else { "" })
    }

    /// Asks only for what is stored.
    pub fn look(&mut self, n: usize) -> io::Result<Answer> {
        self.ask("GET", n, "Cache-Control: only-if-cached\r\n")
    }

    /// Changes the URL number `n`, which invalidates what is stored of it (RFC 9111 §4.4).
    pub fn post(&mut self, n: usize) -> io::Result<Answer> {
        self.ask("POST", n, "Content-Length: 0\r\n")
    }

    /// Purges the URL number `n`, as an operator does it: `self` is a connection to the admin listener.
    pub fn purge(&mut self, n: usize) -> io::Result<Answer> {
        let body = format!("{{\"url\": \"http://api.example.test/{n}\"}}");
        let head = format!(
            "POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.answer()
    }

    fn ask(&mut self, method: &str, n: usize, field: &str) -> io::Result<Answer> {
        let url = format!("http://api.example.test/{n}");
        let head = format!("{method} {url} HTTP/1.1\r\nHost: api.example.test\r\n{field}\r\n");
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(cut());
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
        let mut body = vec![0; length.ok_or_else(cut)?];
        self.stream.read_exact(&mut body)?;
        let cache_status = field("cache-status").unwrap_or_default().to_owned();
        Ok(Answer { status: status.ok_or_else(cut)?, cache_status, body })
    }
}
