//! A client of HTTP/1.1 that takes only what RFC 9112 allows and keeps every part of a response.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::End;
use crate::strict::{Fault, Fields, Framing, PATIENCE, Received, Wire};
use crate::strict::{framing, is_framed, length, section, status, violation};

/// A connection of HTTP/1.1, for one request after another.
pub struct H1 {
    stream: Box<dyn Wire>,
    bytes: Vec<u8>,
    /// Whether another request may follow.
    pub reusable: bool,
}

impl H1 {
    pub fn over(stream: impl Wire + 'static) -> Self {
        Self { stream: Box::new(stream), bytes: Vec::new(), reusable: true }
    }

    /// Sends a request without a body and reads its response. `fields` are whole lines.
    pub async fn ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[String],
    ) -> Result<Received, Fault> {
        self.quiet().await?;
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.reusable = false;
        self.stream.write_all(head.as_bytes()).await.map_err(|_| Fault::Gone)?;
        self.stream.flush().await.map_err(|_| Fault::Gone)?;
        match timeout(PATIENCE, self.response(method)).await {
            Ok(response) => response,
            Err(_elapsed) => violation("no whole response in time"),
        }
    }

    /// Waits until the other side closes the connection; false if it sends something or never does.
    pub async fn is_closed_within(&mut self, time: Duration) -> bool {
        let mut read = Vec::new();
        matches!(timeout(time, self.stream.read_buf(&mut read)).await, Ok(Ok(0) | Err(_)))
    }

    /// Before a request nothing may come: it would be taken for the response.
    async fn quiet(&mut self) -> Result<(), Fault> {
        if self.bytes.is_empty() {
            match timeout(Duration::ZERO, self.stream.read_buf(&mut self.bytes)).await {
                Err(_nothing) => return Ok(()),
                Ok(Ok(0) | Err(_)) => return Err(Fault::Closed),
                Ok(Ok(_)) => {}
            }
        }
        violation(format!("{} bytes after the response before", self.bytes.len()))
    }

    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.bytes).await.is_ok_and(|read| read > 0)
    }

    async fn response(&mut self, method: &str) -> Result<Received, Fault> {
        let mut interim = Vec::new();
        loop {
            let (status, fields) = self.head(interim.is_empty()).await?;
            if !(100..200).contains(&status) {
                return self.rest(method, status, fields, interim).await;
            }
            if status == 101 || is_framed(&fields) {
                return violation(format!("a {status} that was not asked for or has a body"));
            }
            interim.push((status, fields));
        }
    }

    async fn rest(
        &mut self,
        method: &str,
        status: u16,
        fields: Fields,
        interim: Vec<(u16, Fields)>,
    ) -> Result<Received, Fault> {
        let framing = framing(method, status, &fields)?;
        let mut response = Received {
            status,
            fields,
            body: Vec::new(),
            trailers: Fields::new(),
            interim,
            framing,
            end: End::Whole,
        };
        match framing {
            Framing::Nothing | Framing::Stream { .. } => {}
            Framing::Length => self.sized(&mut response).await?,
            Framing::Chunked => self.chunked(&mut response).await?,
            Framing::Close => self.until_closed(&mut response).await,
        }
        let mut options = response.fields.get("connection").into_iter().flatten();
        let closes = options.any(|v| v.split(',').any(|o| o.trim().eq_ignore_ascii_case("close")));
        self.reusable = response.end == End::Whole && framing != Framing::Close && !closes;
        if !self.bytes.is_empty() {
            return violation(format!("{} bytes behind the response", self.bytes.len()));
        }
        Ok(response)
    }

    /// Reads a head: status and fields.
    async fn head(&mut self, is_first: bool) -> Result<(u16, Fields), Fault> {
        let end = loop {
            if let Some(at) = self.bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                return match (self.bytes.as_slice(), is_first) {
                    ([], true) => Err(Fault::Gone),
                    (cut, _) => violation(format!("a head ends after {} bytes", cut.len())),
                };
            }
        };
        let head: Vec<u8> = self.bytes.drain(..end).take(end - 4).collect();
        let head: String = head.into_iter().map(char::from).collect();
        let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status = status(line)?;
        let fields = fields.split("\r\n").filter(|line| !line.is_empty());
        Ok((status, section(fields)?))
    }

    async fn sized(&mut self, response: &mut Received) -> Result<(), Fault> {
        let length = length(&response.fields)?.unwrap_or_default();
        while self.bytes.len() < length && self.more().await {}
        let got = length.min(self.bytes.len());
        response.end = if got == length { End::Whole } else { End::Cut };
        response.body = self.bytes.drain(..got).collect();
        Ok(())
    }

    async fn until_closed(&mut self, response: &mut Received) {
        response.end = loop {
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) => break End::Whole,
                Ok(_) => {}
                Err(_reset) => break End::Cut,
            }
        };
        response.body = std::mem::take(&mut self.bytes);
    }

    /// RFC 9112 §7.1.
    async fn chunked(&mut self, response: &mut Received) -> Result<(), Fault> {
        loop {
            let Some(line) = self.line().await? else { break };
            let digits = line.split(';').next().unwrap_or_default();
            let is_size = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let Some(size) = usize::from_str_radix(digits, 16).ok().filter(|_| is_size) else {
                return violation(format!("a chunk of size {line:?}"));
            };
            if size == 0 {
                return self.trailers(response).await;
            }
            while self.bytes.len() < size + 2 && self.more().await {}
            let got = size.min(self.bytes.len());
            response.body.extend(self.bytes.drain(..got));
            if got < size || self.bytes.len() < 2 {
                break;
            }
            if self.bytes.drain(..2).collect::<Vec<_>>() != b"\r\n" {
                return violation("a chunk does not end where its size says");
            }
        }
        self.bytes.clear();
        response.end = End::Cut;
        Ok(())
    }

    async fn trailers(&mut self, response: &mut Received) -> Result<(), Fault> {
        let mut lines = Vec::new();
        loop {
            match self.line().await? {
                None => {
                    response.end = End::Cut;
                    return Ok(());
                }
                Some(line) if line.is_empty() => break,
                Some(line) => lines.push(line),
            }
        }
        response.trailers = section(lines.iter().map(String::as_str))?;
        Ok(())
    }

    /// A line without its end; `None` where the connection ends inside it.
    async fn line(&mut self) -> Result<Option<String>, Fault> {
        let end = loop {
            if let Some(at) = self.bytes.iter().position(|byte| *byte == b'\n') {
                break at;
            }
            if !self.more().await {
                return Ok(None);
            }
        };
        let line: String = self.bytes.drain(..=end).map(char::from).collect();
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(Some(line.to_owned())),
            None => violation(format!("a line that ends without CR: {line:?}")),
        }
    }
}
