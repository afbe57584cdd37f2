//! An HTTP/1.1 client that sends exact bytes and detects truncated responses.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How the body of a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As its framing requires.
    Complete,
    /// The connection ended inside the body.
    Truncated,
}

/// A response as the client received it.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub end: End,
}

impl Response {
    /// The first value of a field; the name is case-insensitive.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let matches = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        self.fields.iter().filter(matches).map(|(_, v)| v.as_str()).collect()
    }

    /// `Cache-Status`, empty if there is none.
    pub fn cache_status(&self) -> &str {
        self.field("cache-status").unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to larder.
pub struct Client<S = TcpStream> {
    pub stream: S,
    bytes: Vec<u8>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.expect("larder accepts"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A client over an existing connection.
    pub fn over(stream: S) -> Self {
        Self { stream, bytes: Vec::new() }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("larder reads");
    }

    /// Sends a request without a body in absolute-form; `fields` are whole lines.
    pub async fn send_request(&mut self, method: &str, url: &str, fields: &[&str]) {
        let host = url.split('/').nth(2).unwrap_or_default();
        let mut head = format!("{method} {url} HTTP/1.1\r\nHost: {host}\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.send(head).await;
    }

    /// Sends a `GET` and reads its response; the connection stays open.
    pub async fn get(&mut self, url: &str, fields: &[&str]) -> Response {
        self.send_request("GET", url, fields).await;
        self.response("GET").await.expect("a response")
    }

    /// Reads the final response to a request with `method`; `None` if the connection closes before it.
    pub async fn response(&mut self, method: &str) -> Option<Response> {
        loop {
            let response = self.next_response(method).await?;
            if response.status == 101 || response.status >= 200 {
                return Some(response);
            }
        }
    }

    /// Reads the next response, final or interim.
    pub async fn next_response(&mut self, method: &str) -> Option<Response> {
        let end = loop {
            if let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            if !self.read_some().await {
                assert!(self.bytes.is_empty(), "a truncated head: {:?}", self.bytes);
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        self.bytes.drain(..end);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let fields: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let status = status.parse().expect("a status");
        let mut response = Response { status, fields, body: Vec::new(), end: End::Complete };
        let tunnel = method == "CONNECT" && (200..300).contains(&status);
        let bodiless = method == "HEAD" || tunnel || status < 200 || status == 204 || status == 304;
        if !bodiless {
            self.read_body(&mut response).await;
        }
        Some(response)
    }

    /// Reads until `bytes` have arrived, and leaves everything to the next read of a response.
    pub async fn read_until(&mut self, bytes: impl AsRef<[u8]>) {
        let expected = bytes.as_ref();
        while !self.bytes.windows(expected.len()).any(|window| window == expected) {
            assert!(self.read_some().await, "closed after {:?}", String::from_utf8_lossy(&self.bytes));
        }
    }

    /// Waits for the next byte or the end; whether larder closes the connection without sending a byte.
    pub async fn is_closed(&mut self) -> bool {
        self.bytes.is_empty() && !self.read_some().await
    }

    /// Reads until the connection ends; all bytes that were received.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.read_some().await {}
        std::mem::take(&mut self.bytes)
    }

    async fn read_some(&mut self) -> bool {
        self.stream.read_buf(&mut self.bytes).await.is_ok_and(|n| n > 0)
    }

    async fn read_body(&mut self, response: &mut Response) {
        let chunked = response.field("transfer-encoding").is_some();
        let length = response.field("content-length").map(|v| v.parse::<usize>().expect("a length"));
        match (chunked, length) {
            (true, length) => {
                assert_eq!(length, None, "both framings at once");
                response.end = self.read_chunked(&mut response.body).await;
            }
            (false, Some(length)) => {
                while self.bytes.len() < length && self.read_some().await {}
                let got = self.bytes.len().min(length);
                response.end = if got == length { End::Complete } else { End::Truncated };
                response.body = self.bytes.drain(..got).collect();
            }
            (false, None) => {
                let ended = loop {
                    match self.stream.read_buf(&mut self.bytes).await {
                        Ok(0) => break End::Complete,
                        Ok(_) => {}
                        Err(_reset) => break End::Truncated,
                    }
                };
                response.end = ended;
                response.body = std::mem::take(&mut self.bytes);
            }
        }
    }

    async fn read_chunked(&mut self, body: &mut Vec<u8>) -> End {
        loop {
            let line = loop {
                if let Some(end) = self.bytes.windows(2).position(|w| w == b"\r\n") {
                    break end;
                }
                if !self.read_some().await {
                    return End::Truncated;
                }
            };
            let size = std::str::from_utf8(&self.bytes[..line]).expect("a chunk size");
            let size = usize::from_str_radix(size, 16).expect("a chunk size");
            while self.bytes.len() < line + 2 + size + 2 {
                if !self.read_some().await {
                    body.extend_from_slice(self.bytes.get(line + 2..).unwrap_or_default());
                    return End::Truncated;
                }
            }
            body.extend_from_slice(&self.bytes[line + 2..line + 2 + size]);
            self.bytes.drain(..line + 2 + size + 2);
            if size == 0 {
                return End::Complete;
            }
        }
    }
}
