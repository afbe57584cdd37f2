//! The app's side of the examples: one kept-alive HTTP/1.1 connection.
//!
//! Owns: requests and responses as bytes. Never touches: larder; a client that honours `HTTP_PROXY` does
//! the same.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Any error that makes an example fail.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A kept-alive HTTP/1.1 connection of the app.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// A response.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Whether `Cache-Status` contains `hit`.
    pub(crate) hit: bool,
    /// Whether the connection closes after it.
    pub(crate) closes_connection: bool,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends `GET target` with `fields`, each terminated by CRLF, and reads the response.
    pub(crate) async fn get(&mut self, target: &str, host: &str, fields: &str) -> Result<Response, Failure> {
        self.send("GET", target, host, fields).await
    }

    /// The same with another method.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        target: &str,
        host: &str,
        fields: &str,
    ) -> Result<Response, Failure> {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).await?;
        self.read(method == "HEAD").await
    }

    async fn read(&mut self, has_no_body: bool) -> Result<Response, Failure> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1).ok_or("no status")?.parse()?;
        let mut response = Response { status, hit: false, closes_connection: false, body: Vec::new() };
        let mut length = None;
        let mut chunked = false;
        loop {
            let line = self.line().await?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or("a field without a colon")?;
            match name {
                "content-length" => length = Some(value.trim().parse()?),
                "connection" => response.closes_connection = value.trim() == "close",
                "transfer-encoding" => chunked = value.trim() == "chunked",
                "cache-status" => response.hit = value.split(';').any(|part| part.trim() == "hit"),
                _ => {}
            }
        }
        match length {
            _ if has_no_body => {}
            Some(length) => self.read_exactly(length, &mut response.body).await?,
            None if chunked => self.read_chunks(&mut response.body).await?,
            None => return Err("a response without a length".into()),
        }
        Ok(response)
    }

    async fn read_chunks(&mut self, body: &mut Vec<u8>) -> Result<(), Failure> {
        loop {
            let size = usize::from_str_radix(self.line().await?.trim(), 16)?;
            self.read_exactly(size, body).await?;
            self.line().await?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn read_exactly(&mut self, length: usize, body: &mut Vec<u8>) -> Result<(), Failure> {
        let limit = u64::try_from(length)?;
        let read = (&mut self.stream).take(limit).read_to_end(body).await?;
        if read == length { Ok(()) } else { Err("the body was cut short".into()) }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err("the connection was closed".into());
        }
        Ok(line.trim_end().to_owned())
    }
}
