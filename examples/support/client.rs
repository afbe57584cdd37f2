//! The app's side of the examples: one HTTP/1.1 connection that is kept alive.
//!
//! Owns: requests and answers as bytes. Never touches: larder; a client that honours `HTTP_PROXY`
//! does no more than this.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Whatever makes an example fail.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A kept-alive HTTP/1.1 connection of the app.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Whether `Cache-Status` says that it came from the store.
    pub(crate) hit: bool,
    /// Whether it is the last of its connection.
    pub(crate) last: bool,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(dial: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(dial).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends `GET target` with `fields`, each ended by CRLF, and reads the answer.
    pub(crate) async fn get(
        &mut self,
        target: &str,
        host: &str,
        fields: &str,
    ) -> Result<Answer, Failure> {
        self.ask("GET", target, host, fields).await
    }

    /// The same by another method.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        target: &str,
        host: &str,
        fields: &str,
    ) -> Result<Answer, Failure> {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).await?;
        self.read(method == "HEAD").await
    }

    async fn read(&mut self, bodiless: bool) -> Result<Answer, Failure> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1).ok_or("no status")?.parse()?;
        let mut answer = Answer { status, hit: false, last: false, body: Vec::new() };
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
                "connection" => answer.last = value.trim() == "close",
                "transfer-encoding" => chunked = value.trim() == "chunked",
                "cache-status" => answer.hit = value.split(';').any(|part| part.trim() == "hit"),
                _ => {}
            }
        }
        match length {
            _ if bodiless => {}
            Some(length) => self.exactly(length, &mut answer.body).await?,
            None if chunked => self.chunks(&mut answer.body).await?,
            None => return Err("an answer whose end is not announced".into()),
        }
        Ok(answer)
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Result<(), Failure> {
        loop {
            let size = usize::from_str_radix(self.line().await?.trim(), 16)?;
            self.exactly(size, body).await?;
            self.line().await?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> Result<(), Failure> {
        let limit = u64::try_from(length)?;
        let read = (&mut self.stream).take(limit).read_to_end(body).await?;
        if read == length { Ok(()) } else { Err("a body was cut".into()) }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err("the connection was closed".into());
        }
        Ok(line.trim_end().to_owned())
    }
}
